"""Several data sets in one table: patients, splits, unknowns, leaks, duplicates.

Against truth that is written in the published layouts.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import one_line_error, run
from PIL import Image, ImageEnhance

from roi.data.table import read_table
from roi.data.targets import target_matrix
from roi.demo.source_layouts import WRITERS
from roi.labels import LABELS
from roi.sources import merge, table_counts
from roi.sources.duplicates import duplicate_groups, near_pairs, phash
from roi.sources.label_states import (
    ABSENT,
    NOT_LABELED,
    NOT_MENTIONED,
    PARENT_ONLY,
    PRESENT,
    UNCERTAIN,
    label_columns,
)
from roi.sources.merge import READERS
from roi.training.rows import split_validation

MAKE = "make_chexmultimodal_csv.py"


def truth(patients: int = 40, seed: int = 0, images: list[str] | None = None) -> pd.DataFrame:
    """Two images a patient, 14 findings drawn at 20 %."""
    rng = np.random.default_rng(seed)
    n = 2 * patients
    patient = np.repeat(np.arange(1, patients + 1), 2)
    return pd.DataFrame(
        {
            "image": images or [""] * n,
            "patient": patient,
            "study": np.tile([1, 2], patients),
            "view": np.where(rng.random(n) < 0.5, "PA", "AP"),
            "age": rng.integers(20, 90, n),
            "sex": np.where(rng.random(n) < 0.5, "M", "F"),
            "split": np.array(["test", "val", "train", "train"])[patient % 4],
            **{label: (rng.random(n) < 0.2).astype(int) for label in LABELS},
        }
    )


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All nine layouts, tables alone; mimic and cxrlt are of the same truth, as they are in life."""
    root = tmp_path_factory.mktemp("nine") / "Dataset"
    for n, name in enumerate(WRITERS):
        WRITERS[name](truth(seed=3 if name in ("mimic", "cxrlt") else n), root / name)
    return root


def made(root: Path, out: Path, *flags: object) -> tuple[pd.DataFrame, dict, str]:
    said = run(MAKE, "--datasets", "all", "--data_root", root, "--out_csv", out, "--no-check_images", *flags)
    return read_table(out), json.loads(out.with_name(f"{out.stem}_summary.json").read_text()), said


def test_the_union_holds_every_set_once_and_says_what_it_knows(nine: Path, tmp_path: Path) -> None:
    table, summary, said = made(nine, tmp_path / "u.csv")
    assert sorted(set(table["dataset"])) == sorted(set(READERS) - {"vinbigdata", "cxrlt"})
    assert "vinbigdata is left out" in said and table["image"].is_unique
    assert table["patient_id"].str.match(r"^(nih|openi|rexgradient|chexpert|mimic|padchest|vindr):[^:]+$").all()
    assert table.groupby("patient_id")["split"].nunique().max() == 1 and set(table["split"]) == {"train", "val", "test"}
    target = target_matrix(table, LABELS)
    for name, found in summary["datasets"].items():
        rows = target[(table["dataset"] == name).to_numpy()]
        assert found["images"] == len(rows)
        for j, label in enumerate(LABELS):
            cell = found["findings"][label]
            assert cell["positive"] == (rows[:, j] == 1).sum() and cell["negative"] == (rows[:, j] == 0).sum(), (
                name,
                label,
            )
            assert cell["uncertain"] + cell["unknown"] == np.isnan(rows[:, j]).sum() == sum(cell["because"].values()), (
                name,
                label,
            )
    assert summary["datasets"]["chexpert"]["findings"]["Hernia"]["because"] == {"the data set never looked for it": 80}


def test_cxrlt_fills_what_mimic_does_not_know(nine: Path, tmp_path: Path) -> None:
    both = made(nine, tmp_path / "u.csv")[0].query("dataset == 'mimic'").set_index("image")
    alone = merge.read_dataset("mimic", nine).set_index("image")
    given = merge.read_dataset("cxrlt", nine).set_index("image")
    row = [image.removeprefix("mimic/") for image in both.index]
    after = target_matrix(both, LABELS)
    before, more = alone.loc[row, list(LABELS)].to_numpy(), given.loc[row, list(LABELS)].to_numpy()
    expected = np.where(before <= PRESENT, before.astype(float), np.nan)
    fills = np.isin(before, (NOT_LABELED, PARENT_ONLY)) | (before == NOT_MENTIONED) & (more == PRESENT)
    expected[fills] = more[fills]
    assert fills.any() and np.array_equal(after, expected, equal_nan=True)
    assert not np.isnan(after[:, LABELS.index("Hernia")]).any()


def merged(
    mimic: list[int], cxrlt: list[int], splits: tuple[str, str] = ("train", "train")
) -> tuple[pd.DataFrame, dict[str, int]]:
    def one(cells: list[int], split: str) -> pd.DataFrame:
        row = {"image": "a", "split": split, "label_source": "x", "soft": ""}
        return pd.DataFrame([row | dict(zip(LABELS, cells + [ABSENT] * (14 - len(cells)), strict=True))])

    return merge.merge_cxrlt(one(mimic, splits[0]), one(cxrlt, splits[1]))


def test_each_rule_of_the_merge() -> None:
    mimic = [
        NOT_LABELED,
        NOT_LABELED,
        PARENT_ONLY,
        NOT_MENTIONED,
        NOT_MENTIONED,
        UNCERTAIN,
        ABSENT,
        PRESENT,
        NOT_LABELED,
    ]
    cxrlt = [PRESENT, ABSENT, PRESENT, PRESENT, ABSENT, PRESENT, PRESENT, ABSENT, NOT_LABELED]
    table, counts = merged(mimic, cxrlt, ("train", "test"))
    assert table.loc[0, list(LABELS[:9])].tolist() == [
        PRESENT,
        ABSENT,
        PRESENT,
        PRESENT,
        NOT_MENTIONED,
        UNCERTAIN,
        ABSENT,
        PRESENT,
        NOT_LABELED,
    ]
    assert table.loc[0, "split"] == "test" and merged(mimic, cxrlt, ("test", "train"))[0].loc[0, "split"] == "test"
    assert counts == {"images": 1, "cells_filled": 4, "moved_to_a_stricter_split": 1, "cells_that_disagree": 2}
    labels = label_columns(table[list(LABELS)].to_numpy())["labels"]
    assert labels[0] == "Atelectasis,Effusion,Infiltration,Pneumothorax" and table.loc[0, "label_source"] == "x+x"


def test_a_patient_keeps_its_split_whoever_else_is_there(nine: Path, tmp_path: Path) -> None:
    whole = made(nine, tmp_path / "u.csv")[0].set_index("image")["split"]
    run(MAKE, "--datasets", "padchest", "--data_root", nine, "--out_csv", tmp_path / "p.csv", "--no-check_images")
    alone = read_table(tmp_path / "p.csv").set_index("image")["split"]
    assert alone.equals(whole[alone.index]) and alone.nunique() == 3
    run(
        MAKE,
        "--datasets",
        "padchest",
        "--data_root",
        nine,
        "--out_csv",
        tmp_path / "q.csv",
        "--no-check_images",
        "--seed",
        1,
    )
    assert not read_table(tmp_path / "q.csv").set_index("image")["split"].equals(alone)


def test_drawn_splits_have_their_size_and_official_ones_stay() -> None:
    n = 20_000
    table = pd.DataFrame({"patient_id": [f"x:{i}" for i in range(n)], "split": "", "dataset": "x"})
    split, moved = merge.assign_splits(table, 0.1, 0.2, 0)
    share = split.value_counts() / n
    assert abs(share["test"] - 0.2) < 0.01 and abs(share["val"] - 0.1) < 0.01 and not moved  # 3.5 standard deviations
    table["split"] = ["train_val", "test"] * (n // 2)
    split, _ = merge.assign_splits(table, 0.1, 0.2, 0)
    assert (
        (split[1::2] == "test").all()
        and abs((split[::2] == "val").mean() - 0.1) < 0.011
        and not (split[::2] == "test").any()
    )
    table["split"] = ["train", "test"] * (n // 2)  # VinDr has no validation images of its own
    split, _ = merge.assign_splits(table, 0.1, 0.2, 0)
    assert (split[1::2] == "test").all() and abs((split[::2] == "val").mean() - 0.1) < 0.011
    mixed = pd.DataFrame(
        {"patient_id": ["a", "a", "b", "b", "c"], "split": ["train", "test", "val", "train", "train"], "dataset": "m"}
    )
    split, moved = merge.assign_splits(mixed, 0.1, 0.2, 0)
    assert split.tolist() == ["test", "test", "val", "val", "train"] and moved == {"m: moved to a stricter split": 2}


def test_views_and_splits_are_chosen_and_counted(nine: Path, tmp_path: Path) -> None:
    table, summary, said = made(nine, tmp_path / "u.csv")
    chosen, fewer, _ = made(nine, tmp_path / "pa.csv", "--views", "pa", "--splits", "train", "val")
    assert set(chosen["view"]) == {"PA"} and set(chosen["split"]) == {"train", "val"}
    assert len(chosen) == ((table["view"] == "PA") & (table["split"] != "test")).sum()
    left = sum(sum(fewer["facts"][f"other {what}, left out"].values()) for what in ("views", "splits"))
    assert left == len(table) - len(chosen)
    error = one_line_error(
        MAKE,
        "--datasets",
        "nih",
        "--data_root",
        nine,
        "--out_csv",
        tmp_path / "x.csv",
        "--no-check_images",
        "--views",
        "LATERAL",
    )
    assert "--views LATERAL: no image is left (there is AP, PA)" in error and not (tmp_path / "x.csv").exists()


def test_what_a_report_does_not_mention(nine: Path, tmp_path: Path) -> None:
    root = tmp_path / "Dataset"
    shutil.copytree(nine / "chexpert", root / "chexpert")
    csv = root / "chexpert" / "train.csv"
    raw = pd.read_csv(csv, dtype=str, keep_default_na=False)
    blank = raw.index[(raw["No Finding"] != "1.0") & (raw["Edema"] == "0.0")][:7]
    raw.loc[blank, "Edema"] = ""
    raw.to_csv(csv, index=False)
    asked = made(root, tmp_path / "u.csv")[1]["datasets"]["chexpert"]["findings"]["Edema"]
    negative = made(root, tmp_path / "n.csv", "--blank", "negative")[1]["datasets"]["chexpert"]["findings"]["Edema"]
    assert len(blank) == 7 == asked["unknown"] and asked["because"] == {"not mentioned": 7}
    assert (
        negative["unknown"] == 0
        and negative["negative"] == asked["negative"] + 7
        and negative["positive"] == asked["positive"]
    )


def test_published_format_has_fourteen_digits_and_a_warning(nine: Path, tmp_path: Path) -> None:
    table = made(nine, tmp_path / "u.csv")[0]
    said = run(
        MAKE,
        "--datasets",
        "all",
        "--data_root",
        nine,
        "--out_csv",
        tmp_path / "m.csv",
        "--no-check_images",
        "--format",
        "metadata",
    )
    old = pd.read_csv(tmp_path / "m.csv", dtype=str)
    assert list(old) == ["Image Index", "Processed Image Path", "Harmonized Labels", "Dataset"]
    digits = np.array([[int(d) for d in field] for field in old["Harmonized Labels"]])
    target = target_matrix(table, LABELS)
    assert digits.shape == (len(table), 14) and np.array_equal(digits == 1, target == 1)
    assert f"warning: {int(np.isnan(target).sum()):,} cells that are unknown are 0" in said
    assert old["Processed Image Path"].tolist() == [f"{nine}/{image}" for image in table["image"]]


def test_tables_made_of_nih_images_are_audited(nine: Path, tmp_path: Path) -> None:
    nih = read_table_of(nine, "nih", tmp_path)
    rows = nih["image"].str.split("/").str[-1]
    (tmp_path / "rsna.csv").write_text(
        "patientId,img\n"
        + "".join(f"p{n},{name.replace('.png', '.dcm')}\n" for n, name in enumerate(rows[:10]))
        + "x,99999999_000.png\n"
    )
    facts = made(nine, tmp_path / "u.csv", "--audit", tmp_path / "rsna.csv")[1]["facts"][
        f"audit of {tmp_path / 'rsna.csv'}"
    ]
    of = nih["split"][:10].value_counts()
    assert facts == {
        "nih_images_named": 11,
        "in_this_table": 10,
        **{f"of_{part}": int(of.get(part, 0)) for part in ("train", "val", "test")},
    }


def read_table_of(root: Path, name: str, tmp_path: Path) -> pd.DataFrame:
    run(MAKE, "--datasets", name, "--data_root", root, "--out_csv", tmp_path / f"only_{name}.csv", "--no-check_images")
    return read_table(tmp_path / f"only_{name}.csv")


@pytest.fixture(scope="module")
def pictures(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures of the demo set as NIH's, the first 8 of them again as PadChest's in another size and brightness."""
    root = tmp_path_factory.mktemp("pictures") / "Dataset"
    files = sorted(map(str, demo.glob("images_*/images/*.png")))[:24]
    WRITERS["nih"](truth(12, images=files), root / "nih")
    folder = root.parent / "changed"
    folder.mkdir()
    for n, name in enumerate(files[:8]):
        ImageEnhance.Brightness(Image.open(name).convert("L").resize((96, 96), Image.Resampling.BICUBIC)).enhance(
            0.9
        ).save(folder / f"{n}.png")
    WRITERS["padchest"](truth(4, 5, images=[str(folder / f"{n}.png") for n in range(8)]), root / "padchest")
    return root


def test_equal_pictures_do_not_stand_in_two_splits(pictures: Path, tmp_path: Path) -> None:
    make = (MAKE, "--datasets", "nih", "padchest", "--data_root", pictures)
    run(*make, "--out_csv", tmp_path / "all.csv")
    whole = read_table(tmp_path / "all.csv")
    assert len(whole) == 32
    said = run(*make, "--out_csv", tmp_path / "u.csv", "--check_duplicates", "--workers", 1)
    groups = pd.read_csv(tmp_path / "u_duplicates.csv")
    assert (
        len(groups) == 16
        and (groups.groupby("group")["dataset"].nunique() == 2).all()
        and "pictures with a copy 16" in said
    )
    rank = whole.set_index("image")["split"].map(merge.RANK)
    strictest = groups.groupby("group")["image"].transform(lambda names: rank[names].max())
    expected = groups["image"][groups["image"].map(rank) < strictest]
    assert sorted(groups["image"][groups["left_out"]]) == sorted(expected) and len(expected) > 0
    assert sorted(set(whole["image"]) - set(read_table(tmp_path / "u.csv")["image"])) == sorted(expected)


def test_pictures_that_others_test_on_leave_training(pictures: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    first = read_table_of(pictures, "nih", tmp_path).query("split == 'train'")["image"].iloc[0].split("/")[-1]
    Image.open(next(pictures.glob(f"nih/images_*/images/{first}"))).convert("L").resize(
        (64, 64), Image.Resampling.BICUBIC
    ).save(elsewhere / "other.jpg")
    make = (MAKE, "--datasets", "nih", "--data_root", pictures, "--workers", 1)
    run(*make, "--out_csv", tmp_path / "u.csv", "--check_duplicates", elsewhere)
    left = read_table(tmp_path / "u.csv")
    assert len(left) == 23 and not left["image"].str.endswith(first).any()
    assert "no picture is there" in one_line_error(
        *make, "--out_csv", tmp_path / "v.csv", "--check_duplicates", tmp_path / "nowhere"
    )


def test_near_pairs_are_those_of_all_with_all() -> None:
    rng = np.random.default_rng(0)
    bits = rng.random((300, 256)) < 0.5
    for n in range(60):  # copies with 0 to 11 bits changed
        bits[100 + n] = bits[n]
        bits[100 + n, rng.choice(256, n % 12, replace=False)] ^= True
    apart = (bits[:, None] ^ bits[None]).sum(axis=2)
    i, j = np.nonzero(np.triu(apart <= 10, 1))
    found = near_pairs(np.packbits(bits, axis=1))
    assert len(i) == 55 and np.array_equal(found[0], i) and np.array_equal(found[1], j)
    assert len(set(duplicate_groups(np.packbits(bits, axis=1)))) == 300 - 55


def test_real_pictures_are_told_apart_and_their_copies_are_not(shared: Path) -> None:
    """NIH at 256 and at 1024 pixels: the same picture within 10 bits, 30 other ones at least 42 apart."""
    large = {path.name: path for path in shared.glob("nih_1024/images_*/images/*.png")}
    names = sorted(large)[:30]

    def bits(path: Path) -> np.ndarray:
        from roi.data.images import read_grey

        return phash(read_grey(path, 64))

    a, b = (
        np.stack([bits(folder) for folder in paths])
        for paths in ([large[n] for n in names], [shared / "nih_256" / "images" / n for n in names])
    )
    apart = (a[:, None] ^ b[None]).sum(axis=2)
    assert np.diag(apart).max() <= 10 and apart[~np.eye(30, dtype=bool)].min() >= 42


def test_missing_images_are_counted_and_listed(pictures: Path, tmp_path: Path) -> None:
    root = tmp_path / "Dataset"
    shutil.copytree(pictures, root)
    gone = sorted(root.glob("nih/images_*/images/*.png"))[:3]
    for path in gone:
        path.unlink()
    make = (MAKE, "--datasets", "all", "--data_root", root, "--out_csv", tmp_path / "u.csv")
    assert "3 of 32 images are missing" in one_line_error(*make) and not (tmp_path / "u.csv").exists()
    assert (tmp_path / "u_missing.txt").read_text().split() == [f"nih/{path.name}" for path in gone]
    assert "their rows are left out" in run(*make, "--allow_missing") and len(read_table(tmp_path / "u.csv")) == 29
    table = read_table(tmp_path / "u.csv")
    assert all((root / image).is_file() for image in table["image"])


def test_wrong_requests_are_one_line(nine: Path, tmp_path: Path) -> None:
    def error(*flags: object) -> str:
        said = one_line_error(MAKE, "--out_csv", tmp_path / "x.csv", *flags)
        assert not list(tmp_path.glob("x*"))
        return said

    assert "no such folder (--data_root)" in error("--datasets", "all", "--data_root", tmp_path / "nowhere")
    assert "no folder of a data set is there (looked for nih, openi" in error(
        "--datasets", "all", "--data_root", tmp_path
    )
    assert "--datasets mimc: no such data set (known: all, nih" in error("--datasets", "mimc", "--data_root", nine)
    assert "--datasets nih: there is no folder" in error("--datasets", "nih", "--data_root", tmp_path)
    assert "the same X-rays under other names" in error("--datasets", "vindr", "vinbigdata", "--data_root", nine)
    assert "--views goes with --datasets, not with --src_csv" in error(
        "--src_csv", nine / "nih" / "Data_Entry_2017.csv", "--views", "PA"
    )
    assert "--filter_list goes with --src_csv" in error(
        "--datasets", "nih", "--filter_list", "x.txt", "--data_root", nine
    )
    assert "--check_duplicates looks at the images" in error(
        "--datasets", "nih", "--data_root", nine, "--no-check_images", "--check_duplicates"
    )
    assert "all goes alone" in error("--datasets", "all", "nih", "--data_root", nine)
    assert "leave nobody to train on" in error(
        "--datasets", "nih", "--data_root", nine, "--val_fraction", 0.6, "--test_fraction", 0.6
    )
    assert "is the table itself" in error("--datasets", "nih", "--data_root", nine, "--summary", tmp_path / "x.csv")
    (tmp_path / "pixels.csv").write_text("image\nfoo.png\n")
    assert "names no image of NIH" in error(
        "--datasets", "nih", "--data_root", nine, "--no-check_images", "--audit", tmp_path / "pixels.csv"
    )
    assert "80 of 80 images are missing" in run(
        MAKE, "--datasets", "nih", "--data_root", nine, "--out_csv", tmp_path / "y.csv", code=2
    )


def test_a_table_that_is_there_is_not_replaced(nine: Path, tmp_path: Path) -> None:
    make = (MAKE, "--datasets", "nih", "--data_root", nine, "--out_csv", tmp_path / "u.csv", "--no-check_images")
    run(*make)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run(*make)
    assert "exists and differs" in one_line_error(*make, "--seed", 5)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    run(*make, "--seed", 5, "--overwrite")
    assert (tmp_path / "u.csv").read_bytes() != before["u.csv"]


def test_rows_marked_val_are_the_validation_rows() -> None:
    table = pd.DataFrame(
        {
            "image": [f"{n}.png" for n in range(8)],
            "patient_id": list("aabbccdd"),
            "split": ["val", "", "", "", "train", "", "VAL ", ""],
        }
    )
    train, val = split_validation(table, 0.1, 0)
    assert sorted(set(val["patient_id"])) == ["a", "d"] and len(val) == 4  # the other images of their patients too
    for all_or_none in ("val", "train"):
        train, val = split_validation(table.assign(split=all_or_none), 0.3, 0)
        assert len(train) == 6 and len(val) == 2 and not set(train["patient_id"]) & set(val["patient_id"])


def test_paths_are_below_the_data_root_however_it_is_spelled(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(MAKE, "--datasets", "all", "--data_root", pictures, "--out_csv", tmp_path / "a.csv")
    monkeypatch.chdir(pictures)
    for n, root in enumerate((".", "../Dataset/", "./")):
        run(MAKE, "--datasets", "all", "--data_root", root, "--out_csv", tmp_path / f"b{n}.csv")
        assert (tmp_path / f"b{n}.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()


def test_duplicates_are_sought_before_splits_are_chosen(pictures: Path, tmp_path: Path) -> None:
    make = (MAKE, "--datasets", "nih", "padchest", "--data_root", pictures, "--check_duplicates", "--workers", 1)
    run(*make, "--out_csv", tmp_path / "all.csv")
    run(*make, "--out_csv", tmp_path / "train.csv", "--splits", "train")
    whole = read_table(tmp_path / "all.csv")
    assert read_table(tmp_path / "train.csv")["image"].tolist() == whole["image"][whole["split"] == "train"].tolist()


def test_nih_without_its_lists_is_refused(nine: Path, tmp_path: Path) -> None:
    shutil.copytree(nine / "nih", tmp_path / "Dataset" / "nih")
    (tmp_path / "Dataset" / "nih" / "test_list.txt").unlink()
    said = one_line_error(
        MAKE,
        "--datasets",
        "nih",
        "--data_root",
        tmp_path / "Dataset",
        "--out_csv",
        tmp_path / "x.csv",
        "--no-check_images",
    )
    assert "20 of its 80 images are in neither train_val_list.txt nor test_list.txt" in said


def test_patients_without_an_id_are_those_of_the_file_names(nine: Path, tmp_path: Path) -> None:
    shutil.copytree(nine / "nih", tmp_path / "Dataset" / "nih")
    csv = tmp_path / "Dataset" / "nih" / "Data_Entry_2017.csv"
    csv.write_text(csv.read_text().replace("Patient ID", "Patient Number"))
    run(
        MAKE,
        "--datasets",
        "nih",
        "--data_root",
        tmp_path / "Dataset",
        "--out_csv",
        tmp_path / "x.csv",
        "--no-check_images",
    )
    table = read_table(tmp_path / "x.csv")
    assert table["patient_id"].tolist() == read_table_of(nine, "nih", tmp_path)["patient_id"].tolist()


def test_cxrlt_speaks_before_blanks_become_negative(nine: Path, tmp_path: Path) -> None:
    unknown = target_matrix(made(nine, tmp_path / "u.csv")[0].query("dataset == 'mimic'"), LABELS)
    negative = target_matrix(
        made(nine, tmp_path / "n.csv", "--blank", "negative")[0].query("dataset == 'mimic'"), LABELS
    )
    assert np.array_equal(unknown == 1, negative == 1)
    assert not np.isnan(negative).any()


def test_labels_that_are_none_of_ours_are_counted_and_near_ones_refused(nine: Path, tmp_path: Path) -> None:
    root = tmp_path / "Dataset"
    shutil.copytree(nine / "nih", root / "nih")
    csv = root / "nih" / "Data_Entry_2017.csv"
    text = csv.read_text()
    csv.write_text(text.replace(",No Finding,", ",Fracture|No Finding,"))
    count = text.count(",No Finding,")
    facts = made(root, tmp_path / "u.csv")[1]["facts"]
    assert count and facts["nih, labels that are none of the 14"] == {"Fracture": count}
    assert "Fracture" not in (tmp_path / "u.csv").read_text()
    csv.write_text(text.replace("Cardiomegaly", "Cardiomegally"))
    make = (MAKE, "--datasets", "nih", "--data_root", root, "--no-check_images", "--out_csv", tmp_path / "v.csv")
    assert "unknown label 'Cardiomegally' in" in one_line_error(
        *make
    ) and "did you mean 'Cardiomegaly'?" in one_line_error(*make)


# Every set alone and every filter: a fact may have nothing to count.


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All nine layouts with frontal and lateral images."""
    root = tmp_path_factory.mktemp("alone") / "Dataset"
    for n, name in enumerate(WRITERS):
        known = truth(patients=12, seed=n)
        WRITERS[name](known.assign(view=["PA", "LATERAL", "AP"] * 8), root / name)
    return root


VIEWS_OF_ALL = ("--views", "PA", "AP", "FRONTAL", "LATERAL", "UNKNOWN")
FILTERS = {
    "neither": (),
    "views": ("--views", "PA", "AP", "FRONTAL", "UNKNOWN"),
    "views that remove nothing": VIEWS_OF_ALL,
    "splits": ("--splits", "train", "val"),
    "both": ("--views", "PA", "AP", "FRONTAL", "UNKNOWN", "--splits", "train"),
    "both that remove nothing": (*VIEWS_OF_ALL, "--splits", "train", "val", "test"),
}


@pytest.mark.parametrize("name", list(WRITERS))
def test_every_set_alone_with_every_filter(alone: Path, tmp_path: Path, name: str) -> None:
    """What is left and what is counted are all rows, and every count is printed."""
    make = (MAKE, "--datasets", name, "--data_root", alone, "--no-check_images")
    whole = read_table_of(alone, name, tmp_path)
    for filters, flags in FILTERS.items():
        out = tmp_path / "u.csv"
        said = run(*make, "--out_csv", out, "--overwrite", *flags)
        table = read_table(out)
        facts = json.loads((tmp_path / "u_summary.json").read_text())["facts"]
        left = [fact for key, fact in facts.items() if key.endswith("left out")]
        assert len(table) + sum(sum(fact.values()) for fact in left) == len(whole), filters
        if filters in ("views", "both"):
            assert set(table["view"]) <= {"PA", "AP", "FRONTAL", ""}
        if "nothing" in filters:
            assert len(table) == len(whole) and "other views, left out: none" in said and left[0] == {}


def test_the_command_of_the_readme_on_a_set_from_which_it_removes_nothing(nine: Path, tmp_path: Path) -> None:
    flags = (
        "--data_root",
        nine,
        "--views",
        "PA",
        "AP",
        "FRONTAL",
        "--no-check_images",
        "--out_csv",
        tmp_path / "u.csv",
    )
    assert "other views, left out: none" in run(MAKE, "--datasets", "vindr", *flags)


def test_a_fact_is_told_whatever_it_holds() -> None:
    assert table_counts.format_fact("views", {}) == "views: none"
    assert (
        table_counts.format_fact("moved", 12_345) == "moved: 12,345"
        and table_counts.format_fact("moved", 0) == "moved: 0"
    )
    assert (
        table_counts.format_fact("views", {"padchest not said": 1_200, "nih AP": 3})
        == "views: padchest not said 1,200, nih AP 3"
    )
    assert table_counts.format_fact("audit", {"in_this_table": 0}) == "audit: in this table 0"
    many = {f"label {n}": n for n in range(9)}
    assert table_counts.format_fact("others", many).endswith("label 5 5, and 3 more")
    assert table_counts.format_fact("audit", {"nested": {}}) == "audit: nested {}"


def padchest_with_views(nine: Path, root: Path, words: list[str]) -> pd.Series:
    """PadChest with the views `words` in its first rows -> how often each word stands there."""
    shutil.copytree(nine / "padchest", root / "padchest")
    path = next((root / "padchest").glob("PADCHEST*"))
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[: len(words) - 1, "Projection"] = words
    table.to_csv(path, index=False)
    return table["Projection"].value_counts()


def test_lying_patients_are_frontal_and_ribs_are_left_out(nine: Path, tmp_path: Path) -> None:
    """AP_horizontal is AP; COSTAL and EXCLUDE are left out and counted, UNK says nothing, an unknown word is named."""
    words = ["AP_horizontal"] * 9 + ["COSTAL"] * 3 + ["EXCLUDE", "UNK", "UNK", "Skyline"]
    projections = padchest_with_views(nine, tmp_path / "Dataset", words)
    table, summary, said = made(tmp_path / "Dataset", tmp_path / "u.csv", "--views", "PA", "AP", "FRONTAL")
    assert table["view"].value_counts().to_dict() == {"PA": projections["PA"], "AP": projections["AP"] + 9}
    assert summary["facts"]["no view of the chest, left out"] == {"padchest COSTAL": 3, "padchest EXCLUDE": 1}
    assert summary["facts"]["other views, left out"] == {"padchest not said": 2, "padchest SKYLINE": 1}
    assert "padchest, views of no known name, kept under it: SKYLINE 1" in said
    assert "no view of the chest, left out: padchest COSTAL 3, padchest EXCLUDE 1" in said

    everything = made(tmp_path / "Dataset", tmp_path / "all.csv")[0]
    assert len(everything) == 80 - 4 and set(everything["view"]) == {"PA", "AP", "", "SKYLINE"}
    asked = made(tmp_path / "Dataset", tmp_path / "asked.csv", "--views", "costal", "skyline", "UNKNOWN")[0]
    assert asked["view"].value_counts().to_dict() == {"COSTAL": 3, "": 2, "SKYLINE": 1}
    make = (MAKE, "--datasets", "padchest", "--data_root", tmp_path / "Dataset", "--no-check_images")
    said = one_line_error(*make, "--out_csv", tmp_path / "x.csv", "--views", "PA", "FRONTL")
    assert "--views FRONTL: no such view" in said


def test_a_set_without_any_usable_image_is_refused(nine: Path, tmp_path: Path) -> None:
    padchest_with_views(nine, tmp_path / "Dataset", ["COSTAL"] * 80)
    make = (MAKE, "--datasets", "padchest", "--data_root", tmp_path / "Dataset", "--no-check_images")
    said = one_line_error(*make, "--out_csv", tmp_path / "x.csv")
    assert "no image is left: no view of the chest, left out: padchest COSTAL 80" in said


def test_kaggles_resized_copy_is_found_with_its_lists(pictures: Path, tmp_path: Path) -> None:
    """images-224/images-224 and lists of other names: the same rows, splits and test images as from the shards."""
    root = tmp_path / "Dataset" / "nih"
    (root / "images-224" / "images-224").mkdir(parents=True)
    for path in pictures.glob("nih/images_*/images/*.png"):
        shutil.copyfile(path, root / "images-224" / "images-224" / path.name)
    shutil.copyfile(pictures / "nih" / "Data_Entry_2017.csv", root / "Data_Entry_2017.csv")
    for split in ("train_val", "test"):
        shutil.copyfile(pictures / "nih" / f"{split}_list.txt", root / f"{split}_list_NIH.txt")
    flags = ("--datasets", "nih", "--out_csv")
    run(MAKE, *flags, tmp_path / "a.csv", "--data_root", pictures)
    run(MAKE, *flags, tmp_path / "b.csv", "--data_root", tmp_path / "Dataset")
    shards, resized = read_table(tmp_path / "a.csv"), read_table(tmp_path / "b.csv")
    assert resized["image"].str.startswith("nih/images-224/images-224/").all()
    pd.testing.assert_frame_equal(shards.assign(image=""), resized.assign(image=""))
    run(
        MAKE,
        "--src_csv",
        root / "Data_Entry_2017.csv",
        "--image_dir",
        root / "images",
        "--out_csv",
        tmp_path / "one.csv",
    )
    assert len(read_table(tmp_path / "one.csv")) == len(shards)


def test_images_that_are_not_found_are_said_with_what_is_there(pictures: Path, tmp_path: Path) -> None:
    root = tmp_path / "Dataset" / "nih"
    shutil.copytree(pictures / "nih", root)
    (root / "pictures").mkdir()
    for shard in root.glob("images_*"):
        shutil.move(shard, root / "pictures" / shard.name)
    said = one_line_error(MAKE, "--datasets", "nih", "--data_root", root.parent, "--out_csv", tmp_path / "x.csv")
    assert "24 of 24 images are missing" in said
    assert f"{root} holds Data_Entry_2017.csv, pictures, test_list.txt, train_val_list.txt;" in said

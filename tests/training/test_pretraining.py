"""Pre-train, fine-tune, a new head: what comes from a checkpoint by --weights, and whom the new run has then seen."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import one_line_error, run

from roi.data.splits import belongs_to, read_list
from roi.data.table import read_table
from roi.data.targets import target_matrix
from roi.training import checkpoint, start
from roi.training.rows import RowFlags, choose_rows

SMALL = ("--backbone", "test_resnet", "--img_size", 32, "--device", "cpu", "--workers", 0, "--batch_size", 8)


def command(demo: Path, table: Path, save: Path, *more: object) -> tuple[object, ...]:
    data = ("--train_csv", table, "--image_root", demo, "--save", save, "--lr", 1e-3, "--val_fraction", 0.3)
    return ("train_roi_baselines.py", *data, *SMALL, *more)


@pytest.fixture(scope="module")
def pretrained(demo: Path, tables: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the first half of the patients."""
    out = tmp_path_factory.mktemp("pretrained")
    table = pd.read_csv(tables[0], dtype=str, keep_default_na=False)
    names = sorted(set(table["patient_id"]))
    table[table["patient_id"].isin(names[: len(names) // 2])].to_csv(out / "half.csv", index=False)
    flags = ("--mode", "standard", "--weights", "none", "--epochs", 1)
    run(*command(demo, out / "half.csv", out / "pre.pt", *flags))
    return out / "pre.pt"


def test_fine_tuning_remembers_whom_the_first_weights_have_seen(
    demo: Path, tables: tuple[Path, Path], pretrained: Path, tmp_path: Path
) -> None:
    flags = ("--mode", "standard", "--weights", pretrained, "--epochs", 1, "--classes", "Mass,Nodule,Effusion")
    said = run(*command(demo, tables[0], tmp_path / "c.pt", *flags, "--seed", 1))
    assert "came Effusion, Mass, Nodule; new none (3 of 3 classes came)" in said
    before, after = checkpoint.load(pretrained), checkpoint.load(tmp_path / "c.pt")
    assert torch.isin(before["train_patients"], after["train_patients"]).all()
    assert not torch.isin(before["train_images"], after["train_images"]).all()
    assert "WARNING: --weights was trained on the patients of" in said
    # It goes on as it began.
    run(*command(demo, tables[0], tmp_path / "c.pt", *flags[:-3], 2, *flags[-2:], "--seed", 1, "--resume", "auto"))
    assert torch.equal(checkpoint.load(tmp_path / "c.pt")["train_patients"], after["train_patients"])


def test_a_contaminated_checkpoint_is_refused(
    demo: Path, tables: tuple[Path, Path], pretrained: Path, tmp_path: Path
) -> None:
    state = torch.load(pretrained, weights_only=True)
    torch.save(state | {"contaminated": True}, tmp_path / "bad.pt")
    flags = ("--mode", "standard", "--weights", tmp_path / "bad.pt")
    error = one_line_error(*command(demo, tables[0], tmp_path / "c.pt", *flags))
    assert "trained on test images; what starts from it has seen them too" in error


def test_weights_that_are_not_what_they_seem_are_said(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(pretrained, weights_only=True)
    torch.save(state | {"epoch": 0, "steps": 0}, tmp_path / "new.pt")
    torch.save(state | {"args": state["args"] | {"fusion": "attention"}}, tmp_path / "study.pt")
    remarks = {pretrained: "", tmp_path / "new.pt": "was never trained (epoch 0, step 0)"}
    remarks[tmp_path / "study.pt"] = "is a model of studies: its backbone is taken, its fusion is not"
    for path, remark in remarks.items():
        assert start.pretrained(str(path), False, start.Start(path)) is not None
        said = capsys.readouterr().out
        assert remark in said and bool(said) == bool(remark)


def test_crt_trains_a_new_head_on_features_that_stay(
    demo: Path, tables: tuple[Path, Path], pretrained: Path, tmp_path: Path
) -> None:
    """Decoupling (Kang et al. 2020). That the head is new: another head of the checkpoint changes nothing."""
    state = torch.load(pretrained, weights_only=True)
    other_head = {name: value + name.startswith("fc.") * 1.0 for name, value in state["model"].items()}
    torch.save(state | {"model": other_head}, tmp_path / "other.pt")
    results = []
    for weights in (pretrained, tmp_path / "other.pt"):
        save = tmp_path / f"from_{weights.name}"
        said = run(*command(demo, tables[0], save, "--recipe", "crt", "--weights", weights, "--epochs", 2))
        assert "of the last layer came no class" in said and "come more often" in said
        results.append(checkpoint.load(save))
    trained = results[0]["model"]
    moved = {name for name in trained if not torch.equal(trained[name], state["model"][name])}
    assert moved == {"fc.weight", "fc.bias"}
    assert all(torch.equal(results[1]["model"][name], trained[name]) for name in ("fc.weight", "fc.bias"))
    assert results[0]["args"]["sampler"] == "repeat_factor" and results[0]["args"]["repeat_threshold"] == 1


def test_a_student_learns_what_its_teacher_says(
    demo: Path, tables: tuple[Path, Path], pretrained: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(pretrained.with_name("half.csv"), dtype=str, keep_default_na=False)
    table = table[table["split"] != "test"].assign(unknown="Nodule")
    table["labels"] = table["labels"].str.replace("Nodule", "").str.strip(",").str.replace(",,", ",")
    table.to_csv(tmp_path / "unknown.csv", index=False)
    where = ("--image_root", demo, "--device", "cpu", "--workers", 0)
    teacher = ("--checkpoint", pretrained, "--csv", tmp_path / "unknown.csv", *where)
    run("infer_roi_consistency.py", *teacher, "--save_json", tmp_path / "teacher.json")
    files = ("--soften", tmp_path / "teacher.json", "--csv", tmp_path / "unknown.csv")
    (tmp_path / "tests.txt").write_text(Path(table["image"].iloc[0]).name + "\n")
    tests = ("--exclude_csv", tmp_path / "tests.txt")
    assert "test patients" in one_line_error(
        "make_chexmultimodal_csv.py", *files, *tests, "--out_csv", tmp_path / "s.csv"
    )
    kept = table[~belongs_to(read_table(tmp_path / "unknown.csv"), [read_list(tmp_path / "tests.txt")])]
    kept.to_csv(tmp_path / "unknown.csv", index=False)
    run("make_chexmultimodal_csv.py", *files, *tests, "--out_csv", tmp_path / "s.csv")
    flags = ("--mode", "standard", "--weights", pretrained, "--epochs", 1)
    said = run(*command(demo, tmp_path / "s.csv", tmp_path / "c.pt", *flags))
    # Neither present nor absent for certain, in training and in validation.
    row = next(line.split() for line in said.splitlines() if line.startswith("Nodule "))
    assert row[1:3] == ["0", "0"] and row[4:6] == ["0", "0"]
    rows = choose_rows(row_flags(tmp_path, train_csv=str(tmp_path / "s.csv"), classes="Nodule"))
    learned = target_matrix(rows.train, ["Nodule"], seed=0)
    assert ((learned > 0) & (learned < 1)).all()
    assert rows.val is not None and np.isnan(target_matrix(rows.val, ["Nodule"])).all()


@pytest.mark.parametrize("weights", ["imagenet", "none"])
def test_a_new_head_needs_a_checkpoint(weights: str, demo: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    error = one_line_error(*command(demo, tables[0], tmp_path / "c.pt", "--recipe", "crt", "--weights", weights))
    assert f"--new_head with --weights {weights}: there is no head" in error and "give --weights CKPT" in error
    assert not list(tmp_path.iterdir())


def row_flags(folder: Path, **more: object) -> RowFlags:
    defaults: dict[str, object] = {
        "train_csv": str(folder / "train.csv"),
        "image_root": str(folder),
        "classes": "Mass",
        "val_csv": None,
        "val_fraction": 0.1,
        "exclude_csv": None,
        "allow_leakage": False,
        "max_samples": None,
        "max_train_samples": None,
        "uncertain": "ignore",
        "seed": 0,
    }
    return RowFlags(**(defaults | more))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def studies_of_mimic() -> pd.DataFrame:
    """As many views a study as MIMIC-CXR has, of a tenth of its studies; a study is a patient."""
    counts = np.repeat([1, 2, 3, 4], [6948, 7130, 1353, 142])
    study = np.repeat(np.arange(len(counts)), counts)
    images = [f"{n}.png" for n in range(len(study))]
    labels = np.where(study % 3 == 0, "Mass", "")
    ids = {"patient_id": [f"p{n}" for n in study], "study_id": [f"s{n}" for n in study]}
    return pd.DataFrame({"image": images, "labels": labels, **ids})


def test_a_table_split_by_image_is_refused_with_the_number(studies_of_mimic: pd.DataFrame, tmp_path: Path) -> None:
    """Published code drew images: 67.5 % of its validation images have another image of their study in training."""
    table = studies_of_mimic
    drawn = np.random.default_rng(0).random(len(table)) < 0.1
    table[~drawn].to_csv(tmp_path / "train.csv", index=False)
    table[drawn].to_csv(tmp_path / "val.csv", index=False)
    with pytest.raises(ValueError, match=r"shares [\d,]+ patients and 0 images.* of its images are of such") as refused:
        choose_rows(row_flags(tmp_path, val_csv=str(tmp_path / "val.csv")))
    share = belongs_to(table[drawn], [table[~drawn]]).mean()
    assert f"{share:.1%} of its images" in str(refused.value) and abs(share - 0.675) < 0.02


def test_validation_shares_no_study_and_no_patient(studies_of_mimic: pd.DataFrame, tmp_path: Path) -> None:
    studies_of_mimic.to_csv(tmp_path / "train.csv", index=False)
    rows = choose_rows(row_flags(tmp_path))
    assert rows.val is not None and len(rows.val) > 2000
    for column in ("study_id", "patient_id"):
        assert not set(rows.train[column]) & set(rows.val[column])


def test_max_samples_draws_whole_studies(studies_of_mimic: pd.DataFrame, tmp_path: Path) -> None:
    studies_of_mimic.to_csv(tmp_path / "train.csv", index=False)
    rows = choose_rows(row_flags(tmp_path, max_samples=100, val_fraction=0.0), by_study=True)
    assert rows.train["study_id"].nunique() == 100
    of_study = studies_of_mimic["study_id"].value_counts()
    taken = rows.train["study_id"].value_counts()
    assert (of_study[taken.index] == taken).all() and taken.max() > 1
    images = choose_rows(row_flags(tmp_path, max_samples=100, val_fraction=0.0))
    assert len(images.train) == 100

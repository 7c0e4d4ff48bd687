"""train_multiview.py and its predictions, from a table with study_id to scores."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import one_line_error, run
from PIL import Image

import train_multiview
from roi.models.fusion import ViewAttention
from roi.models.queries import write_queries
from roi.training import checkpoint
from roi.training.multiview.setup import build_study_run
from roi.training.training_run import TrainingRun

CPU = torch.device("cpu")
SIDE = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 patients with a study each, of 1 to 6 images; a bright corner is a Mass, and shows in one image alone."""
    root = tmp_path_factory.mktemp("studies")
    rng = np.random.default_rng(0)
    rows = []
    for study in range(40):
        images = [1, 2, 2, 3, 6][study % 5]
        mass = bool(rng.integers(2))
        seen_in = rng.integers(images)
        for n in range(images):
            pixels = rng.integers(0, 120, (SIDE, SIDE), dtype=np.uint8)
            if mass and n == seen_in:
                pixels[4:16, 4:16] += 110
            name = f"s{study}_{n}.png"
            Image.fromarray(pixels).save(root / name)
            view = ["PA", "LATERAL", "AP", "", "LL", "PA"][n]
            labels = "Mass" if mass else "Edema" if study % 3 == 0 else ""
            rows.append((name, labels, f"p{study}", f"s{study}" if images > 1 else "", view))
    columns = ["image", "labels", "patient_id", "study_id", "view"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "table.csv", index=False)
    (root / "model").mkdir()
    (root / "model" / "config.json").write_text("{}")
    vectors = rng.normal(size=(3, 12))
    write_queries(root / "queries.npz", ["Edema", "Hernia", "Mass"], vectors, "{}", root / "model")
    return root


def flags(data: Path, out: Path, *more: object) -> list[str]:
    where = ("--train_csv", data / "table.csv", "--image_root", data, "--cache_dir", data / "cache")
    small = ("--img_size", SIDE, "--batch_size", 8, "--workers", 0, "--device", "cpu", "--val_fraction", 0.3)
    return list(map(str, (*where, "--save", out / "s.pt", *small, *more)))


SCRATCH = ("--backbone", "test_resnet", "--weights", "none", "--epochs", 2)
ATTENTION = ("--fusion", "attention", "--fusion_width", 32)


def built(data: Path, out: Path, *more: object) -> TrainingRun:
    args = train_multiview.parse_args(flags(data, out, *SCRATCH, *more))
    torch.manual_seed(args.seed)
    return build_study_run(args, CPU)


class Killed(BaseException):
    pass


QUERIES = "queries.npz"  # in the folder of the data


@pytest.mark.parametrize(
    "fusion", [(), (*ATTENTION, "--ema", 0.9, "--augment", "light"), (*ATTENTION, "--queries", QUERIES)]
)
def test_a_run_that_is_killed_goes_on_bit_for_bit(
    data: Path, tmp_path: Path, fusion: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    fusion = tuple(data / flag if flag == QUERIES else flag for flag in fusion)
    draws = ("--max_views", 3, "--view_dropout", 0.3, "--save_every_steps", 1, *fusion)
    (tmp_path / "whole").mkdir()
    built(data, tmp_path / "whole", *draws).run()
    (tmp_path / "parts").mkdir()
    save = TrainingRun.save_checkpoint

    def save_and_die(self: TrainingRun) -> None:
        save(self)
        if self.steps == 5:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "save_checkpoint", save_and_die)
        with pytest.raises(Killed):
            built(data, tmp_path / "parts", *draws).run()
    assert checkpoint.load(tmp_path / "parts" / "s.pt")["batch"] > 0
    built(data, tmp_path / "parts", *draws, "--resume", "auto").run()
    whole, parts = (checkpoint.load(tmp_path / name / "s.pt") for name in ("whole", "parts"))
    assert whole["steps"] == parts["steps"] and torch.equal(whole["train_patients"], parts["train_patients"])
    for name in ("model", "fusion") if fusion else ("model",):
        for key, value in whole[name].items():  # type: ignore[literal-required]
            assert torch.equal(value, parts[name][key]), key  # type: ignore[literal-required]
    for line, other in zip(whole["log"], parts["log"], strict=True):
        # All but images_per_s and seconds.
        assert [a for a, b in zip(line.split(","), other.split(","), strict=True) if a != b].__len__() <= 2


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image model, and a study model that began from it."""
    out = tmp_path_factory.mktemp("trained")
    table = ("--train_csv", data / "table.csv", "--image_root", data, "--cache_dir", data / "cache")
    image = (*table, "--save", out / "image.pt", *SCRATCH, "--img_size", SIDE, "--batch_size", 8, "--workers", 0)
    run("train_roi_baselines.py", "--mode", "standard", *image, "--device", "cpu", "--val_fraction", 0.3)
    begun = ("--init", out / "image.pt", "--epochs", 4, "--lr", 1e-3, "--fusion_lr", 1e-2, *ATTENTION)
    said = run("train_multiview.py", *flags(data, out, *begun, "--log_csv", out / "log.csv"))
    assert "of the last layer came Mass, Edema; new none" in said
    assert "training: " in said and "studies (" in said and "--max_views): those that are looked at are drawn" in said
    assert "WARNING: --init" not in said
    return out


def predicted(data: Path, out: Path, table: pd.DataFrame, name: str, *more: object) -> list[dict]:
    table.to_csv(out / f"{name}.csv", index=False)
    what = ("--checkpoint", out / "s.pt", "--csv", out / f"{name}.csv", "--image_root", data, "--workers", 0)
    save = ("--cache_dir", data / "cache", "--save_json", out / f"{name}.json", "--device", "cpu")
    run("infer_roi_consistency.py", *what, *save, *more)
    return json.loads((out / f"{name}.json").read_text())


def test_all_images_of_a_study_have_its_probability_and_evaluate_reads_it(data: Path, trained: Path) -> None:
    table = pd.read_csv(data / "table.csv", dtype=str, keep_default_na=False)
    records = predicted(data, trained, table, "all")
    assert [record["image"] for record in records] == table["image"].tolist()
    of_study: dict[str, list[dict]] = {}
    for record, study in zip(records, table["study_id"], strict=True):
        of_study.setdefault(study or record["image"], []).append(record)
    for name, members in of_study.items():
        assert all(member["prob_full"] == members[0]["prob_full"] for member in members)
        assert all(member["study"] == name for member in members)
        assert sum("prob_view" in member for member in members) == min(4, len(members))
        assert sum("without" in member for member in members) == (min(4, len(members)) if len(members) > 1 else 0)
        assert all(member["contaminated"] for member in members if "contaminated" in members[0])
    other = predicted(data, trained, table, "batches", "--batch_size", 1)
    for record, again in zip(records, other, strict=True):
        assert again["prob_full"] == pytest.approx(record["prob_full"], abs=1e-6)
    scores = ("--preds", trained / "all.json", "--csv", trained / "all.csv", "--resamples", 5)
    run("evaluate.py", *scores, "--out", trained / "scores")
    assert json.loads((trained / "scores" / "metrics.json").read_text())["n_images"] == len(table)


def test_without_an_image_is_a_run_on_the_table_without_its_row(data: Path, trained: Path) -> None:
    table = pd.read_csv(data / "table.csv", dtype=str, keep_default_na=False)
    few = table[table["study_id"].isin(["s1", "s3"])]
    records = {record["image"]: record for record in predicted(data, trained, few, "few")}
    for row, image in few["image"].items():
        rest = predicted(data, trained, few.drop(index=row), "rest", "--overwrite")
        study = records[image]["study"]
        expected = next(record["prob_full"] for record in rest if record["study"] == study)
        assert records[image]["without"] == pytest.approx(expected, abs=1e-6)


def test_the_log_has_the_loss_of_single_images(trained: Path) -> None:
    log = pd.read_csv(trained / "log.csv")
    np.testing.assert_allclose(log["loss"], log["loss_full"] + 0.25 * log["loss_view"], rtol=1e-4)


@pytest.mark.parametrize("choice", ["random", "queries.npz", "permuted:queries.npz"])
def test_what_is_not_to_learn_stays(choice: str, data: Path, tmp_path: Path) -> None:
    named = choice.replace("queries.npz", str(data / "queries.npz"))
    fit = built(data, tmp_path, *ATTENTION, "--queries", named, "--epochs", 1)
    assert isinstance(fit.model.fusion, ViewAttention)
    kept = "queries" if choice == "random" else "text"
    before = fit.model.fusion.state_dict()[kept].clone()
    vectors = torch.from_numpy(np.load(data / "queries.npz")["vectors"])
    # Edema is the first of the file, Mass the third; the classes are Mass and Edema.
    expected = {"queries.npz": vectors[[2, 0]], "permuted:queries.npz": vectors[[0, 2]], "random": before}
    assert torch.equal(before, expected[choice])
    fit.run()
    model, state = checkpoint.load_model(tmp_path / "s.pt")
    assert model.fusion is not None and torch.equal(model.fusion.state_dict()[kept], before)
    assert state["args"]["query_size"] == (0 if choice == "random" else 12)


def test_names_that_were_not_trained_on_have_a_probability(data: Path, tmp_path: Path) -> None:
    shared = (*ATTENTION, "--queries", data / "queries.npz", "--shared_queries", "--fusion_lr", 1e-2)
    run("train_multiview.py", *flags(data, tmp_path, *SCRATCH, *shared))
    table = pd.read_csv(data / "table.csv", dtype=str, keep_default_na=False)
    own = predicted(data, tmp_path, table, "own")
    asked = predicted(data, tmp_path, table, "asked", "--queries", data / "queries.npz")
    for record, other in zip(own, asked, strict=True):
        assert list(other["prob_full"]) == ["Edema", "Hernia", "Mass"]
        for part in ("prob_full", "prob_view", "without"):
            assert (part in record) == (part in other)
            for name, value in record.get(part, {}).items():
                assert other[part][name] == pytest.approx(value, abs=1e-6)
    alone = [record for record in asked if "without" not in record and "prob_view" in record]
    assert alone
    for record in alone:
        assert record["prob_view"] == pytest.approx(record["prob_full"], abs=1e-6)
    assert json.loads((tmp_path / "asked.meta.json").read_text())["classes"] == ["Edema", "Hernia", "Mass"]
    # Of another language model.
    vectors = np.zeros((1, 12))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{ }")
    write_queries(tmp_path / "other.npz", ["Bulla"], vectors, "{}", tmp_path / "model")
    files = ("--checkpoint", tmp_path / "s.pt", "--csv", data / "table.csv", "--image_root", data, "--workers", 0)
    save = ("--save_json", tmp_path / "p.json", "--cache_dir", data / "cache", "--device", "cpu")
    error = one_line_error("infer_roi_consistency.py", *files, *save, "--queries", tmp_path / "other.npz")
    assert "of another language model" in error


def test_a_frozen_backbone_does_not_move(data: Path, trained: Path, tmp_path: Path) -> None:
    args = train_multiview.parse_args(
        flags(data, tmp_path, "--init", trained / "image.pt", "--epochs", 1, "--freeze_backbone", *ATTENTION)
    )
    fit = build_study_run(args, CPU)
    before = {key: value.clone() for key, value in fit.model.backbone.state_dict().items()}
    fit.run()
    after = fit.model.backbone.state_dict()
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert moved == {"fc.weight", "fc.bias"}
    fusion = fit.model.fusion
    assert fusion is not None and fusion.state_dict()["weight"].any()


def test_max_samples_counts_studies(data: Path, tmp_path: Path) -> None:
    fit = built(data, tmp_path, "--max_samples", 20)
    loaders = (fit.train_loader, fit.val_loader)
    assert sum(len(loader.studies) for loader in loaders) == 20  # type: ignore[union-attr]
    table = pd.read_csv(data / "table.csv", dtype=str, keep_default_na=False)
    whole = table["patient_id"].value_counts()
    images = sum(len(loader.studies.rows) for loader in loaders)  # type: ignore[union-attr]
    assert images > 20 and images < whole.sum()
    assert "train on N studies" in run("train_multiview.py", "--help")


def test_a_new_head_of_studies_takes_nothing_of_the_image_model(data: Path, trained: Path, tmp_path: Path) -> None:
    frozen = ("--init", trained / "image.pt", "--epochs", 1, "--freeze_backbone")
    args = train_multiview.parse_args(flags(data, tmp_path, *frozen, "--new_head"))
    new = build_study_run(args, CPU).model.backbone.state_dict()
    old = checkpoint.load(trained / "image.pt")["model"]
    assert {name for name in new if not torch.equal(new[name], old[name])} == {"fc.weight", "fc.bias"}


def test_what_is_wrong_is_said_in_one_line(data: Path, trained: Path, tmp_path: Path) -> None:
    table = pd.read_csv(data / "table.csv", dtype=str, keep_default_na=False)

    def refused(change: pd.DataFrame, *more: object) -> str:
        change.to_csv(tmp_path / "wrong.csv", index=False)
        command = flags(data, tmp_path, *SCRATCH, *more)
        command[1] = str(tmp_path / "wrong.csv")
        return one_line_error("train_multiview.py", *command)

    assert "study 's3' has images of two patients" in refused(
        table.assign(study_id=table["study_id"].replace("s2", "s3"))
    )
    other = table.copy()
    other.loc[other["image"] == "s1_1.png", "labels"] = "Effusion"
    assert "of the same study lacks it" in refused(other) and "--study_labels any" in refused(other)
    split_by_image = table.drop(columns="patient_id")
    assert "has images of two patients" in refused(split_by_image)
    assert "--new_head with --weights none: there is no head" in refused(table, "--new_head")
    assert "not a multiple of 8" in refused(table, "--fusion_width", 12)
    npz = str(data / "queries.npz")
    assert "give --fusion attention" in refused(table, "--queries", npz)
    assert "a new name has none" in refused(table, *ATTENTION, "--shared_queries")
    assert "has no 'Effusion'" in refused(table.replace("Mass", "Effusion"), *ATTENTION, "--queries", npz)
    assert "nowhere.npz: no such file" in refused(table, *ATTENTION, "--queries", "nowhere.npz")
    begun = ("--init", trained / "image.pt")
    both = refused(table, *begun, "--backbone", "test_resnet")
    assert "--weights none and --init" in both and "give one of them" in both
    of_another = ("--backbone", "test_vit", "--weights", "imagenet")
    assert "leave out --backbone" in refused(table, *begun, *of_another)
    of_studies = one_line_error("train_multiview.py", *flags(data, tmp_path, "--init", trained / "s.pt"))
    assert "is a model of studies, whose fusion would be lost" in of_studies and str(trained / "image.pt") in of_studies
    torch.save(checkpoint.load(trained / "image.pt") | {"epoch": 0, "steps": 0}, tmp_path / "new.pt")
    untrained = one_line_error("train_multiview.py", *flags(data, tmp_path, "--init", tmp_path / "new.pt"))
    assert "was never trained (epoch 0, step 0)" in untrained
    image_model = flags(data, trained, "--resume", "auto", "--epochs", 1)
    image_model[image_model.index("--save") + 1] = str(trained / "image.pt")
    said = one_line_error("train_multiview.py", *image_model)
    assert "is a model of images, which train_multiview.py cannot go on with" in said and "None" not in said
    uncached = flags(data, tmp_path, *SCRATCH)
    at = uncached.index("--cache_dir")
    assert "give --cache_dir" in one_line_error("train_multiview.py", *uncached[:at], *uncached[at + 2 :])
    predict = ("infer_roi_consistency.py", "--checkpoint", trained / "s.pt", "--csv", data / "table.csv")
    where = ("--image_root", data, "--device", "cpu", "--workers", 0)
    said = one_line_error(*predict, *where, "--save_masks", tmp_path / "masks.npz", "--cache_dir", data / "cache")
    assert "is a model of studies" in said and f"--mask_checkpoint {trained / 'image.pt'}" in said
    save = ("--save_json", tmp_path / "p.json")
    assert "give --cache_dir" in one_line_error(*predict, *where, *save)
    new = ("--queries", data / "queries.npz", "--cache_dir", data / "cache")
    assert "train with train_multiview.py --queries NPZ --shared_queries" in one_line_error(
        *predict, *where, *save, *new
    )
    assert "cuts studies apart" in one_line_error(*predict, *where, *save, "--max_samples", 9)

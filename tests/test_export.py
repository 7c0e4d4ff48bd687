"""export_model.py: what others load is what the checkpoint computes; what is missing or wrong is said in one line."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import timm
import torch
import torchvision
from conftest import one_line_error, run
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_checkpoint import draw

from roi.errors import UserError
from roi.models.backbones import HALVES, IMAGENET, build_backbone, classifier_layer, normalisation_of
from roi.training import checkpoint
from roi.training.start import Start, pretrained

# Older ones read a safetensors file of a folder by torch.load, which torch 2.6 cannot.
TIMM = tuple(int(part) for part in timm.__version__.split(".")[:3])
of_folders = pytest.mark.skipif(TIMM < (1, 0, 31), reason=f"timm {timm.__version__} reads folders by torch.load")

CPU = ("--workers", 0, "--device", "cpu")


def train(demo: Path, tables: tuple[Path, Path], save: Path, backbone: str, *more: object) -> Path:
    run(
        *("train_roi_consistency.py", "--train_csv", tables[0], "--exclude_csv", tables[1], "--image_root", demo),
        *(*CPU, "--backbone", backbone, "--weights", "none", "--img_size", 64, "--epochs", 2, "--batch_size", 8),
        *("--save", save, *more),
    )
    return save


@pytest.fixture(scope="module")
def made(demo: Path, tables: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with scores and thresholds."""
    out = tmp_path_factory.mktemp("export")
    ckpt = train(demo, tables, out / "roi.pt", "test_resnet", "--log_csv", out / "train_metrics.csv")
    predict = ("infer_roi_consistency.py", "--checkpoint", ckpt, "--image_root", demo, *CPU)
    run(*predict, "--csv", tables[1], "--save_json", out / "preds.json")
    run(*predict, "--csv", out / "roi_val.csv", "--save_json", out / "val.json")
    chosen = ("--threshold_preds", out / "val.json", "--threshold_csv", out / "roi_val.csv")
    run(
        *("evaluate.py", "--preds", out / "preds.json", "--csv", tables[1], "--resamples", 5),
        *(*chosen, "--out", out / "scores"),
    )
    return out


@pytest.fixture(scope="module")
def weights(made: Path) -> Path:
    """model.safetensors of that run."""
    out = made / "model.safetensors"
    metrics = made / "scores" / "metrics.json"
    said = run("export_model.py", "--checkpoint", made / "roi.pt", "--metrics", metrics, "--out", out)
    assert "model_roi.safetensors" in said
    return out


def logits_of(model: torch.nn.Module, side: int = 64) -> torch.Tensor:
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(x)


# ---- safetensors ----------------------------------------------------------------------------------------------------


def test_timm_loads_the_weights_and_the_header_says_what_they_are_of(made: Path, weights: Path) -> None:
    model, state = checkpoint.load_model(made / "roi.pt")
    other = timm.create_model("test_resnet", num_classes=len(state["classes"]))
    other.load_state_dict(load_file(weights), strict=True)
    torch.testing.assert_close(logits_of(other), logits_of(model.backbone))
    with safe_open(weights, framework="pt") as file:
        header = file.metadata()
    metrics = json.loads((made / "scores" / "metrics.json").read_text())
    wanted = {c: v["threshold"] for c, v in metrics["per_class"].items() if v["threshold"] is not None}
    assert wanted and json.loads(header["thresholds"]) == wanted
    assert json.loads(header["classes"]) == state["classes"] and json.loads(header["side"]) == 64
    assert json.loads(header["normalisation"]) == [list(row) for row in IMAGENET]
    assert header["written_by"].startswith("roi-consistency") and header["format"] == "pt"
    # Folders and machines stay at home.
    assert str(made.parent) not in str(header) and state["host"] not in str(header)


def test_the_whole_model_comes_back_from_both_files(
    made: Path, weights: Path, demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    predict = ("infer_roi_consistency.py", "--image_root", demo, *CPU, "--csv", tables[1])
    run(*predict, "--checkpoint", weights, "--save_json", tmp_path / "again.json", "--save_masks", tmp_path / "m.npz")
    first, again = (json.loads(path.read_text()) for path in (made / "preds.json", tmp_path / "again.json"))
    assert first == again
    model, state = checkpoint.load_model(made / "roi.pt")
    _, back = checkpoint.load_model(weights)
    for key in ("train_images", "train_patients"):
        assert torch.equal(back[key], state[key]) and len(back[key])
    assert model.mask_net is not None and back["mask_net"].keys() == model.mask_net.state_dict().keys()
    assert back["contaminated"] is False and back["thresholds"]
    # Names are known with their sets; a folder here that has the name of the old one holds other images.
    assert torch.equal(back["train_sets"], state["train_sets"]) and back["steps"] == state["steps"]
    assert back["args"]["image_root"] == ""


def test_what_was_trained_on_drawn_images_alone_says_so(made: Path, weights: Path, hub: Path, tmp_path: Path) -> None:
    assert checkpoint.load(weights)["synthetic"] is True
    draw(tmp_path / "own.png", seed=1)
    flags = ("--image", tmp_path / "own.png", "--save_json", tmp_path / "p.json", "--device", "cpu")
    assert "SYNTHETIC: the checkpoint" in run("infer_roi_consistency.py", "--checkpoint", weights, *flags)
    assert json.loads((tmp_path / "p.meta.json").read_text())["trained_on_synthetic"] is True
    said = run("export_model.py", "--checkpoint", made / "roi.pt", "--hub_dir", tmp_path / "bare")
    assert "SYNTHETIC: the checkpoint" in said
    # Scores or none: it has never seen an X-ray.
    for folder in (hub, tmp_path / "bare"):
        assert "it has never seen an X-ray" in (folder / "README.md").read_text()
        assert json.loads((folder / "config.json").read_text())["synthetic"] is True
    assert "the scored images are drawn" not in (tmp_path / "bare" / "README.md").read_text()


def test_a_model_that_was_never_trained_is_not_handed_on(made: Path, tmp_path: Path) -> None:
    torch.save(dict(checkpoint.load(made / "roi.pt")) | {"epoch": 0, "steps": 0}, tmp_path / "new.pt")
    flags = ("--out", tmp_path / "model.safetensors", "--hub_dir", tmp_path / "hub")
    error = one_line_error("export_model.py", "--checkpoint", tmp_path / "new.pt", *flags)
    assert "never trained" in error and "--untrained" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["new.pt"]


def test_training_begins_from_it_with_rows_by_class(weights: Path, demo: Path, tables: tuple[Path, Path]) -> None:
    classes = ["Zebra", *checkpoint.load(weights)["classes"][:2]]
    backbone = build_backbone("test_resnet", 3, str(weights), 64, class_names=classes)
    layer = classifier_layer(backbone)[0]
    file = load_file(weights)
    torch.testing.assert_close(backbone.state_dict()[f"{layer}.weight"][1:], file[f"{layer}.weight"][:2])
    assert normalisation_of("test_resnet", str(weights)) == IMAGENET


def test_the_patients_of_exported_weights_count_as_seen(weights: Path, hub: Path) -> None:
    start = Start(Path("a.pt"))
    for source in (str(weights), f"local-dir:{hub}"):
        before = pretrained(source, new_head=False, start=start)
        assert before is not None and torch.equal(before["train_patients"], checkpoint.load(weights)["train_patients"])


def test_files_that_do_not_belong_together_are_refused(made: Path, weights: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(weights, tmp_path / "model.safetensors"))
    with pytest.raises(UserError, match="the rest of the model is missing"):
        checkpoint.load_model(alone)
    # Another run's second file.
    other = checkpoint.load(made / "roi.pt")
    other["model"] = {name: value + 1 for name, value in other["model"].items()}
    torch.save(dict(other), tmp_path / "roi.pt")
    run("export_model.py", "--checkpoint", tmp_path / "roi.pt", "--out", tmp_path / "other.safetensors")
    shutil.copy(tmp_path / "other_roi.safetensors", tmp_path / "model_roi.safetensors")
    with pytest.raises(UserError, match="is of another export"):
        checkpoint.load_model(alone)


def test_without_fingerprints_nobody_says_that_it_is_clean(
    made: Path, demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "model.safetensors"
    run("export_model.py", "--checkpoint", made / "roi.pt", "--out", out, "--no-fingerprints")
    assert "train_images" not in load_file(tmp_path / "model_roi.safetensors")
    preds = tmp_path / "preds.json"
    predict = ("infer_roi_consistency.py", "--checkpoint", out, "--csv", tables[1], "--image_root", demo, *CPU)
    assert "cannot be told" in run(*predict, "--save_json", preds)
    assert json.loads((tmp_path / "preds.meta.json").read_text())["contaminated"] is None
    run("evaluate.py", "--preds", preds, "--csv", tables[1], "--resamples", 0, "--out", tmp_path / "scores")
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["contaminated"] is None


def test_what_was_trained_on_test_images_says_so_and_no_training_begins_from_it(made: Path, tmp_path: Path) -> None:
    state = dict(checkpoint.load(made / "roi.pt")) | {"contaminated": True}
    torch.save(state, tmp_path / "roi.pt")
    folder = tmp_path / "hub"
    assert "CONTAMINATED" in run("export_model.py", "--checkpoint", tmp_path / "roi.pt", "--hub_dir", folder)
    assert "CONTAMINATED" in (folder / "README.md").read_text()
    for source in (folder / "model.safetensors", f"local-dir:{folder}"):
        with pytest.raises(UserError, match="test images"):
            build_backbone("test_resnet", 15, str(source), 64)


# ---- the hub --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(made: Path) -> Path:
    folder = made / "my_model"
    said = run(
        *("export_model.py", "--checkpoint", made / "roi.pt", "--metrics", made / "scores" / "metrics.json"),
        *("--hub_dir", folder, "--data_licence", "Drawn images: no licence needed."),
    )
    assert "timm loads it" in said
    return folder


@of_folders
def test_timm_loads_the_folder(made: Path, hub: Path) -> None:
    model, state = checkpoint.load_model(made / "roi.pt")
    other = timm.create_model(f"local-dir:{hub}", pretrained=True)
    torch.testing.assert_close(logits_of(other), logits_of(model.backbone))
    config = timm.data.resolve_model_data_config(other)
    assert (
        tuple(config["mean"]) == IMAGENET[0]
        and tuple(config["input_size"]) == (3, 64, 64)
        and config["crop_pct"] == 1.0
    )
    assert list(other.pretrained_cfg["label_names"]) == state["classes"]
    assert sorted(path.name for path in hub.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "roi",
    ]
    assert [path.name for path in (hub / "roi").iterdir()] == ["model_roi.safetensors"]


def test_a_folder_from_before_still_loads_and_an_export_in_its_place_leaves_nothing_of_it(
    made: Path, hub: Path, tmp_path: Path
) -> None:
    """The second file lay beside the first, which old versions of timm take no folder with."""
    before = tmp_path / "hub"
    shutil.copytree(hub, before)
    (before / "roi" / "model_roi.safetensors").rename(before / "model_roi.safetensors")
    (before / "roi").rmdir()
    _, state = checkpoint.load_model(made / "roi.pt")
    for folder in (before, hub):
        model, back = checkpoint.load_model(folder / "model.safetensors")
        assert model.mask_net is not None and torch.equal(back["train_images"], state["train_images"])
    run("export_model.py", "--checkpoint", made / "roi.pt", "--hub_dir", before, "--overwrite")
    assert sorted(path.name for path in before.iterdir()) == ["README.md", "config.json", "model.safetensors", "roi"]
    (before / "roi" / "model_roi.safetensors").unlink()
    with pytest.raises(UserError, match="the rest of the model is missing, .*model_roi.safetensors"):
        checkpoint.load(before / "model.safetensors")


@of_folders
def test_training_begins_from_a_folder_of_the_hub(made: Path, hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = checkpoint.load(made / "roi.pt")
    source = f"local-dir:{hub}"
    backbone = build_backbone("test_resnet", len(state["classes"]), source, 64, class_names=state["classes"])
    torch.testing.assert_close(backbone.state_dict(), dict(state["model"]))
    assert "new none" in capsys.readouterr().out
    with pytest.raises(UserError, match="is a test_resnet, not a resnet18; give --backbone test_resnet"):
        build_backbone("resnet18", 3, source, 64)


@of_folders
def test_weights_of_the_hub_bring_their_normalisation(
    hub: Path, demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    assert normalisation_of("test_resnet", f"local-dir:{hub}") == IMAGENET
    shutil.copytree(hub, tmp_path / "other")
    config = json.loads((hub / "config.json").read_text())
    config["pretrained_cfg"] |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    source = f"local-dir:{tmp_path / 'other'}"
    assert normalisation_of("test_resnet", source) == HALVES
    # Said when training begins, and kept.
    said = run(
        *("train_roi_consistency.py", "--train_csv", tables[0], "--exclude_csv", tables[1], "--image_root", demo),
        *(*CPU, "--backbone", "test_resnet", "--weights", source, "--img_size", 64, "--epochs", 1, "--batch_size", 8),
        *("--warmup_epochs", 0, "--save", tmp_path / "a.pt"),
    )
    assert "mean 0.5, 0.5, 0.5" in said and "of the last layer came Atelectasis" in said
    assert checkpoint.load(tmp_path / "a.pt")["args"]["normalisation"] == HALVES


@pytest.mark.parametrize("error", [OSError("no network"), ValueError("Repo id must be in the form")])
def test_a_hub_that_cannot_be_reached_is_one_line(
    error: Exception, demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    with mock.patch("roi.models.hub.hf_hub_download", side_effect=error):
        said = one_line_error(
            *("train_roi_consistency.py", "--train_csv", tables[0], "--image_root", demo, *CPU),
            *("--backbone", "resnet18", "--weights", "hf-hub:timm/resnet18.a1_in1k", "--save", tmp_path / "a.pt"),
            *("--img_size", 64),
        )
    assert "hf-hub:timm/resnet18.a1_in1k" in said and str(error) in said and "--weights FILE" in said
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"local-dir:.*cannot be read"):
        build_backbone("resnet18", 3, f"local-dir:{tmp_path}", 64)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match="names no architecture of timm"):
        build_backbone("resnet18", 3, f"local-dir:{tmp_path}", 64)


def exported_from(tmp_path: Path, made: Path, backbone: str, side: int = 64) -> tuple[Path, torch.nn.Module]:
    """The hub folder of a checkpoint with another backbone, not trained."""
    state: dict[str, Any] = dict(checkpoint.load(made / "roi.pt"))
    model = build_backbone(backbone, len(state["classes"]), "none", side)
    state["args"] = state["args"] | {"backbone": backbone, "mask": "none", "mask_per_class": False, "img_size": side}
    state |= {"model": model.state_dict(), "mask_net": {}, "view_norms": {}}
    torch.save(state, tmp_path / "x.pt")
    run("export_model.py", "--checkpoint", tmp_path / "x.pt", "--hub_dir", tmp_path / "hub")
    return tmp_path / "hub", model


@of_folders
@pytest.mark.parametrize("backbone", ["resnet18", "densenet121", "test_vit"])
def test_what_both_libraries_build_alike_loads_in_timm(made: Path, tmp_path: Path, backbone: str) -> None:
    folder, model = exported_from(tmp_path, made, backbone, 96)
    other = timm.create_model(f"local-dir:{folder}", pretrained=True)
    torch.testing.assert_close(logits_of(other, 96), logits_of(model, 96), rtol=1e-4, atol=1e-4)


def test_a_model_of_torchvision_alone_says_so(made: Path, tmp_path: Path) -> None:
    folder, model = exported_from(tmp_path, made, "shufflenet_v2_x0_5")
    assert "architecture" not in json.loads((folder / "config.json").read_text())
    card = (folder / "README.md").read_text()
    assert "torchvision.models.get_model" in card and "library_name: timm" not in card
    other = torchvision.models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=15)
    other.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    torch.testing.assert_close(logits_of(other), logits_of(model))


# ---- the model card -------------------------------------------------------------------------------------------------


def test_the_card_has_the_numbers_of_the_scores(made: Path, hub: Path) -> None:
    card = (hub / "README.md").read_text()
    metrics = json.loads((made / "scores" / "metrics.json").read_text())
    auroc = metrics["mean"]["auroc"]
    assert f"| AUROC | {auroc['value']:.3f} [{auroc['low']:.3f}, {auroc['high']:.3f}] |" in card
    for finding, scores in metrics["per_class"].items():
        if scores["threshold"] is not None:
            assert f"| {finding} | {scores['positives']} |" in card and f"| {scores['threshold']:.3f} |" in card
    raw = metrics["calibration"]["methods"]["raw"]["mean"]
    assert f"| raw | {raw['ece']:.4f} | {raw['brier']:.4f} |" in card
    assert f"{metrics['n_images']:,} images of {metrics['n_patients']:,} patients" in card
    titles = ("What it is", "Use", "Data and licence", "Scores", "Findings", "Calibration", "Subgroups", "Evidence")
    for title in (*titles, "Intended use", "Not intended", "Limits"):
        assert f"\n## {title}\n" in card
    assert "Not a medical device" in card and "Drawn images: no licence needed." in card
    assert str(made.parent) not in card and card.startswith("---\nlicense: other\n")


def test_a_card_without_scores_says_what_is_missing(made: Path, tmp_path: Path) -> None:
    run("export_model.py", "--checkpoint", made / "roi.pt", "--hub_dir", tmp_path / "bare")
    card = (tmp_path / "bare" / "README.md").read_text()
    assert card.count("*Missing: ") == 6 and "--data_licence" in card
    assert "treat it as untested" in card and "Not a medical device" in card


# ---- ONNX -----------------------------------------------------------------------------------------------------------


def test_onnx_gives_what_torch_gives_for_any_number_of_images(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    out = tmp_path / "model.onnx"
    assert "within" in run("export_model.py", "--checkpoint", made / "roi.pt", "--out", out, "--keep_ratio", 0.2)
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    model, state = checkpoint.load_model(made / "roi.pt")
    generator = np.random.default_rng(3)
    for images in (1, 5):
        pixels = generator.integers(0, 256, (images, 1, 64, 64), dtype=np.uint8)
        prob, mask = session.run(None, {"pixels": pixels.astype(np.float32)})
        with torch.no_grad():
            views = model(torch.from_numpy(pixels), 0.2)
        np.testing.assert_allclose(prob, views.logits_full.sigmoid().numpy(), atol=1e-4)
        assert mask.sum() == images * round(0.2 * 64 * 64)
        assert np.mean(mask != views.binary_mask.numpy()) < 0.005
    assert session.get_modelmeta().custom_metadata_map["classes"] == str(state["classes"])
    assert session.get_modelmeta().custom_metadata_map["synthetic"] == "True"


def test_without_the_packages_onnx_says_what_to_install(made: Path, tmp_path: Path) -> None:
    find = importlib.util.find_spec

    def without_onnx(name: str, *more: Any) -> Any:
        return None if name == "onnx" else find(name, *more)

    with mock.patch("importlib.util.find_spec", without_onnx):
        said = one_line_error("export_model.py", "--checkpoint", made / "roi.pt", "--out", tmp_path / "model.onnx")
    assert "pip install onnx onnxscript onnxruntime" in said and not list(tmp_path.iterdir())


# ---- mistakes -------------------------------------------------------------------------------------------------------


def test_a_page_does_not_take_the_place_of_its_metrics(made: Path) -> None:
    file = made / "scores" / "metrics.json"
    before = file.read_bytes()
    said = one_line_error("make_report.py", "--runs", made, "--out", file, "--overwrite")
    assert "is what --runs names" in said and file.read_bytes() == before
    table = Path(shutil.copy(made / "roi_val.csv", made / "t.csv"))
    flags = ("--preds", made / "val.json", "--csv", table, "--overwrite")
    for name, out in (("csv", table), ("preds", made / "val.json")):
        assert f"is what --{name} names" in one_line_error("calibrate_conformal.py", *flags, "--out", out)
    assert table.read_bytes() == (made / "roi_val.csv").read_bytes()


def test_mistakes_are_one_line_and_write_nothing(made: Path, weights: Path, tmp_path: Path) -> None:
    export = ("export_model.py", "--checkpoint", made / "roi.pt")
    assert "--hub_dir DIR" in one_line_error(*export)
    assert "ends neither" in one_line_error(*export, "--out", tmp_path / "model.pt")
    assert "exists" in one_line_error(*export, "--out", weights)
    other = json.loads((made / "scores" / "metrics.json").read_text())
    other["predictions"]["epoch"] = 77
    (tmp_path / "metrics.json").write_text(json.dumps(other))
    said = one_line_error(*export, "--metrics", tmp_path / "metrics.json", "--out", tmp_path / "m.safetensors")
    assert "epoch 77" in said
    said = one_line_error(*export, "--metrics", tmp_path / "none.json", "--out", tmp_path / "m.safetensors")
    assert "none.json: no such file" in said
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    assert "thesis.txt" in one_line_error(*export, "--hub_dir", mine, "--overwrite")
    # Another model of the hub.
    (mine / "config.json").write_text('{"model_type": "vit"}')
    assert "no earlier export" in one_line_error(*export, "--hub_dir", mine, "--overwrite")
    assert (mine / "config.json").read_text() == '{"model_type": "vit"}'
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "metrics.json", "mine", "thesis.txt"]


def test_an_export_is_not_written_over_itself_and_keeps_its_thresholds(hub: Path, tmp_path: Path) -> None:
    again = ("export_model.py", "--checkpoint", hub / "model.safetensors")
    before = (hub / "README.md").read_text()
    assert "is the checkpoint itself" in one_line_error(*again, "--hub_dir", hub, "--overwrite")
    assert (hub / "README.md").read_text() == before
    run(*again, "--out", tmp_path / "model.safetensors")
    old, new = (checkpoint.load(folder / "model.safetensors") for folder in (hub, tmp_path))
    assert old["thresholds"] and new["thresholds"] == old["thresholds"]
    for key in ("train_images", "train_patients", "train_sets"):
        assert torch.equal(old[key], new[key])
    assert new["synthetic"] is True

"""Images without a table: which files a path means, what they are called, and what is written of them."""

import csv
import io
import json
import sys
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import one_line_error, run
from PIL import Image
from tiny_checkpoint import CLASSES, draw, save_checkpoint

from roi.data.identity import fingerprints, trained_on_files
from roi.data.images import read_grey
from roi.errors import UserError
from roi.inference.image_files import find_images, read_xray, table_of
from roi.scoring import predictions
from roi.scoring.prediction_files import flat_csv
from roi.scoring.prediction_files.model_facts import is_contaminated
from roi.training import checkpoint

SCRIPT = "infer_roi_consistency.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("model") / "m.pt")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Five images in two folders, and what is none."""
    root = tmp_path / "scans"
    for n, name in enumerate(("b.png", "a.jpg", "deep/x.tif", "deep/b.png", "deep/er/z.PNG")):
        draw(root / name, n)
    for name in ("readme.md", ".hidden.png", ".cache/y.png", "deep/labels.csv"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no image")
    return root


def infer(model: Path, *flags: object) -> tuple[object, ...]:
    return (SCRIPT, "--checkpoint", model, "--workers", 0, "--device", "cpu", *flags)


def names(*paths: object) -> list[str]:
    return [image.name for image in find_images(list(map(str, paths)))]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- which files, which names ----------------------------------------------------------------------------------------


def test_a_folder_is_all_images_below_it_by_name(scans: Path) -> None:
    assert names(scans) == ["a.jpg", "b.png", "deep/b.png", "deep/x.tif", "deep/er/z.PNG"]
    (scans / "loop").symlink_to(scans)
    assert len(names(scans)) == 5
    assert names(scans, scans / "a.jpg") == names(scans)
    assert "deep/b.png" not in [image.name for image in find_images([scans], leave_out=[scans / "deep"])]


def test_files_of_one_name_stay_apart(scans: Path) -> None:
    assert names(scans / "b.png", scans / "deep") == ["b.png", "deep/b.png", "deep/x.tif", "deep/er/z.PNG"]
    # By the layout of NIH these two would be one image.
    draw(scans / "nih" / "x.png", 1)
    draw(scans / "nih" / "images" / "x.png", 2)
    assert names(scans / "nih") == ["nih/x.png", "nih/images/x.png"]


def test_patterns_and_lists(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(scans / "**" / "*.png") == ["b.png", "deep/b.png"]
    assert names(scans / "*") == ["a.jpg", "b.png", "deep/b.png", "deep/x.tif", "deep/er/z.PNG"]
    assert names(scans / "**") == ["a.jpg", "b.png", "deep/b.png", "deep/er/z.PNG", "deep/x.tif"]
    (scans / "some.txt").write_text("# chosen\n\ndeep/b.png\na.jpg\ngone.png\n")
    found = find_images([scans / "some.txt"])
    assert [(image.name, image.path is None) for image in found] == [
        ("deep/b.png", False),
        ("a.jpg", False),
        ("gone.png", True),
    ]
    monkeypatch.chdir(scans.parent)
    (tmp_path / "from_here.txt").write_text("scans/a.jpg\n")
    assert [image.path for image in find_images(["from_here.txt"])] == [str(scans / "a.jpg")]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("empty", "holds no image"),
        ("*.bmp", "fits this pattern"),
        ("readme.md", "no image by its suffix '.md'"),
        ("deep/labels.csv", "give it as --csv"),
        ("gone", "no such image"),
        ("gone.txt", "no such image"),
        ("nothing.txt", "lists no image"),
        ("odd.txt", "'readme.md', which is no image"),
        ("latin.txt", "no list of images"),
    ],
)
def test_what_is_no_image_is_one_line(scans: Path, path: str, said: str) -> None:
    (scans / "empty").mkdir()
    (scans / "nothing.txt").write_text("gone.png\n")
    (scans / "odd.txt").write_text("readme.md\n")
    (scans / "latin.txt").write_bytes("Süd.png\n".encode("latin-1"))
    with pytest.raises(UserError, match="^" + ".*".join(map(_escaped, (str(scans / path), said)))):
        find_images([scans / path])


def _escaped(text: str) -> str:
    return "".join(f"[{c}]" if c in "*.?" else c for c in text)


def test_files_that_were_trained_on_are_known_by_any_end_of_their_path(tmp_path: Path) -> None:
    state = {"train_images": fingerprints(["set/a.png"]), "train_patients": fingerprints(["nih:13"])}
    paths = [
        tmp_path / "set" / "a.png",
        tmp_path / "other" / "a.png",
        tmp_path / "00000013_007.png",
        tmp_path / "c.png",
    ]
    found = trained_on_files(state, list(map(str, paths)), [""] * 4)
    assert found.seen.tolist() == [True, False, True, False] and not found.doubt.any()
    # A checkpoint that remembers its sets: a name alone says nothing, unless the file lies where it lay.
    known = {**state, "train_sets": fingerprints([""]), "synthetic": False, "args": {"image_root": str(tmp_path)}}
    elsewhere = {**known, "args": {"image_root": str(tmp_path / "gone")}}
    assert trained_on_files(known, list(map(str, paths)), [""] * 4).seen.tolist() == [True, False, True, False]
    found = trained_on_files(elsewhere, list(map(str, paths)), [""] * 4)
    assert (found.seen.tolist(), found.doubt.tolist()) == ([False, False, True, False], [True, False, False, False])
    assert len(trained_on_files(known, [], []).seen) == 0


@pytest.fixture(scope="module")
def remembering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was trained on a.png of a data set that nobody named."""
    seen = {"train_images": fingerprints(["a.png"]), "train_patients": fingerprints(["image:a.png"])}
    sets = {"train_sets": fingerprints([""]), "synthetic": False}
    return save_checkpoint(tmp_path_factory.mktemp("remembering") / "m.pt", **seen, **sets)


DEMO = {"made_by": "make_demo_dataset.py", "seed": 3, "images": 2, "size": 64}


def forms(root: Path) -> dict[str, tuple[object, ...]]:
    """The ways to name root/deep/a.png without --image_root."""
    table = root / "t.csv"
    table.write_text("image\ndeep/a.png\n")
    return {"--images": ("--images", root), "--image": ("--image", root / "deep" / "a.png"), "beside": ("--csv", table)}


@pytest.mark.parametrize("form", ["--images", "--image", "beside"])
def test_what_was_trained_on_and_what_is_drawn_is_said_in_each_form(
    remembering: Path, tmp_path: Path, form: str
) -> None:
    draw(tmp_path / "set" / "deep" / "a.png", 1)
    flags = forms(tmp_path / "set")[form]
    save = ("--save", tmp_path / "p.json", "--overwrite")
    meta = tmp_path / "p.meta.json"
    said = run(*infer(remembering, *flags, *save))
    assert "CANNOT BE TOLD" in said and json.loads(meta.read_text())["contaminated"] is None
    state = torch.load(remembering, weights_only=True)
    at_home = {**state, "args": {**state["args"], "image_root": str(tmp_path / "set")}}
    checkpoint.save(tmp_path / "home.pt", at_home)
    said = run(*infer(tmp_path / "home.pt", *flags, *save))
    assert "CONTAMINATED" in said and json.loads(meta.read_text())["contaminated_images"] == 1
    # Drawn, and so another image than the X-ray of its name.
    (tmp_path / "set" / "demo.json").write_text(json.dumps(DEMO))
    said = run(*infer(remembering, *flags, *save))
    known = json.loads(meta.read_text())
    assert "SYNTHETIC" in said and "CONTAMINATED" not in said and "CANNOT" not in said
    assert known["synthetic"] is True and known["contaminated"] is False
    assert known["training"] == {"images": 1} and known["backbone"] == "test_resnet" and known["date"]
    # Paths count from the file that holds them.
    assert known["checkpoint"] == str(remembering)


@pytest.mark.parametrize("flags", [("--images", "x"), ("--image", "x/a.png"), ("--csv", "x/t.csv")])
def test_a_checkpoint_that_was_never_trained_is_refused_in_each_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    draw(tmp_path / "x" / "a.png", 1)
    (tmp_path / "x" / "t.csv").write_text("image\na.png\n")
    model = save_checkpoint(tmp_path / "new.pt", epoch=0, steps=0)
    monkeypatch.chdir(tmp_path)
    said = one_line_error(*infer(model, *flags, "--save", "p.csv", "--save_overlay", "o"))
    assert "was never trained" in said and not (tmp_path / "p.csv").exists() and not (tmp_path / "o").exists()
    run(*infer(model, *flags, "--save", "p.csv", "--untrained"))


def test_crops_of_files_have_the_grey_of_the_weights(model: Path, tmp_path: Path) -> None:
    state = torch.load(model, weights_only=True)
    halves = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    checkpoint.save(tmp_path / "halves.pt", {**state, "args": {**state["args"], "normalisation": halves}})
    draw(tmp_path / "x" / "a.png", 1)
    for name, grey in ((model, 114), (tmp_path / "halves.pt", 128)):
        run(*infer(name, "--images", tmp_path / "x", "--save_vis_dir", tmp_path / "v", "--overwrite"))
        crop = np.asarray(Image.open(tmp_path / "v" / "a_crop.png"))
        assert np.bincount(crop.ravel(), minlength=256).argmax() == grey


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_folder_gives_the_numbers_of_a_table(model: Path, scans: Path, tmp_path: Path) -> None:
    """In each form: a folder, a table with images alone (with and without --image_root), a pipe."""
    run(*infer(model, "--images", scans, "--save", tmp_path / "folder.json"))
    run(*infer(model, "--images", scans, "--save", tmp_path / "folder.csv", "--overwrite"))
    table = scans / "table.csv"
    pd.DataFrame({"image": names(scans)}).to_csv(table, index=False)
    run(*infer(model, "--csv", table, "--save_json", tmp_path / "beside.json"))
    run(*infer(model, "--csv", table, "--image_root", scans, "--save_json", tmp_path / "root.json"))
    of_folder = json.loads((tmp_path / "folder.json").read_text())
    assert len(of_folder) == 5
    for name in ("beside", "root"):
        assert json.loads((tmp_path / f"{name}.json").read_text()) == of_folder
    flat = rows_of(tmp_path / "folder.csv")
    for row, entry in zip(flat, of_folder, strict=True):
        assert row["image"] == entry["image"] and row["contaminated"] == "0"
        for part in ("full", "crop", "drop"):
            assert {c: float(row[f"prob_{part}_{c}"]) for c in CLASSES} == entry[f"prob_{part}"]
    stdout = io.StringIO()
    with redirect_stderr(io.StringIO()):
        stdout.write(_stdout_alone(*infer(model, "--images", scans, "--save", "-")))
    assert stdout.getvalue() == (tmp_path / "folder.csv").read_text()


def _stdout_alone(*command: object) -> str:
    """What stands on the standard output of a script that runs in a process of its own."""
    import subprocess

    from conftest import ROOT

    script, *flags = map(str, command)
    done = subprocess.run([sys.executable, ROOT / script, *flags], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_csv_is_read_as_the_json_is(model: Path, scans: Path, tmp_path: Path) -> None:
    for suffix in ("json", "csv"):
        run(*infer(model, "--images", scans, "--save", tmp_path / suffix / f"p.{suffix}"))
    one, two = (predictions.read(tmp_path / suffix / f"p.{suffix}") for suffix in ("json", "csv"))
    assert one.images == two.images and one.classes == two.classes and list(one.prob) == list(two.prob)
    for part in one.prob:
        np.testing.assert_array_equal(one.prob[part], two.prob[part])
    assert two.meta["checkpoint"] == str(model) and is_contaminated(two) is False
    labels = pd.DataFrame({"image": one.images, "labels": ["Mass", "", "Nodule", "Mass", "Nodule,Effusion"]})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    scores = []
    for suffix in ("json", "csv"):
        out = tmp_path / f"scores_{suffix}"
        preds = ("--preds", tmp_path / suffix / f"p.{suffix}", "--csv", tmp_path / "labels.csv")
        run("evaluate.py", *preds, "--resamples", 5, "--out", out)
        scores.append(json.loads((out / "metrics.json").read_text())["per_class"])
    assert scores[0] == scores[1]
    text = (tmp_path / "csv" / "p.csv").read_text().replace("prob_crop_Mass", "prob_crop_Hernia")
    (tmp_path / "odd.csv").write_text(text)
    with pytest.raises(UserError, match="other classes in prob_crop_"):
        predictions.read(tmp_path / "odd.csv")


def test_rows_go_to_a_stream_as_they_come() -> None:
    stream = io.StringIO()
    seen = []

    def rows() -> object:
        for n in range(3):
            seen.append(stream.getvalue().count("\n"))
            yield predictions.record(f"{n}.png", ["Mass"], {"full": np.array([n / 4])}, contaminated=n == 1)

    assert flat_csv.write_stream(stream, rows()) == 3
    assert seen == [0, 2, 3]
    assert stream.getvalue() == "image,prob_full_Mass,contaminated\n0.png,0.0,0\n1.png,0.25,1\n2.png,0.5,0\n"


def test_a_file_that_cannot_be_read_is_named_and_the_rest_goes_on_if_asked(
    model: Path, scans: Path, tmp_path: Path
) -> None:
    (scans / "broken.png").write_bytes(b"no image")
    save = ("--images", scans, "--save", tmp_path / "p.csv")
    assert f"{scans / 'broken.png'}: cannot be read" in one_line_error(*infer(model, *save))
    assert not (tmp_path / "p.csv").exists()
    said = run(*infer(model, *save, "--skip_unreadable"))
    assert "1 image could not be read" in said and "broken.png" in said
    assert len(rows_of(tmp_path / "p.csv")) == 5
    assert "broken.png" in (tmp_path / "p_unreadable.txt").read_text()
    (scans / "list.txt").write_text("a.jpg\ngone.png\n")
    listed = ("--images", scans / "list.txt", "--save", tmp_path / "l.csv")
    assert "the first is gone.png" in one_line_error(*infer(model, *listed))
    assert "1 images are missing" in run(*infer(model, *listed, "--skip_unreadable"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--images", "{scans}", "--save", "p.txt"), "ends in .json or .csv"),
        (("--images", "{scans}"), "nothing to write"),
        (("--images", "{scans}", "--csv", "t.csv", "--save", "p.csv"), "give one of --images, --csv and --image"),
        (("--save", "p.csv"), "give one of --images, --csv and --image"),
        (("--images", "{scans}", "--image_root", "d", "--save", "p.csv"), "leave it out"),
        (("--images", "{scans}", "--cache_dir", "d", "--save", "p.csv"), "need no cache"),
        (("--images", "{scans}", "--save_overlay", "o.png"), "there are 5 images; give a folder"),
        (("--image", "{scans}/gone.png"), "no such image"),
        (("--images", "{scans}/gone", "--save", "p.csv"), "no such image"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(
    model: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    filled = [flag.format(scans=scans) for flag in flags]
    assert said in one_line_error(*infer(model, *filled))
    assert sorted(tmp_path.rglob("*")) == before


# --- DICOM -----------------------------------------------------------------------------------------------------------


def test_dicom_is_predicted_as_its_png_and_nothing_of_its_header_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pydicom = pytest.importorskip("pydicom")
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8)).resize((90, 70))
    pixels = np.asarray(coarse).astype(np.uint16) * 16
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4"
    ds = pydicom.Dataset()
    ds.file_meta = meta
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.PatientName, ds.PatientID, ds.StudyDate = "Quixote^Alonso", "ID-77315", "16050116"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 16, 12, 11, 0, 1
    ds.PhotometricInterpretation, ds.PixelData = "MONOCHROME2", pixels.tobytes()
    (tmp_path / "pacs").mkdir()
    # One by its suffix, one by its mark.
    for name in ("a.dcm", "1.2.3"):
        ds.save_as(tmp_path / "pacs" / name, enforce_file_format=True)
    run("convert_dicom.py", "--src", tmp_path / "pacs", "--out", tmp_path / "png", "--workers", 1)
    png = tmp_path / "png" / "a.png"
    for size in (None, 64):
        np.testing.assert_array_equal(read_xray(tmp_path / "pacs" / "a.dcm", size), read_grey(png, size))
    out = tmp_path / "out"
    save = ("--save", out / "p.csv", "--save_overlay", out / "o", "--save_vis_dir", out / "v")
    run(*infer(model, "--images", tmp_path / "pacs", *save))
    run(*infer(model, "--images", png, "--save", tmp_path / "png.csv"))
    of_dicom = rows_of(out / "p.csv")
    assert [row.pop("image") for row in of_dicom] == ["1.2.3", "a.dcm"]
    (of_png,) = rows_of(tmp_path / "png.csv")
    of_png.pop("image")
    assert of_dicom == [of_png, of_png]
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) > 6
    for path in written:
        for secret in (b"Quixote", b"77315", b"16050116"):
            assert secret not in path.read_bytes(), path
    monkeypatch.setattr("roi.sources.dicom.header.find_spec", lambda name: None)
    for flags in (("--images", tmp_path / "pacs", "--save", "-"), ("--image", tmp_path / "pacs" / "a.dcm")):
        assert "needs the package pydicom: pip install" in one_line_error(*infer(model, *flags))


def test_a_model_of_studies_says_what_it_needs(tmp_path: Path, scans: Path) -> None:
    from roi.models.fusion import build_study_model

    one = torch.load(save_checkpoint(tmp_path / "m.pt"), weights_only=True)
    made = build_study_model("test_resnet", CLASSES, "mean_p", "none", 64, 0, True, width=8, cells=2)
    flags = {**one["args"], "mask": "none", "fusion": "mean_p", "fusion_width": 8, "fusion_cells": 2}
    checkpoint.save(tmp_path / "s.pt", {**one, **checkpoint.parts(made), "args": flags})
    said = one_line_error(*infer(tmp_path / "s.pt", "--images", scans, "--save", tmp_path / "p.csv"))
    assert "is a model of studies" in said and "--csv with the columns image and study_id" in said


def test_the_table_of_images_knows_the_patients_of_published_names(scans: Path) -> None:
    draw(scans / "00000013_005.png", 1)
    table = table_of(find_images([scans]))
    assert dict(zip(table["image"], table["patient_id"], strict=True))["00000013_005.png"] == "nih:13"


# --- what is the user's ----------------------------------------------------------------------------------------------


def test_no_output_takes_the_place_of_what_is_read(model: Path, tmp_path: Path) -> None:
    """--overwrite is for outputs of an earlier run."""
    xray, table = tmp_path / "x" / "a.png", tmp_path / "x" / "t.csv"
    draw(xray, 1)
    table.write_text("image\na.png\n")
    (tmp_path / "x" / "link.png").symlink_to(xray)
    before = {path: path.read_bytes() for path in (xray, table)}
    wrong: tuple[tuple[object, ...], ...] = (
        ("--image", xray, "--save_mask", xray),
        ("--image", xray, "--save_crop", tmp_path / "x" / "link.png"),
        ("--image", xray, "--save_overlay", xray),
        ("--images", xray, "--save_overlay", xray),
        ("--images", tmp_path / "x" / "a*.png", "--save_overlay", xray),
        ("--csv", table, "--save", table),
        ("--csv", table, "--save_overlay", tmp_path / "x"),
        ("--images", tmp_path / "x" / "a.png", "--save_overlay", tmp_path / "x"),
        ("--images", tmp_path / "x", "--save_vis_dir", tmp_path / "x"),
        ("--images", xray, "--save_vis_dir", tmp_path / "x"),
    )
    for flags in wrong:
        said = one_line_error(*infer(model, *flags, "--overwrite"))
        assert "choose another" in said, flags
    assert all(path.read_bytes() == content for path, content in before.items())
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["a.png", "link.png", "t.csv"]


@pytest.mark.parametrize("flag", ["--save", "--save_overlay", "--save_vis_dir", "--save_masks"])
def test_an_output_below_a_file_is_one_line(model: Path, tmp_path: Path, flag: str) -> None:
    draw(tmp_path / "a.png", 1)
    said = one_line_error(*infer(model, "--images", tmp_path / "a.png", flag, tmp_path / "a.png" / "x" / "p.csv"))
    assert "p.csv: cannot " in said and "Errno" not in said


def test_a_cache_below_a_file_and_files_that_are_something_else_are_one_line(model: Path, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    (tmp_path / "t.csv").write_text("image\na.png\n")
    (tmp_path / "empty.png").write_bytes(b"")
    table = ("--csv", tmp_path / "t.csv", "--image_root", tmp_path, "--save", tmp_path / "p.csv")
    below = one_line_error(*infer(model, *table, "--cache_dir", tmp_path / "t.csv" / "cache"))
    assert "t.csv/cache: cannot be written" in below and "is a file and no folder" in below
    for path, words in (
        ("a.png", "it is a picture (PNG)"),
        ("t.csv", "neither safetensors"),
        ("empty.png", "is empty"),
    ):
        said = one_line_error(*infer(tmp_path / path, "--image", tmp_path / "a.png"))
        assert words in said and "Python objects" not in said
    said = one_line_error(*infer(model, "--image", tmp_path / "empty.png"))
    assert "empty.png: cannot be read as an image (it is empty, 0 bytes)" in said
    assert "a.png: not a CSV table (it is no text in UTF-8)" in one_line_error(
        *infer(model, "--csv", tmp_path / "a.png", "--save", tmp_path / "p.csv")
    )
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.png", "empty.png", "t.csv"]


def test_a_folder_is_not_made_for_what_is_refused(model: Path, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    outputs = ("--save", tmp_path / "new" / "p.csv", "--save_overlay", tmp_path / "new" / "o")
    one_line_error(*infer(tmp_path / "none.pt", "--images", tmp_path / "a.png", *outputs))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("flag", ["--save_overlay", "--save_mask", "--save_crop"])
def test_a_picture_of_another_kind_is_refused(model: Path, tmp_path: Path, flag: str) -> None:
    draw(tmp_path / "a.png", 1)
    said = one_line_error(*infer(model, "--image", tmp_path / "a.png", flag, tmp_path / "o.jpg"))
    assert "ends in .png" in said and not (tmp_path / "o.jpg").exists()


def test_an_empty_name_is_not_the_folder_where_we_are(model: Path, tmp_path: Path) -> None:
    """--images "$UNSET" would predict whatever lies there."""
    assert "a variable of the shell" in one_line_error(*infer(model, "--images", "", "--save", tmp_path / "p.csv"))


def test_pictures_are_counted_that_were_made(model: Path, scans: Path, tmp_path: Path) -> None:
    (scans / "broken.png").write_bytes(b"no image")
    flags = ("--images", scans, "--save_vis_dir", tmp_path / "v", "--skip_unreadable")
    assert "pictures of 5 images" in run(*infer(model, *flags))

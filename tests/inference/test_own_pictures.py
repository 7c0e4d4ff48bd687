"""What runs leave behind is no X-ray of the next one: pictures, PNG beside DICOM, a run that was ended."""

from pathlib import Path

import numpy as np
import pytest
from conftest import one_line_error, run
from PIL import Image
from tiny_checkpoint import draw, save_checkpoint

import roi
from roi.errors import UserError
from roi.inference.image_files import find_images
from roi.inference.pictures.overlay_writer import OverlayWriter
from roi.scoring.pictures import own_picture, save_png


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint with a mask, and one without."""
    folder = tmp_path_factory.mktemp("models")
    return {mask: save_checkpoint(folder / f"{mask}.pt", mask) for mask in ("features", "none")}


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for n in range(4):
        draw(tmp_path / "scans" / f"{n}.png", n)
    return tmp_path / "scans"


def infer(model: Path, *flags: object) -> tuple[object, ...]:
    return ("infer_roi_consistency.py", "--checkpoint", model, "--workers", 0, "--device", "cpu", *flags)


def names(*paths: object) -> list[str]:
    return [image.name for image in find_images(list(map(str, paths)))]


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_among_x_rays_are_left_out_and_counted(
    models: dict[str, Path], scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Masks, crops, overlays and Grad-CAM, whatever folder they lie in and however they are named."""
    before = names(scans)
    places = ("--save_overlay", scans / "pages", "--save_vis_dir", scans / "vis")
    run(*infer(models["features"], "--images", scans, *places))
    run(*infer(models["none"], "--images", scans / "0.png", "--save_vis_dir", scans / "cam"))
    one = ("--save_mask", scans / "mask.png", "--save_crop", scans / "crop.png", "--save_overlay", scans / "page.png")
    run(*infer(models["features"], "--image", scans / "1.png", *one))
    capsys.readouterr()
    assert names(scans) == before
    # 4 pages, 4 times mask, crop and overlay, a Grad-CAM, and three of one image.
    assert "left out 20 pictures that this program made" in capsys.readouterr().out
    assert names(*sorted(scans.rglob("*.png"))) == before
    said = run(*infer(models["features"], "--images", scans, "--save", scans / "p.csv"))
    assert "left out 20 pictures" in said and "p.csv: 4 images" in said
    with pytest.warns(UserWarning, match="left out 20 pictures"):
        assert roi.load_model(models["features"], device="cpu").predict(scans).images == before


def test_pictures_alone_are_no_x_rays(models: dict[str, Path], scans: Path) -> None:
    run(*infer(models["features"], "--images", scans, "--save_overlay", scans.parent / "pages"))
    page = scans.parent / "pages" / "0_overlay.png"
    for given in (page, page.parent):
        with pytest.raises(UserError, match="is a picture that this program made, no X-ray"):
            find_images([given])
    # Asked for by name, it is predicted.
    assert f"{page}: is a picture that this program made" in run(*infer(models["features"], "--image", page))


def test_the_mark_changes_no_pixel_and_is_in_no_other_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40), dtype=np.uint8)
    for mode in ("L", "RGB", "P"):
        picture = Image.fromarray(pixels).convert(mode)
        save_png(picture, tmp_path / "own.png", "mask", contaminated=True)
        picture.save(tmp_path / "other.png")
        assert own_picture(tmp_path / "own.png") and not own_picture(tmp_path / "other.png")
        np.testing.assert_array_equal(Image.open(tmp_path / "own.png"), Image.open(tmp_path / "other.png"))
    assert Image.open(tmp_path / "own.png").info["roi"] == "mask"
    assert not own_picture(tmp_path / "not_there.png")


# --- PNG beside DICOM ------------------------------------------------------------------------------------------------


def write_dicom(path: Path, seed: int) -> None:
    pydicom = pytest.importorskip("pydicom")
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((90, 70))).astype(np.uint16) * 16
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", f"1.2.3.{seed}"
    ds = pydicom.Dataset()
    ds.file_meta = meta
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 16, 12, 11, 0, 1
    ds.PhotometricInterpretation, ds.PixelData = "MONOCHROME2", pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("place", [".", "png", ".."])
def test_a_second_conversion_takes_no_png(tmp_path: Path, place: str) -> None:
    """--out is --src, lies in it, or holds it."""
    src = tmp_path / "set" / "pacs"
    for n, name in enumerate(("a.dcm", "p1/1.2.3")):
        write_dicom(src / name, n)
    convert = ("convert_dicom.py", "--src", src, "--out", src / place, "--workers", 1)
    said = run(*convert)
    assert ("name one of the two to --images" in said) == (place != ".")
    files = sorted((tmp_path / "set").rglob("*"))
    assert "0 converted, 2 skipped" in run(*convert)
    assert sorted((tmp_path / "set").rglob("*")) == files


def test_an_x_ray_as_dicom_and_as_png_beside_it_is_predicted_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = tmp_path / "pacs"
    for n, name in enumerate(("a.dcm", "p1/1.2.3", "b.dcm")):
        write_dicom(src / name, n)
    run("convert_dicom.py", "--src", src, "--out", src, "--workers", 1)
    (src / "b.png").unlink()
    assert names(src) == ["a.png", "b.dcm", "p1/1.2.3.png"]
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "left out 2 DICOM files beside a PNG of the same name" in said


# --- a run that is ended ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(143)])
def test_a_run_that_is_ended_says_what_is_there_and_how_to_go_on(
    models: dict[str, Path], scans: Path, monkeypatch: pytest.MonkeyPatch, end: BaseException
) -> None:
    write = OverlayWriter.write

    def ended(self: OverlayWriter, outcome: "roi.inference.predict.Outcome") -> None:
        if outcome.row == 2:
            raise end
        write(self, outcome)

    pages, table = scans.parent / "pages", scans.parent / "p.csv"
    go = infer(models["features"], "--images", scans, "--save", table, "--save_overlay", pages)
    with monkeypatch.context() as patch:
        patch.setattr(OverlayWriter, "write", ended)
        said = run(*go, code=143 if isinstance(end, SystemExit) else 130)
    line = next(line for line in said.splitlines() if line.startswith("stopped"))
    assert line == (
        f"stopped after 2 of 4 images; the pictures in {pages} are whole, each of them; not written: {table}; "
        "the same command with --overwrite makes all of it"
    )
    assert sorted(path.name for path in pages.iterdir()) == ["0_overlay.png", "1_overlay.png"]
    left = {path.name: path.read_bytes() for path in pages.iterdir()}
    assert not table.exists() and not list(table.parent.glob("*.lock"))
    # Without it nothing is lost, with it all of it is made.
    assert f"{pages} exists" in one_line_error(*go)
    assert {path.name: path.read_bytes() for path in pages.iterdir()} == left
    run(*go, "--overwrite")
    assert len(list(pages.iterdir())) == 4 and table.exists()

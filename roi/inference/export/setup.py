"""From the flags of export_model.py to its files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roi.errors import UserError
from roi.files import can_be_made, contents, locked, refuse_existing
from roi.inference.export.hub_folder import write_folder
from roi.inference.export.model import Export, read_scores, write_safetensors
from roi.inference.export.onnx_file import write_onnx
from roi.inference.origin import refuse_untrained
from roi.models import exported
from roi.models.exported import HUB_WEIGHTS
from roi.training import checkpoint

OF_FOLDER = (HUB_WEIGHTS, str(exported.second_file_below(Path(HUB_WEIGHTS))), "config.json", "README.md")


@dataclass(frozen=True)
class ExportFlags:
    """As the flags of the same name give them."""

    checkpoint: str
    out: str | None
    hub_dir: str | None
    metrics: str | None
    data_licence: str
    fingerprints: bool
    keep_ratio: float | None
    overwrite: bool


def export(flags: ExportFlags) -> None:
    """Write what was asked for; nothing where anything is wrong with the flags."""
    check_outputs(flags)
    # NCHW: others load the weights as they are written.
    model, state = checkpoint.load_model(flags.checkpoint, channels_last=False)
    # Whoever gets it would not see that it was never trained.
    refuse_untrained(flags.checkpoint, state)
    metrics = read_scores(flags.metrics, state, flags.checkpoint)
    unknown_patients = flags.fingerprints and state["contaminated"] is None
    what = Export(model, state, metrics, flags.fingerprints and not unknown_patients)
    if state["contaminated"]:
        print("CONTAMINATED: the checkpoint was trained on test images; what is written says so")
    if state.get("synthetic"):
        print("SYNTHETIC: the checkpoint was trained on drawn images alone; what is written says so")
    if not flags.metrics:
        print("without --metrics there are no thresholds, and a model card has no scores")
    if flags.out:
        path = Path(flags.out)
        with locked(path):
            if path.suffix == ".onnx":
                write_onnx(what, path, flags.keep_ratio)
            else:
                write_safetensors(what, path, exported.second_file(path))
    if flags.hub_dir:
        write_folder(what, Path(flags.hub_dir), flags.data_licence)


def check_outputs(flags: ExportFlags) -> None:
    """UserError where something would be replaced without --overwrite, or cannot be written."""
    if flags.out:
        path = Path(flags.out)
        files = [path] if path.suffix == ".onnx" else [path, exported.second_file(path)]
        refuse_checkpoint(f"--out {path}", flags.checkpoint, files)
        refuse_existing(*files, overwrite=flags.overwrite)
        can_be_made(path)
    if not flags.hub_dir:
        return
    folder = Path(flags.hub_dir)
    refuse_checkpoint(f"--hub_dir {folder}", flags.checkpoint, [folder / name for name in OF_FOLDER])
    refuse_existing(folder, overwrite=flags.overwrite)
    # With --overwrite too, a folder of something else is not written into.
    if folder.is_dir() and any(folder.iterdir()) and not is_export(folder):
        raise UserError(f"--hub_dir {folder}: holds {contents(folder)}, no earlier export; choose a new folder")
    for name in OF_FOLDER:
        can_be_made(folder / name)


def refuse_checkpoint(flag: str, checkpoint_file: str, outputs: Sequence[Path]) -> None:
    """UserError where the checkpoint that is read would be replaced."""
    if Path(checkpoint_file).resolve() in [path.resolve() for path in outputs]:
        raise UserError(f"{flag}: is the checkpoint itself; choose another name")


def is_export(folder: Path) -> bool:
    """Whether the folder is one of --hub_dir: models of others have a config.json, too."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "roi_consistency" in config

"""Runs of the report: which files a run folder has, and whether metrics.json is one of evaluate.py."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

EVALUATE = "evaluate.py --preds preds.json --csv nih_roi_test.csv --out scores"


@dataclass
class Run:
    folder: Path
    name: str
    metrics: dict[str, Any]
    log: pd.DataFrame | None  # columns of roi/log.py, a row an epoch
    log_file: str  # where it was read, or why there is none

    def find(self, file: str | None) -> Path | None:
        """A path of metrics.json: from the current folder, else from the run's; None where there is no such file."""
        candidates = [Path(file), self.folder / file] if file else []
        return next((p for p in candidates if p.exists()), None)


def read_run(path: str | Path) -> Run:
    """A run folder (DIR/scores/metrics.json or DIR/metrics.json), or the file itself. ValueError: there is none, or it is not one."""
    path = Path(path)
    files = [path / "scores" / "metrics.json", path / "metrics.json"] if path.is_dir() else [path]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        raise ValueError(f"{path}: no scores/metrics.json there (--runs); make it with {EVALUATE.replace('--out scores', f'--out {path}/scores')}")
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
        for key in ("mean", "per_class"):
            if not isinstance(metrics[key], dict) or not all(isinstance(v, dict) for v in metrics[key].values()):
                raise TypeError(f"{key!r} is not an object of objects")
        for key in ("calibration", "subgroups", "comparison", "faithfulness", "localization", "conformal", "predictions", "inputs"):
            if not isinstance(metrics.get(key) or {}, dict):
                raise TypeError(f"{key!r} is not an object")
        _ = int(metrics["n_images"]), metrics["contaminated"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: not a metrics.json of evaluate.py ({type(error).__name__}: {error})") from error
    folder = file.parent.parent if file.parent.name == "scores" else file.parent
    run = Run(folder, run_name(metrics, folder), metrics, None, "")
    flagged = (metrics.get("predictions") or {}).get("args", {}) or {}
    for log in (folder / "train_metrics.csv", folder / "metrics.csv", run.find(flagged.get("log_csv"))):
        if log is not None and log.is_file():
            run.log_file = str(log)
            try:
                table = pd.read_csv(log)
                run.log = table if "epoch" in table and len(table) else None
            except (ValueError, OSError):
                run.log = None
            break
    return run


def run_name(metrics: dict[str, Any], folder: Path) -> str:
    """What the training flags call it: the mode, or the kind of mask and the terms left out; else the folder's name."""
    args = (metrics.get("predictions") or {}).get("args") or {}
    if args.get("mode"):
        return str(args["mode"])
    if args.get("mask"):
        return f"{args['mask']} mask" + (f" without {', '.join(args['without'])}" if args.get("without") else "")
    return folder.resolve().name

"""The report: run folders with metrics.json -> one HTML page that needs nothing but itself.

What is not there makes its section say so, with the command that makes it. Each group of sections is a module, report_*.py.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from roi.report.html import CSS, POLICY, SCRIPT, Cell, banner, esc, fold, missing, table
from roi.report.run_folder import Run
from roi.report.section_cases import cases
from roi.report.section_compare import ablation, comparison
from roi.report.section_evidence import faithfulness, localisation
from roi.report.section_scores import calibration, headline, per_finding, subgroups
from roi.report.section_sets import conformal_sets
from roi.report.section_training import training

ROOT = Path(__file__).resolve().parents[2]
# Blocks of metrics.json that stand in sections of other names
OF_SCORES = ("n_patients", "split", "label_source", "classes_not_predicted", "classes_undefined", "command")
OF_FINDINGS = ("thresholds", "micro", "hamming")


def page(runs: Sequence[Run], image_root: str | None = None, count: int = 24, title: str = "Evidence report") -> str:
    """The whole page; the first run in full, all of them in the ablation table where there are several."""
    run = runs[0]
    sections: list[tuple[str, str, str]] = [
        ("scores", "Scores and split", run.left_out(*OF_SCORES) + headline(run)),
        ("training", "Training", training(run)),
        ("findings", "Findings", run.left_out(*OF_FINDINGS) + per_finding(run)),
        ("calibration", "Calibration", run.left_out("calibration") or calibration(run)),
        ("sets", "Prediction sets", run.left_out("conformal") or conformal_sets(run)),
        ("faithfulness", "Faithfulness against controls", run.left_out("faithfulness") or faithfulness(run)),
        ("localisation", "Localisation", run.left_out("localization") or localisation(run)),
        ("gallery", "Gallery", run.left_out("inputs") + cases(run, image_root, count)),
        ("subgroups", "Subgroups", run.left_out("subgroups") or subgroups(run)),
        ("comparison", "Comparison", run.left_out("comparison") or comparison(run)),
        ("ablation", "Runs side by side", ablation(runs) if len(runs) > 1 else ""),
        ("configuration", "Configuration", run.left_out("predictions") + configuration(run)),
    ]
    sections = [section for section in sections if section[2]]
    nav = "".join(f'<a href="#{key}">{esc(name)}</a>' for key, name, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{esc(name)}</h2>{content}</section>' for key, name, content in sections)
    marked = run.metrics["contaminated"]
    alarm = (
        banner("CONTAMINATED: the checkpoint was trained on images or patients scored here. These are not test scores.")
        if marked
        else ""
    )
    title = f"CONTAMINATED: {title}" if marked else title
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{esc(title)}</title><style>{CSS}</style></head>\n'
        f'<body><header><h1>{esc(title)}</h1><p class="note">Run: {esc(run.name)}, {esc(run.folder)}'
        + (f"; beside {len(runs) - 1} other{'s' if len(runs) > 2 else ''}" if len(runs) > 1 else "")
        + f"</p>{alarm}<nav>{nav}</nav></header>\n<main>{body}</main>\n<script>{SCRIPT}</script></body></html>\n"
    )


def configuration(run: Run) -> str:
    m, made = run.metrics, run.metrics.get("predictions") or {}
    given = m.get("inputs") or {}
    facts: list[tuple[str, object]] = [
        ("Images", m["n_images"]),
        ("Patients", m.get("n_patients")),
        ("Classes", len(m["per_class"])),
        ("Split", m.get("split")),
        ("Labels", m.get("label_source")),
        ("Trained on these images or patients", {True: "yes", False: "no"}.get(m["contaminated"])),
        *((f"Input: {k}", ", ".join(map(str, v)) if isinstance(v, list) else v) for k, v in given.items() if v),
        ("Checkpoint", made.get("checkpoint")),
        ("Epoch", made.get("epoch")),
        ("Share of pixels kept", made.get("keep_ratio")),
        (
            "Versions",
            ", ".join(f"{k} {v}" for k, v in made["versions"].items())
            if isinstance(made.get("versions"), dict)
            else made.get("versions"),
        ),
        ("Commit of the code that made this page", commit()),
        ("Command of the predictions", made.get("command")),
        ("Command of the scores", m.get("command")),
        ("Command of this page", shlex.join(sys.argv)),
    ]

    def lines(pairs: Iterable[tuple[str, object]]) -> list[list[object]]:
        return [[k, Cell(f"<code>{esc('unknown' if v is None else v)}</code>", "", "text wrap")] for k, v in pairs]

    flags = made.get("args")
    args = (
        table(
            ("Flag", "Value"),
            lines((f"--{k}", json.dumps(v) if not isinstance(v, str) else v) for k, v in flags.items()),
        )
        if flags
        else ""
    )
    return table(("What", "Value"), lines(facts)) + (
        fold("Training flags", args)
        if args
        else missing("The training flags are not known: these predictions say nothing of their checkpoint.")
    )


def commit() -> str:
    """Of the project's own repository, with a mark where tracked files differ from it; 'unknown' outside one."""
    try:
        said = [
            subprocess.run(
                ["git", *command], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
            ).stdout.strip()
            for command in (
                ["rev-parse", "--show-toplevel"],
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        ]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return (said[1] + (" with uncommitted changes" if said[2] else "")) if Path(said[0]) == ROOT else "unknown"

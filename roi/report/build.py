"""The report: run folders with metrics.json -> one HTML page that needs nothing but itself.

What is not there makes its section say so, with the command that makes it. Each group of sections is a module,
in roi/report/sections/.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from roi.labels import is_finding
from roi.report.gallery_files import read_scored
from roi.report.glossary import glossary
from roi.report.html import Block, Cell, Row, banner, esc, fold, missing, note, table
from roi.report.page_script import SCRIPT
from roi.report.page_style import CSS, POLICY
from roi.report.run_folder import Run
from roi.report.sections.calibration import calibration
from roi.report.sections.cases import four_cases, gallery_section, read_gallery
from roi.report.sections.compare import ablation, comparison
from roi.report.sections.faithfulness import faithfulness
from roi.report.sections.localisation import localisation
from roi.report.sections.long_tail import long_tail
from roi.report.sections.scores import headline, per_finding
from roi.report.sections.sets import conformal_sets
from roi.report.sections.studies import studies
from roi.report.sections.subgroups import subgroups
from roi.report.sections.training import training
from roi.text import decimal

# The folder of the project: the commit of the page is that of its repository.
ROOT = Path(__file__).resolve().parents[2]
# Blocks of metrics.json that stand in sections of other names.
OF_SCORES = ("n_patients", "split", "label_source", "classes_not_predicted", "classes_undefined", "command")
OF_FINDINGS = ("thresholds", "micro", "hamming")
CONTAMINATED = "CONTAMINATED: the checkpoint was trained on images or patients scored here. These are not test scores."
SYNTHETIC = "SYNTHETIC: these images are drawn, no X-rays (make_demo_dataset.py). The scores tell nothing of patients."
TRAINED_ON_SYNTHETIC = "SYNTHETIC: the model was trained on drawn images alone. It has never seen an X-ray."

CARE = note(
    "Not a medical device: for research, no decision on a patient may rest on it. Private: X-rays and names of their "
    "files are inside this page, so whoever gets it gets them. It loads nothing and sends nothing."
)


def page(
    runs: Sequence[Run],
    image_root: str | None = None,
    count: int = 24,
    title: str = "Evidence report",
    with_host: bool = True,
) -> str:
    """The whole page.

    Args:
        runs: the first is described in full; all stand in the ablation table where there are several.
        image_root: folder of the images for the gallery; None takes the one in metrics.json.
        count: cases of the gallery at most.
        title: of the page.
        with_host: name the machines in its head.
    """
    run = runs[0]
    links = body = alarm = ""
    for key, name, content in sections(runs, image_root, count):
        if content:
            links += f'<a href="#{key}">{esc(name)}</a>'
            heading = f"<h2>{esc(name)}</h2>"
            body += f'<section id="{key}">{heading}{content}</section>'
    # In the title too: it is what stays visible in a tab, a bookmark and the name of a printed file.
    alarm += synthetic_banner(runs)
    if run.metrics["contaminated"]:
        alarm += banner(CONTAMINATED)
        title = f"CONTAMINATED: {title}"
    others = len(runs) - 1
    subtitle = f"Run: {esc(run.name)}, {esc(run.folder)}"
    if others == 1:
        subtitle += "; beside 1 other"
    elif others:
        subtitle += f"; beside {others} others"
    made = note(made_by(run, with_host))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{esc(title)}</title><style>{CSS}</style></head>\n"
        f'<body><header><h1>{esc(title)}</h1>{lead(run)}{alarm}<p class="note">{subtitle}</p>{made}{CARE}'
        f"<nav>{links}</nav></header>\n<main>{body}</main>\n{glossary()}<script>{SCRIPT}</script></body></html>\n"
    )


def lead(run: Run) -> str:
    """In one sentence what the page is."""
    findings = int(is_finding(list(run.metrics["per_class"])).sum())
    text = (
        f"How well one model recognises {findings} findings on {run.metrics['n_images']:,} chest X-rays, how sure that "
        "is, where it looks, and whether what it looks at matters."
    )
    return f'<p class="lead">{esc(text)}</p>'


def made_by(run: Run, with_host: bool) -> str:
    """When and where it was scored, which model it is, what it was trained on and how long; what is known of it."""
    predictions = run.block("predictions")
    trained = predictions.get("training") or {}
    args = predictions.get("args") or {}
    # Runs of before say little of it: what is not known is left out.
    parts = []
    if run.metrics.get("date"):
        parts.append(f"Scored {at_host(run.metrics['date'], run.metrics.get('host'), with_host)}")
    backbone = predictions.get("backbone") or args.get("backbone")
    if backbone:
        parameters = predictions.get("parameters")
        size = f", {parameters / 1e6:,.1f} million parameters" if parameters else ""
        parts.append(f"Model: {backbone}{size}")
    training = training_set(trained)
    # Checkpoints of before do not say how long they took; the log does.
    hours = trained.get("hours") or hours_of_log(run)
    if hours:
        training += f", {decimal(hours, 2)} hours"
    if trained.get("begun"):
        training += f", begun {at_host(trained['begun'], trained.get('host'), with_host)}"
    if training:
        parts.append(f"Trained {training.removeprefix(', ')}")
    return "; ".join(parts) + "." if parts else "When, where and on what this was made is not known."


def at_host(date: str, host: str | None, with_host: bool) -> str:
    """'2026-01-31 13:45 UTC on gpu7'"""
    text = date[:16].replace("T", " ") + " UTC"
    return f"{text} on {host}" if host and with_host else text


def training_set(trained: Block) -> str:
    """'on train.csv (86,524 images)'"""
    count = f"{trained['images']:,} images" if "images" in trained else ""
    if trained.get("table"):
        return f"on {trained['table']}" + (f" ({count})" if count else "")
    return f"on {count}" if count else ""


def hours_of_log(run: Run) -> float:
    """What the epochs of the log took, for checkpoints that do not say."""
    if run.log is None or "seconds" not in run.log:
        return 0.0
    return float(run.log["seconds"].sum()) / 3600


def synthetic_banner(runs: Sequence[Run]) -> str:
    """What must stand above scores of drawn images, or of a model that has seen nothing else."""
    if any(run.metrics.get("synthetic") for run in runs):
        return banner(SYNTHETIC)
    if any(run.metrics.get("trained_on_synthetic") for run in runs):
        return banner(TRAINED_ON_SYNTHETIC)
    return ""


def sections(runs: Sequence[Run], image_root: str | None, count: int) -> list[tuple[str, str, str]]:
    """Key, title and content of each section; a section without content is not shown.

    A block of metrics.json that is odd takes the place of its section, or stands before what the others still show.
    """
    run = runs[0]
    scored = read_scored(run)
    gallery = read_gallery(run, scored, image_root, count)
    side_by_side = ablation(runs) if len(runs) > 1 else ""
    return [
        ("scores", "Scores and split", run.left_out(*OF_SCORES) + headline(run)),
        ("cases", "Four cases", four_cases(gallery)),
        ("findings", "Findings", run.left_out(*OF_FINDINGS) + per_finding(run, scored)),
        ("long_tail", "Long tail", run.left_out("long_tail") or long_tail(run)),
        ("localisation", "Localisation", run.left_out("localization") or localisation(run)),
        ("faithfulness", "Faithfulness against controls", run.left_out("faithfulness") or faithfulness(run)),
        ("gallery", "Gallery", run.left_out("inputs") + gallery_section(gallery, count)),
        ("studies", "Studies", run.left_out("view_pointing") + studies(run, image_root, count // 2)),
        ("calibration", "Calibration", run.left_out("calibration") or calibration(run, scored)),
        ("sets", "Prediction sets", run.left_out("conformal") or conformal_sets(run)),
        ("subgroups", "Subgroups", run.left_out("subgroups") or subgroups(run)),
        ("comparison", "Comparison", run.left_out("comparison") or comparison(run)),
        ("ablation", "Runs side by side", side_by_side),
        ("training", "Training", training(run)),
        ("configuration", "Configuration", run.left_out("predictions") + configuration(run)),
    ]


def configuration(run: Run) -> str:
    """Everything that somebody needs to make these numbers again."""
    text = table(("What", "Value"), code_rows(facts(run)))
    flags = run.block("predictions").get("args")
    if not flags:
        return text + missing("The training flags are not known: these predictions say nothing of their checkpoint.")
    values = [(f"--{name}", flag_text(value)) for name, value in flags.items()]
    return text + fold("Training flags", table(("Flag", "Value"), code_rows(values)))


def facts(run: Run) -> list[tuple[str, object]]:
    """What was scored, with what, and by which commands; None is unknown."""
    metrics = run.metrics
    predictions = run.block("predictions")
    # null where predictions of others do not say: unknown.
    contaminated = {True: "yes", False: "no"}.get(metrics["contaminated"])
    kept = [("Share of pixels kept", predictions.get("keep_ratio"))] if run.has_mask else []
    return [
        ("Images", metrics["n_images"]),
        ("Patients", metrics.get("n_patients")),
        ("Classes", len(metrics["per_class"])),
        ("Split", metrics.get("split")),
        ("Labels", metrics.get("label_source")),
        ("Trained on these images or patients", contaminated),
        *input_files(metrics.get("inputs") or {}),
        ("Checkpoint", predictions.get("checkpoint")),
        ("Epoch", predictions.get("epoch")),
        *kept,
        ("Versions", version_text(predictions.get("versions"))),
        ("Commit of the code that made this page", commit()),
        ("Command of the predictions", predictions.get("command")),
        ("Command of the scores", metrics.get("command")),
        ("Command of this page", shlex.join(sys.argv)),
    ]


def input_files(inputs: Block) -> list[tuple[str, object]]:
    """The files that were given to evaluate.py; several of a kind on one line."""
    rows: list[tuple[str, object]] = []
    for name, value in inputs.items():
        if value:
            if isinstance(value, list):
                value = ", ".join(map(str, value))
            rows.append((f"Input: {name}", value))
    return rows


def version_text(versions: object) -> object:
    if not isinstance(versions, dict):
        return versions
    return ", ".join(f"{package} {version}" for package, version in versions.items())


def flag_text(value: object) -> str:
    """Of a training flag; text stands without quotation marks."""
    return value if isinstance(value, str) else json.dumps(value)


def code_rows(pairs: Iterable[tuple[str, object]]) -> list[Row]:
    """Rows of a table of names and values, the values in the letters of code."""
    rows: list[Row] = []
    for name, value in pairs:
        text = esc("unknown" if value is None else value)
        rows.append([name, Cell(f"<code>{text}</code>", "", "text wrap")])
    return rows


def commit() -> str:
    """Of the project's own repository, with a mark where tracked files differ from it; 'unknown' outside one."""
    try:
        top = git("rev-parse", "--show-toplevel")
        head = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    # A copy of the code without its history may lie inside another repository, whose commit says nothing of it.
    if Path(top) != ROOT:
        return "unknown"
    return f"{head} with uncommitted changes" if changes else head


def git(*command: str) -> str:
    result = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    return result.stdout.strip()

"""The command blocks of README.md and docs/*.md: each command is known, parses, and runs on small data or says why not.

A new block is run without being named here. What cannot run stands in NOT_RUN with its reason, and still has to parse.
"""

import importlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import ROOT, copy_project, run
from PIL import Image

from roi.cli import Parser
from roi.errors import UserError
from roi.training.recipes import CKPT, LOSS_SPELLINGS, SPELLINGS

# README first, recipes late: what README's commands write is read on the other pages, and recipes write over it.
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
PROGRAMS = ("python", "pip", "tail", "tmux", "sbatch", "torchrun", "docker", "apptainer")
SHELL = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:{'|'.join(PROGRAMS)}|\./\S+)(?: |$)")
# How a command begins, and why it does not run here.
NOT_RUN = {
    "./run_all.sh": "installs an environment; tests/test_run_all.py runs it in one that is there",
    "DATA_PATH=/data/nih BATCH_SIZE=32 ./run_all.sh": "needs NIH's images; tests/test_run_all.py has its settings",
    "tmux": "a terminal of its own",
    "tail -F": "has no end",
    "pip install": "network",
    "python download_datasets.py --download": "network and credentials",
    "python convert_dicom.py": "DICOM files; tests/sources/test_dicom.py and test_people.py make some",
    "python make_chexmultimodal_csv.py --people": "what convert_dicom.py writes; tests/sources/test_people.py",
    "python train_roi_consistency.py --train_csv pacs.csv": "images of a hospital; the tables before it are made alike",
    "python export_model.py --checkpoint checkpoints/nih_roi_consistency_best.pt --out model.onnx": "optional packages",
    "python make_queries.py": "a language model; tests/models/test_queries.py has a small one",
    'python train_multiview.py --train_csv train.csv --image_root "$D" --cache_dir cache --init '
    "checkpoints/images_best.pt --fusion attention --queries": "the queries of a language model",
}
# What stands for a user's own files, and what stands for it here.
STAND_INS = {
    "00000013_005.png": "00000001_000.png",
    "--checkpoint model.pt": "--checkpoint checkpoints/nih_roi_consistency_best.pt",
    "'pacs/**/*.dcm'": "'my_xrays/*.png'",
    "one.dcm": "one.png",
    "--datasets all": "--datasets nih chexpert vindr",
    "--cxrlt 2024.1": "--cxrlt 2024.2",  # of the 26 classes that synthetic studies have
    "cxrlt_train.csv": "nih_roi_train.csv",
}
TRAINING = (
    *("--epochs", "1", "--img_size", "64", "--batch_size", "8", "--workers", "0"),
    *("--device", "cpu", "--autocast_dtype", "fp32", "--overwrite"),
)
# Small flags, after those of the page: argparse takes the last.
SMALL = {
    "train_roi_consistency.py": TRAINING,
    "train_roi_baselines.py": TRAINING,
    "train_multiview.py": TRAINING,
    "infer_roi_consistency.py": ("--device", "cpu", "--workers", "0", "--overwrite"),
    "evaluate.py": ("--resamples", "20", "--overwrite"),
    "export_model.py": ("--overwrite",),
    "make_chexmultimodal_csv.py": (),
    "make_report.py": ("--overwrite",),
    "make_submission.py": ("--overwrite",),
    "calibrate_conformal.py": ("--classes", "Cardiomegaly,Effusion", "--overwrite"),
    "download_datasets.py": (),
}


class Command(NamedTuple):
    """A command of a page, its lines joined."""

    page: str
    line: int
    text: str


def commands_of(page: str) -> list[Command]:
    """Those of its fenced blocks, and of blocks that are indented by four."""
    found: list[Command] = []
    is_fenced = is_shell = False
    text, begun = "", 0
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r" *```(\w*)", line)
        if fence:
            is_fenced, is_shell = not is_fenced, fence[1] in ("bash", "sh")
            continue
        is_indented = not is_fenced and line.startswith("    ") and SHELL.match(line.strip())
        begins = (is_fenced and (is_shell or SHELL.match(line.strip()))) or is_indented
        if not (begins or text) or not line.strip() or (not text and line.strip().startswith("#")):
            continue
        begun = begun if text else number
        text = f"{text} {line.strip()}".strip().removesuffix("\\").strip()
        if not line.rstrip().endswith("\\"):
            found.append(Command(page, begun, text))
            text = ""
    return found


COMMANDS = [command for page in PAGES for command in commands_of(page)]
IDS = [f"{command.page}:{command.line}" for command in COMMANDS]


def reason(command: Command) -> str | None:
    """Why it is not run here."""
    # The longest beginning says most.
    begins = [begin for begin in NOT_RUN if command.text.startswith(begin)]
    return NOT_RUN[max(begins, key=len)] if begins else None


def words_of(command: Command, data: str = "D") -> list[str]:
    """As a shell hands them to the first program, without what follows a #."""
    words = shlex.split(command.text.replace("$D", data), comments=True)
    return words[: words.index("|")] if "|" in words else words


def test_the_pages_have_commands_and_each_is_run_or_listed() -> None:
    assert len(COMMANDS) >= 60 and {command.page for command in COMMANDS} >= {"README.md", "docs/recipes.md"}
    for command in COMMANDS:
        script = words_of(command)[1] if command.text.startswith("python ") else ""
        assert reason(command) or script in SMALL, f"{command}: neither run (SMALL) nor listed (NOT_RUN)"
    for begin in NOT_RUN:
        assert any(command.text.startswith(begin) for command in COMMANDS), f"NOT_RUN: no page has {begin!r} any more"


def test_blocks_are_found_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "a\n\n```bash\n# no\npython a.py --b \\\n    c   # d\n```\n\n    ./run_all.sh --x\n\n  ```\n  rooms\n  ```\n"
    (tmp_path / "p.md").write_text(page)
    monkeypatch.setattr("test_walkthrough.ROOT", tmp_path)
    assert commands_of("p.md") == [("p.md", 5, "python a.py --b c   # d"), ("p.md", 9, "./run_all.sh --x")]


@pytest.mark.parametrize("command", COMMANDS, ids=IDS)
def test_every_command_parses(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    words = words_of(command)
    while "=" in words[0]:
        setting = words.pop(0).partition("=")[0]
        assert re.search(rf"^#   {setting}\b", (ROOT / "run_all.sh").read_text(), re.MULTILINE), setting
    program, *rest = words
    if program == "python":
        parse(rest[0], rest[1:], capsys)
    elif program == "pip":
        assert all((ROOT / file).is_file() for flag, file in zip(rest, rest[1:], strict=False) if flag == "-r")
    else:
        named = [word for text in words for word in re.findall(r"\./\S+\.sh(?: --\w+)?", text + " ")]
        named += [f"{program} {rest[0]}"] if program.startswith("./") and rest else []
        assert program in PROGRAMS or program.startswith("./")
        for script, _, flag in (name.partition(" ") for name in named):
            assert not flag or f"  {flag}) " in (ROOT / script).read_text(), f"{script} has no {flag}"


def parse(script: str, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """By the script's own parser."""
    assert (ROOT / script).is_file()
    try:
        importlib.import_module(script.removesuffix(".py")).parse_args(flags)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)
    except UserError as error:
        pytest.fail(str(error))


def spans_of(page: str) -> list[str]:
    """What stands between backticks outside of blocks and begins with a script of ours."""
    text = re.sub(r"^ *```.*?^ *```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    spans = [" ".join(span.split()).removeprefix("python ") for span in re.findall(r"`([^`]+)`", text)]
    return [span for span in spans if re.match(r"\w+\.py --", span) and (ROOT / span.split()[0]).is_file()]


def known_flags(script: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The flags of a script, spellings of its recipes among them."""
    parsers: list[Parser] = []
    init = Parser.__init__

    def kept(self: Parser, doc: str | None) -> None:
        parsers.append(self)
        init(self, doc)

    with monkeypatch.context() as patch:
        patch.setattr(Parser, "__init__", kept)
        with pytest.raises(SystemExit):
            importlib.import_module(script.removesuffix(".py")).parse_args(["--help"])
    spellings = {CKPT, *(flag for flag, _ in LOSS_SPELLINGS.values())}
    for names in SPELLINGS.values():
        spellings.update(names)
    return set(parsers[0]._option_string_actions) | spellings


def test_flags_that_a_page_names_beside_a_script_are_its_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = [(page, span) for page in PAGES for span in spans_of(page)]
    assert len(spans) > 40
    known = {script: known_flags(script, monkeypatch) for script in {span.split()[0] for _, span in spans}}
    for page, span in spans:
        named = set(re.findall(r"(?<= )--[\w-]+", span))
        assert named <= known[span.split()[0]], f"{page}: {span}"


# What recipes.md leaves out of a command whose other flags are the point.
LEFT_OUT = {
    "train_multiview.py": "--train_csv t.csv --image_root D --cache_dir cache --save s.pt",
    "train_roi_baselines.py": "--train_csv t.csv --image_root D --save s.pt",
    "make_queries.py": "--csv t.csv --out queries.npz",
    "infer_roi_consistency.py": "--checkpoint model.pt --csv t.csv --save p.csv",
    "evaluate.py": "--csv t.csv --out scores",
}
# "T" in its tables.
TRAINED_ON = "--train_csv nih_roi_train.csv --image_root D --save checkpoints/NAME.pt"


def commands_of_recipes() -> list[str]:
    """Those that stand beside the published ones, a choice of words (a|b) once each."""
    found = []
    for span in spans_of("docs/recipes.md"):
        whole = re.sub(r"(?<= )T\b", TRAINED_ON, span.replace("\\|", "|")).replace("--recipe NAME", "--recipe crt")
        # An ellipsis is not to be parsed; the flags beside it are looked at above.
        if "…" in whole:
            continue
        choice = re.search(r"\S*\w\|\S*", whole)
        words = choice[0].split("|") if choice else [""]
        found += [whole.replace(choice[0], word) if choice else whole for word in words]
    return found


@pytest.mark.parametrize("text", commands_of_recipes())
def test_what_recipes_set_beside_a_published_command_is_taken(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    script, *flags = shlex.split(text)
    more = LEFT_OUT.get(script, "") if "--save" not in flags and "--out" not in flags else ""
    # First, so that what the page says is what counts.
    parse(script, [*shlex.split(more), *flags], capsys)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data sets of the pages, small, and with the tables that pages take for granted."""
    folder = tmp_path_factory.mktemp("walk")
    sets, make = folder / "Dataset", ("make_demo_dataset.py", "--size", 48, "--workers", 1)
    for seed, (layout, images) in enumerate({"nih": 120, "chexpert": 30, "vindr": 30}.items()):
        run(*make, "--out", sets / layout, "--layout", layout, "--images", images, "--seed", seed)
    # The challenge labels MIMIC's images.
    for layout in ("mimic", "cxrlt"):
        run(*make, "--out", sets / layout, "--layout", layout, "--studies", 60)
    run("download_datasets.py", "--gather", sets / "nih")
    table = ("make_chexmultimodal_csv.py", "--cxrlt", "2024.2", "--data_root", sets)
    for name, splits in (("train", ("train", "val")), ("test", ("test",)), ("cxrlt", ("train", "val", "test"))):
        run(*table, "--splits", *splits, "--out_csv", folder / f"{name}.csv")
    labelled = sets / "cxrlt" / "cxr-lt-2024" / "test_labeled_task2.csv"
    rows = [line.split(",") for line in labelled.read_text().splitlines()]
    template = "".join(",".join([row[0], *row[6:]]) + "\n" for row in rows)
    (folder / "test_task1_sample_submission.csv").write_text(template)
    (folder / "my_xrays").mkdir()
    xrays = sorted((sets / "nih" / "images").glob("*.png"))[:3]
    for name, xray in zip(("my_xrays/a.png", "my_xrays/b.png", "one.png"), xrays, strict=True):
        shutil.copy(xray, folder / name)
    (folder / "chosen.txt").write_text("my_xrays/b.png\n")
    (folder / "names.csv").write_text("image\nmy_xrays/a.png\n")
    (folder / "my_code").mkdir()
    (folder / "my_code" / "code.py").write_text("# mine\n")
    return folder


def first_line() -> str:
    """README's way from a fresh clone to pages of one's own X-rays."""
    return next(c.text for c in COMMANDS if c.page == "README.md" and c.text.startswith("./run_all.sh --demo && "))


def test_the_line_for_a_newcomer_parses_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    made, then = first_line().split(" && ")
    program, script, *flags = shlex.split(then)
    assert made == "./run_all.sh --demo" and program == ".venv/bin/python"
    parse(script, flags, capsys)
    checkpoint = flags[flags.index("--checkpoint") + 1]
    assert checkpoint.startswith("demo_run/") and "OUT/" + checkpoint.removeprefix("demo_run/") in (
        (ROOT / "run_all.sh").read_text().replace("$OUT", "OUT")
    )


@pytest.mark.slow
def test_one_line_leads_from_a_clone_to_pages_of_ones_own_x_rays(tmp_path: Path) -> None:
    """As README's "Predict" has it, with fewer images and a smaller network."""
    project = copy_project(tmp_path)
    (project / ".venv").symlink_to("venv")
    (project / "my_xrays" / "second").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70), dtype=np.uint8)
    for name in ("first.png", "second/first.jpg"):
        Image.fromarray(pixels).save(project / "my_xrays" / name)
    small = {"DEMO_IMAGES": 120, "VAL_FRACTION": 0.3, "IMG_SIZE": 64, "EPOCHS": 2, "MAX_VIS": 1, "CURVE_SAMPLES": 2}
    settings = {**os.environ, **{name: str(value) for name, value in small.items()}, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", first_line()], cwd=project, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted(path.name for path in (project / "overlays").rglob("*.png"))
    assert len(pages) == 2, pages
    assert "trained on drawn images alone; it has never seen an X-ray" in done.stdout


WALKED: dict[str, str] = {}  # page -> how it ended


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)])
def test_the_commands_of_a_page_run_in_their_order(page: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    # Other pages go on from what README's commands wrote.
    for part in dict.fromkeys(("README.md", page)):
        if part in WALKED:
            continue
        WALKED[part] = "failed"
        for command in COMMANDS:
            if command.page == part and not reason(command):
                walk(command)
        WALKED[part] = "passed"
    assert WALKED[page] == "passed"


def walk(command: Command) -> None:
    text = command.text
    for theirs, ours in STAND_INS.items():
        text = text.replace(theirs, ours)
    # Tables of studies lie beside the sets, that of NIH in its own folder.
    is_of_studies = re.search(r" (?:train|test)\.csv", text)
    words = words_of(command._replace(text=text), "Dataset" if is_of_studies else "Dataset/nih")
    _, script, *flags = words
    try:
        run(script, *flags, *small(script, flags))
    except AssertionError as error:
        raise AssertionError(f"{command.page}:{command.line}: {' '.join(words)}\n{error}") from error


def small(script: str, flags: list[str]) -> tuple[str, ...]:
    """What makes a command small."""
    more = SMALL[script]
    if script.startswith("train_") and "--init" not in flags:
        more += ("--backbone", "test_resnet")
        more += () if "--weights" in flags else ("--weights", "none")
    if "--curves" in flags and script.startswith("infer"):
        more += ("--curve_samples", "4")
    if "--save_vis_dir" in flags:
        more += ("--max_vis", "2")
    if "--init" in flags:
        more = tuple(word for word in more if word not in ("--img_size", "64"))
    return more

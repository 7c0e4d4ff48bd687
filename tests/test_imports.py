"""Which room may import which (docs/architecture.md), what loads no torch, and how long --help takes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

GROUND = "ground floor"
BELOW = {  # room: the rooms that it may import, beside itself and the ground floor
    GROUND: set(),
    "data": set(),
    "models": {"data"},
    "losses": {"models", "data"},
    "demo": set(),
    "sources": {"data"},
    "scoring": {"data"},
    "training": {"losses", "models", "data", "scoring"},
    "report": {"training", "scoring", "data"},
    "inference": {"training", "scoring", "sources", "losses", "models", "data"},
}
# Or rare: imported where used.
HEAVY = (
    "kagglehub",
    "huggingface_hub",
    "pydicom",
    "torch.utils.tensorboard",
    "timm",
    "onnxruntime",
    "scipy",
    "transformers",
)
LIGHT = ("sources", "scoring", "report", "demo")  # load no torch
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))


def modules() -> list[Path]:
    return sorted((ROOT / "roi").rglob("*.py"))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(name: str) -> str:
    """'roi.data.table' -> 'data', 'roi.files' -> the ground floor."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and (ROOT / "roi" / parts[1]).is_dir() else GROUND


def imports(tree: ast.AST) -> list[tuple[str, int]]:
    """(module, line) of each import below a node."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [(f"roi.{a.name}" if node.module == "roi" else node.module, node.lineno) for a in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
    return found


def test_arrows_between_rooms_go_downwards() -> None:
    wrong = []
    for path in modules():
        own = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for name, _ in imports(parsed(path)):
            if name.split(".")[0] == "roi" and room_of(name) not in {own, GROUND} | BELOW[own]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_no_two_modules_import_each_other() -> None:
    arrows = {}
    for path in modules():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        arrows[module] = {name for name, _ in imports(parsed(path)) if name.startswith("roi.")}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for other in arrows.get(module, ()):
                visit(other, (*above, module))
            done.add(module)

    for module in arrows:
        visit(module, ())


def test_imports_stand_at_the_top_but_for_heavy_packages() -> None:
    late = []
    for path in modules():
        functions = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef)]
        inside = {item for function in functions for item in imports(function)}
        late += [
            f"{path.relative_to(ROOT)}:{line} {name}" for name, line in sorted(inside) if not name.startswith(HEAVY)
        ]
    assert not late


@pytest.mark.parametrize("room", LIGHT)
def test_what_reads_files_loads_no_torch(room: str) -> None:
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in modules()]
    names = [name for name in names if room_of(name) == room]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_comes_at_once_and_loads_no_torch(script: str) -> None:
    code = f"""
import runpy, sys, time
sys.argv = [{script!r}, "--help"]
try:
    runpy.run_path({script!r}, run_name="__main__")
finally:
    print("torch" in sys.modules, time.process_time())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    loaded, seconds = done.stdout.split()[-2:]
    assert loaded == "False"
    # Of the processor. .05 to .28 were measured, on two cores with a load of 15.
    assert float(seconds) < 0.6


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_says_its_version(script: str) -> None:
    from conftest import run

    from roi import WRITTEN_BY

    assert run(script, "--version").strip() == WRITTEN_BY

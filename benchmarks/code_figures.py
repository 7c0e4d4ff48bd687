"""How the code looks in figures: sizes of rooms, modules, functions and lines, density of statements, comments, flags.

    python benchmarks/code_figures.py
    python benchmarks/code_figures.py --list 20     # and the worst places
    python benchmarks/code_figures.py --of DIR      # how dense other code is, such as an installed package

Reads the sources; nothing is imported but for the count of flags, which is that of `--help`. tests/test_code_figures.py
holds what is met.
"""

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Figures:
    """Of one file."""

    path: Path
    lines: int  # that are not blank
    comments: int  # lines that hold nothing else
    code: int  # lines with a token of code: no comment, no docstring, not blank
    longest: int
    over: int  # lines over 120 characters
    expressions: int
    annotations: int  # those of them that only name a type
    comprehensions: int
    ternaries: int
    functions: list[tuple[int, str]] = field(default_factory=list)  # length in lines, name
    dense: list[tuple[int, int]] = field(default_factory=list)  # expressions of a statement per line of it, its line


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=int, default=0, metavar="N", help="the N worst places of each kind (default: 0)")
    parser.add_argument("--only", default="", metavar="PATH", help="only files below this path (default: all)")
    parser.add_argument("--of", type=Path, metavar="DIR", help="density of the code below DIR, and nothing else")
    args = parser.parse_args(argv)
    if args.of:
        density([measure(path, args.of) for path in sorted(args.of.rglob("*.py"))])
        return
    scripts, modules = scripts_of_project(), modules_of_package()
    chosen = [f for f in scripts + modules if str(f.path).startswith(args.only)]
    folders = modules_a_folder(modules)
    print("modules a folder: " + ", ".join(f"{name} {count}" for name, count in sorted(folders.items())))
    print(f"rooms {len(folders)}; arrows between them {len(arrows(modules))}")
    row("largest module; largest script", *(max(total(f.path) for f in group) for group in (modules, scripts)))
    row("longest line; lines over 120", max(f.longest for f in chosen), sum(f.over for f in chosen))
    longest = max((length, f"{f.path}:{name}") for f in chosen for length, name in f.functions)
    row("longest function", *longest)
    density(chosen)
    for name in ("comprehensions", "ternaries"):
        row(f"{name} a 1,000 lines of code", round(1000 * a_line(chosen, name), 1))
    row("comment lines", f"{share_of_comments(chosen):.1%}")
    row("functions that take the whole args", whole_args(modules))
    row("training flags of --help", flags_of("train_roi_consistency.py"))
    if args.list:
        show(chosen, args.list)


def density(chosen: list[Figures]) -> None:
    """How much stands on a line, with annotations of types, as the target counts, and without."""
    every, types = a_line(chosen, "expressions"), a_line(chosen, "annotations")
    row("expression nodes a line of code; without annotations of types", round(every, 2), round(every - types, 2))


def scripts_of_project() -> list[Figures]:
    return [measure(path) for path in sorted(ROOT.glob("*.py"))]


def modules_of_package() -> list[Figures]:
    return [measure(path) for path in sorted((ROOT / "roi").rglob("*.py")) if path.name != "__init__.py"]


def modules_a_folder(modules: list[Figures]) -> Counter[str]:
    return Counter(str(figures.path.parent) for figures in modules)


def a_line(chosen: list[Figures], name: str) -> float:
    """How many of a kind there are for each line of code."""
    return sum(getattr(figures, name) for figures in chosen) / sum(figures.code for figures in chosen)


def share_of_comments(chosen: list[Figures]) -> float:
    return sum(figures.comments for figures in chosen) / sum(figures.lines for figures in chosen)


def row(name: str, *values: object) -> None:
    print(f"{name}: " + "; ".join(str(value) for value in values))


def total(path: Path) -> int:
    return len((ROOT / path).read_text(encoding="utf-8").splitlines())


def measure(path: Path, root: Path = ROOT) -> Figures:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    tree = ast.parse(text)
    docstrings = set(docstring_lines(tree))
    code, comments = set(), set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.string.strip() and token.type not in (tokenize.INDENT, tokenize.DEDENT):
            code |= set(range(token.start[0], token.end[0] + 1))
    code -= docstrings
    nodes = list(ast.walk(tree))
    return Figures(
        path=path.relative_to(root),
        lines=sum(bool(line.strip()) for line in lines),
        comments=len(comments - code - docstrings),
        code=len(code),
        longest=max(map(len, lines), default=0),
        over=sum(len(line) > 120 for line in lines),
        expressions=count_expressions(tree),
        annotations=sum(count_expressions(annotation) for node in nodes for annotation in annotations_of(node)),
        comprehensions=sum(isinstance(node, COMPREHENSIONS) for node in nodes),
        ternaries=sum(isinstance(node, ast.IfExp) for node in nodes),
        functions=[(length_of(node), node.name) for node in nodes if isinstance(node, FUNCTIONS)],
        dense=list(densities(tree)),
    )


def count_expressions(tree: ast.AST) -> int:
    return sum(isinstance(node, ast.expr) for node in ast.walk(tree))


def annotations_of(node: ast.AST) -> list[ast.expr]:
    """The types that a parameter, a function or a variable is said to have."""
    found = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    return [annotation for annotation in found if annotation is not None]


def docstring_lines(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)


def length_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def densities(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """Of each simple statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and not hasattr(node, "body"):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield count_expressions(node) // lines, node.lineno


def arrows(modules: list[Figures]) -> set[tuple[str, str]]:
    """(room, room that it imports), rooms alone."""
    found = set()
    for figures in modules:
        room = figures.path.parent.name
        tree = ast.parse((ROOT / figures.path).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("roi."):
                other = node.module.split(".")[1]
                if (ROOT / "roi" / other).is_dir() and other != room:
                    found.add((room, other))
    return found


def whole_args(modules: list[Figures]) -> int:
    """Functions of the package with an annotated parameter `args`, but for those that set up a run from flags."""
    count = 0
    for figures in modules:
        if figures.path.name.endswith(("cli.py", "setup.py", "flags.py")):
            continue
        tree = ast.parse((ROOT / figures.path).read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
        count += sum(any(a.arg == "args" and a.annotation is not None for a in node.args.args) for node in functions)
    return count


def flags_of(script: str) -> int:
    done = subprocess.run([sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True, check=True)
    return len(set(re.findall(r"^  (--\w+)", done.stdout, re.MULTILINE)))


def show(chosen: list[Figures], count: int) -> None:
    functions = sorted(((length, f"{f.path}:{name}") for f in chosen for length, name in f.functions), reverse=True)
    print("\nlongest functions")
    for length, name in functions[:count]:
        print(f"  {length:4}  {name}")
    print("densest statements (expression nodes a line)")
    for nodes, place in sorted(((nodes, f"{f.path}:{n}") for f in chosen for nodes, n in f.dense), reverse=True)[
        :count
    ]:
        print(f"  {nodes:4}  {place}")
    print("files by expression nodes a line of code, with lines over 120")
    for f in sorted(chosen, key=lambda f: -f.expressions / max(f.code, 1))[:count]:
        print(f"  {f.expressions / max(f.code, 1):5.2f} {f.over:4}  {f.path} ({f.code} lines)")


if __name__ == "__main__":
    main()

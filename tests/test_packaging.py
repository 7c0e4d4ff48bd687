"""One list of packages: requirements.txt, pyproject.toml, constraints.txt and uv.lock agree."""

import re
from collections.abc import Iterable

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib")  # Python 3.11


def lines_of(name: str) -> list[str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("-r")]


def names_and_versions(lines: Iterable[str]) -> set[tuple[str, str]]:
    return {(Requirement(line).name.lower(), str(Requirement(line).specifier)) for line in lines}


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_pyproject_asks_for_what_the_requirements_ask_for() -> None:
    found = pyproject()
    project = found["project"]
    assert names_and_versions(project["dependencies"]) == names_and_versions(lines_of("requirements.txt"))
    dicom = project["optional-dependencies"]["dicom"]
    assert names_and_versions(dicom) == names_and_versions(lines_of("requirements-dicom.txt"))
    text = project["optional-dependencies"]["text"]
    assert names_and_versions(text) == names_and_versions(lines_of("requirements-text.txt"))
    assert names_and_versions(found["dependency-groups"]["dev"]) == names_and_versions(lines_of("requirements-dev.txt"))


def test_the_lock_of_uv_has_no_version_that_was_not_tested() -> None:
    tested: dict[str, set[str]] = {}
    for line in lines_of("constraints.txt"):
        requirement = Requirement(line)
        tested.setdefault(requirement.name.lower(), set()).add(str(requirement.specifier).removeprefix("=="))
    locked = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    both = [package for package in locked if package["name"] in tested]
    assert len(both) > 50
    assert not [f"{p['name']} {p['version']}" for p in both if p["version"] not in tested[p["name"]]]


def test_pre_commit_runs_the_ruff_that_the_tests_run() -> None:
    revision = re.search(r"rev: v(\S+)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert revision is not None
    assert ("ruff", f"=={revision[1]}") in names_and_versions(lines_of("constraints.txt"))


def test_each_script_has_its_command_and_is_installed() -> None:
    found = pyproject()
    scripts = {path.stem for path in ROOT.glob("*.py")}
    assert set(found["tool"]["setuptools"]["py-modules"]) == scripts
    assert set(found["project"]["scripts"].values()) == {f"{name}:command" for name in scripts}
    for name in scripts:
        assert "\ndef command() -> None:\n" in (ROOT / f"{name}.py").read_text(encoding="utf-8"), name

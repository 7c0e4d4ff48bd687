"""Which installed packages have another version than constraints.txt says.

    python scripts/check_lock.py

Prints one line a package; exit code 0 where all that are installed agree, 1 where some do not.
"""

from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

LOCK = Path(__file__).resolve().parent.parent / "constraints.txt"


def differences(lock: str) -> list[str]:
    """'name 1.2 (tested: 1.1)' for each of the 'name==version ; marker' lines that is installed in another version."""
    lines = [line for line in lock.splitlines() if line and not line.startswith("#")]
    different = []
    for requirement in map(Requirement, lines):
        applies = requirement.marker is None or requirement.marker.evaluate()
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            continue  # an optional package, or one of another platform
        if applies and not requirement.specifier.contains(installed, prereleases=True):
            different.append(f"{requirement.name} {installed} (tested: {str(requirement.specifier).lstrip('=')})")
    return different


def main() -> int:
    different = differences(LOCK.read_text(encoding="utf-8"))
    for line in different:
        print(line)
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What of a data set is there, against what is published. Only names and tables are read; no image is decoded."""

import csv
import gzip
import os
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from roi.errors import UserError
from roi.files import contents, reason
from roi.sources.download.catalog import CATALOG, folder_of
from roi.sources.download.data_set import DataSet, Edition, Table

SHARE = 0.99  # of the images of a set whose published number is not the number of its files
BLOCK = 1 << 22  # bytes of a JSON at a time
STUDY = b'"StudyInstanceUid"'
# Other sets have tables of these names, too.
COMMON_NAMES = ("train.csv", "valid.csv")


@dataclass
class Completeness:
    """What of a set is there; `lines` says it to people."""

    folder: Path
    exists: bool
    complete: bool = False
    lines: list[str] = field(default_factory=list)

    def state(self) -> str:
        if self.complete:
            return f"complete, {self.folder}"
        if self.exists:
            return f"NOT COMPLETE, {self.folder}"
        return "not there"


@dataclass
class TablesFound:
    """The tables of an edition that are in a folder, each with its first file."""

    edition: Edition
    folder: Path
    paths: dict[Table, Path]

    def needed(self) -> int:
        """The number of those without which the set is not complete."""
        return sum(table.needed for table in self.paths)


def list_sets(data_root: Path) -> None:
    """Prints a line a data set: what is published, and whether its tables are there."""
    line = "{:<12} {:<24} {:<41} {:<36} {}"
    print(line.format("name", "images", "size", "access", f"in {data_root}"))
    for name, data_set in CATALOG.items():
        tables = find_tables(name, data_root)
        needed = sum(table.needed for table in tables.edition.tables)
        state = "-"
        if tables.needed() == needed:
            state = "tables are there"
        elif tables.paths:
            state = f"{tables.needed()} of {needed} tables"
        print(line.format(name, data_set.images, data_set.size, data_set.access, state))
    print("--check counts what is there; --info NAME says how to get it")


def check_sets(names: list[str], data_root: Path) -> bool:
    """Prints what is there of the sets named; without names, of every set that is there.

    Returns:
        Whether each of them is complete, and there is one.
    """
    complete = []
    for name in names or CATALOG:
        found = check_set(name, data_root)
        print(f"{name}: {found.state()}")
        if found.exists or names:
            for line in found.lines:
                print(f"  {line}", flush=True)
            complete.append(found.complete)
    if not complete:
        print(f"none of the sets is in {data_root} (another folder: --data_root); how to get one: --info NAME")
    return bool(complete) and all(complete)


def find_tables(name: str, data_root: Path) -> TablesFound:
    """Looks for the edition of which most tables are there. Only names are looked at."""
    # The edition of which most is there is the one that the user has.
    candidates = []
    for inner in CATALOG[name].inner:
        folder = folder_of(name, data_root) / inner
        for edition in CATALOG[name].editions:
            paths = {}
            for table in edition.tables:
                path = _first_file(folder, table.names)
                if path:
                    paths[table] = path
            candidates.append(TablesFound(edition, folder, paths))
    return max(candidates, key=TablesFound.needed)  # of equals the first


def check_set(name: str, data_root: Path) -> Completeness:
    """Looks for the tables of a set and counts their rows and its images."""
    tables = find_tables(name, data_root)
    edition, folder = tables.edition, tables.folder
    images = count_images(folder, edition)
    if not tables.paths and not images:
        return _nothing_found(name, data_root, folder)
    found = Completeness(folder, exists=True, complete=True)
    for table in edition.tables:
        line, as_published = _check_table(folder, table, tables.paths.get(table))
        if line:
            found.lines.append(line)
        found.complete &= as_published
    if edition.images:
        line, enough = _check_images(images, edition)
        found.lines.append(line)
        found.complete &= enough
    if not found.complete:
        found.lines += _archive_lines(CATALOG[name], folder)
    return found


def _nothing_found(name: str, data_root: Path, folder: Path) -> Completeness:
    """Says where the tables of a set were looked for, and what lies there instead."""
    looked_in = folder_of(name, data_root)
    exists = looked_in.is_dir()
    wanted = " or ".join(edition.needed_names() for edition in CATALOG[name].editions)
    line = f"looked in {looked_in} for {wanted}"
    if exists:
        line += f"; it holds {contents(looked_in)}"
    lines = [line, *_misplaced(name, data_root), *_archive_lines(CATALOG[name], folder)]
    return Completeness(folder, exists, lines=lines)


def _check_table(folder: Path, table: Table, path: Path | None) -> tuple[str, bool]:
    """What to say of a table, and whether it is as published."""
    name = table.names[0]
    if path is None:
        return _missing_table(table), not table.needed
    if "*" in name and path.match(name):
        shown, unit = name, "files"
        number = len(list(folder.glob(name)))
    else:
        shown, unit = str(path.relative_to(folder)), "rows"
        try:
            number = count_rows(path)
        except UserError as error:
            return str(error), False
    counted = f"{shown}: {number:,} {unit}"
    if table.rows in (None, number):
        return counted, True
    guess = "cut off?" if number < (table.rows or 0) else "another version?"
    return f"{counted}, but {table.rows:,} are published: {guess}", False


def _missing_table(table: Table) -> str:
    if not table.needed:
        return ""
    name, *others = table.names
    nor = f" (nor is it there as {' or '.join(others)})" if others else ""
    return f"{name}: missing{nor}"


def _check_images(images: int, edition: Edition) -> tuple[str, bool]:
    """What to say of the number of images, and whether it is enough."""
    named = f"images (*{edition.ending})"
    if images == edition.images:
        return f"{named}: all {images:,} are there", True
    # What papers count and what servers hand out may differ by a few images.
    share, about = (1.0, "") if edition.exact else (SHARE, "about ")
    counted = f"{named}: {images:,} of {about}{edition.images:,}"
    if images >= edition.images * share:
        return counted, True
    return f"{counted}, {edition.images - images:,} are missing", False


def _first_file(folder: Path, names: Iterable[str]) -> Path | None:
    """The first file of these names or globs."""
    for name in names:
        path = next(iter(folder.glob(name)), None) if "*" in name else folder / name
        if path is not None and path.is_file():
            return path
    return None


def _misplaced(name: str, data_root: Path) -> list[str]:
    """The commonest mistake: DATA_ROOT is the folder of the set itself."""
    # The tables of cxrlt lie in its folder or one below, which is then the root of another set.
    if name == "cxrlt":
        return []
    names = []
    for edition in CATALOG[name].editions:
        for table in edition.tables:
            names += [path for path in table.names if path not in COMMON_NAMES]
    path = _first_file(data_root, names)
    if path is None:
        return []
    return [
        f"{path} lies in --data_root itself, which is the folder above that of the set: "
        f"rename or link {data_root} to .../{name}"
    ]


def _archive_lines(data_set: DataSet, folder: Path) -> list[str]:
    """What to do with archives that lie in the folder."""
    lines = []
    for pattern, number, how in data_set.archives:
        present = [path for path in folder.glob(pattern) if not path.name.endswith(".part")]
        if present:
            advice = f"to unpack: {how}" if len(present) >= number else "the download is not complete"
            counted = f"{len(present)} of {number} here"
            lines.append(f"{pattern}: {counted}; {advice}")
    return lines


def count_rows(path: Path) -> int:
    """Counts the rows of a table without its header.

    That is a CSV (.gz too; a cell may hold line ends), the studies of a JSON of ReXGradient, the reports of a .tgz, or
    the lines of a list.

    Raises:
        UserError: the file cannot be read to its end.
    """
    try:
        if path.suffix == ".txt":
            with open(path, encoding="utf-8-sig") as file:
                return sum(bool(line.strip()) for line in file)
        if path.suffix == ".json":
            return _count_studies(path)
        if path.suffix == ".tgz":
            with tarfile.open(path) as tar:
                return sum(name.endswith(".xml") for name in tar.getnames())
        # A .gz that was cut off shows only at its end.
        with _open_text(path) as file:
            rows = sum(bool(row) for row in csv.reader(file))
            return max(0, rows - 1)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, tarfile.TarError, zlib.error) as error:
        raise UserError(f"{path.name}: cannot be read to its end ({reason(error)}); download it again") from error


def _open_text(path: Path) -> IO[str]:
    # Rows are counted and cells are not read: odd bytes in them do not matter.
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="")
    return open(path, encoding="utf-8", errors="replace", newline="")


def _count_studies(path: Path) -> int:
    """Counts the studies of a JSON, each of which names its UID once."""
    # Counting needs no memory; parsing hundreds of megabytes would.
    number = 0
    rest = b""
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            text = rest + block
            number += text.count(STUDY)
            rest = text[-len(STUDY) + 1 :]
    if rest.rstrip()[-1:] not in (b"}", b"]"):
        raise EOFError("the JSON does not end")
    return number


def count_images(folder: Path, edition: Edition) -> int:
    """Counts the files with the ending of the edition in its folders and below."""
    if not edition.images:
        return 0
    # By os.scandir: hundreds of thousands of names, of which pathlib would make a Path each.
    todo = [str(path) for path in _image_folders(folder, edition)]
    several = len(todo) > 1
    number = 0
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.name.lower().endswith(edition.ending):
                    # Links gather the shards of nih in one folder: an image is not counted twice.
                    number += not (several and entry.is_symlink())
                elif entry.is_dir():
                    todo.append(entry.path)
    return number


def _image_folders(folder: Path, edition: Edition) -> list[Path]:
    folders: set[Path] = set()
    for pattern in edition.folders:
        matches = [folder] if pattern == "." else folder.glob(pattern)
        folders.update(path for path in matches if path.is_dir())
    return sorted(folders)

"""What is known of a data set, and how --info of download_datasets.py shows it."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of a set, or a folder of files with a row each.

    `names`: paths or globs below the folder of the set; the first that exists counts. A name with '*' stands for files.
    """

    names: tuple[str, ...]
    rows: int | None = None  # as published, without the header; None: not published
    needed: bool = True


@dataclass(frozen=True)
class Edition:
    """A set as it is published in one place: it is complete when the needed tables and all images are there."""

    tables: tuple[Table, ...]
    images: int = 0  # files; 0: it has no images of its own
    folders: tuple[str, ...] = (".",)  # globs; images are counted in them and below
    ending: str = ".png"
    exact: bool = True  # `images` is the number of files
    name: str = ""

    def needed_names(self) -> str:
        """The tables that must be there, for people."""
        return " + ".join(table.names[0] for table in self.tables if table.needed)


@dataclass(frozen=True)
class DataSet:
    """What --list and --info show of a set, and what --check looks for."""

    title: str
    images: str
    patients: str
    size: str
    gigabytes: float  # on disk, about; for the check of free space
    access: str
    terms: str
    credentials: str
    citation: str
    url: str
    steps: tuple[str, ...]
    editions: tuple[Edition, ...]
    inner: tuple[str, ...] = ("",)  # folders inside the set's folder that may hold it
    archives: tuple[tuple[str, int, str], ...] = ()  # (glob, files, how to unpack)
    project: str = ""  # on PhysioNet: slug/version
    spellings: tuple[str, ...] = ()  # other names of the set

    def info_lines(self, name: str) -> Iterator[str]:
        """Yields what --info prints of the set NAME: its facts and the steps that get it."""
        yield f"{name}: {self.title}"
        facts = {
            "images": self.images,
            "patients": self.patients,
            "size": self.size,
            "access": self.access,
            "terms": self.terms,
            "credentials": self.credentials,
            "cite": self.citation,
            "page": self.url,
        }
        for fact, text in facts.items():
            yield _filled(text, fact, 15)
        fact = "steps"
        for number, step in enumerate(self.steps, 1):
            yield _filled(f"{number}. {step}", fact, 18)
            fact = ""
        yield _filled(" or ".join(edition.needed_names() for edition in self.editions), "files", 15)


def _filled(text: str, fact: str, indent: int) -> str:
    """A text behind the name of its fact, in lines of 118 characters."""
    # Addresses and names of files stay whole, so that they can be copied.
    return textwrap.fill(
        text,
        118,
        initial_indent=f"  {fact:<12} ",
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )

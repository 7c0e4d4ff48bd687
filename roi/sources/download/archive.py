"""Unpacks a tar archive; an interrupted run is taken up again."""

import os
import shutil
import tarfile
import zlib
from pathlib import Path

from roi.errors import UserError
from roi.files import reason


def unpack(archive: Path, folder: Path) -> tuple[int, int]:
    """Writes the files of an archive below `folder`, but for those that are there at their full size.

    Returns:
        (number of files unpacked, number that were there).

    Raises:
        UserError: the archive is cut off, or names a file outside the folder.
    """
    made = kept = 0
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if not member.isfile():
                    continue
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    outside = f"{member.name!r} lies outside the folder"
                    raise UserError(f"{archive}: {outside}; this is not the published archive")
                path = folder / member.name
                # A file has its name only when it is whole, but it may be of an older archive.
                if path.is_file() and path.stat().st_size == member.size:
                    kept += 1
                else:
                    _extract(tar, member, path)
                    made += 1
    except (tarfile.TarError, EOFError, zlib.error) as error:
        cause = f"cannot be unpacked ({reason(error)})"
        raise UserError(f"{archive}: {cause}; move it away and download it again") from error
    return made, kept


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Writes a file under another name first: one that has its name is whole."""
    source = tar.extractfile(member)
    assert source is not None  # it is a file
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with source, open(part, "wb") as file:
        shutil.copyfileobj(source, file)
    os.replace(part, path)

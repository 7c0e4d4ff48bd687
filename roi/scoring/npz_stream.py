"""Compressed files of arrays (.npz) that are written row by row: memory stays flat, the file is complete or absent."""

import json
import zipfile
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from roi import process_group
from roi.errors import UserError
from roi.files import atomic_write, reason
from roi.run_paths import portable_origin, read_origin
from roi.scoring.json_schema import check_origin

# Array -> type and shape of a row.
RowTypes = dict[str, tuple[np.dtype, tuple[int, ...]]]


class Part(NamedTuple):
    """What one process adds to the file."""

    rows: int
    row_types: RowTypes
    files: dict[str, str]  # array -> temporary file that holds its rows


class ArrayWriter:
    """Writer of an .npz. As a context manager it leaves nothing behind when an error comes first.

    with ArrayWriter("maps.npz") as out:
        out.add(map_mask=block)  # (n, C, m, m), any n
        out.close(images=names, side=224)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = 0
        self._stack = ExitStack()
        self._files: dict[str, IO[bytes]] = {}
        self._row_types: RowTypes = {}

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def add(self, **arrays: np.ndarray) -> None:
        """Append (n, ...) to every array: the same names in every call, the same n within it. UserError otherwise."""
        row_types = {}
        for name, array in arrays.items():
            row_types[name] = (array.dtype, array.shape[1:])
        if not self._row_types:
            self._row_types = row_types
            for name in row_types:
                path = self.path.with_name(f"{self.path.name}.{name}")
                part = process_group.open_part(path)
                self._files[name] = self._stack.enter_context(part)
        lengths = [len(array) for array in arrays.values()]
        # A block must be like those before it.
        if row_types != self._row_types or len(set(lengths)) != 1:
            block = describe(row_types)
            before = describe(self._row_types)
            raise UserError(f"{self.path}: a block of {block}, {lengths} rows, after {before}")
        for name, array in arrays.items():
            # An empty array has no buffer that could be cast.
            if array.size:
                contiguous = np.ascontiguousarray(array)
                self._files[name].write(contiguous.data.cast("B"))
        self.rows += lengths[0]

    def close(self, **fixed: object) -> None:
        """Write the file: the rows, those of process 0 first where there are several, and `fixed`, once each.

        Args:
            fixed: numbers, strings, arrays.

        Raises:
            UserError: no process has a row.
        """
        for file in self._files.values():
            file.flush()
        names = {name: file.name for name, file in self._files.items()}
        own = Part(self.rows, self._row_types, names)
        parts = process_group.all_gather_objects(own)
        # A process may have had no image at all; any other knows the types.
        having_rows = [part for part in parts if part.row_types]
        if not having_rows:
            raise UserError(f"{self.path}: no image was left to write about")
        if process_group.rank() == 0:
            with atomic_write(self.path, "wb") as target:
                self._write(target, having_rows[0].row_types, parts, fixed)
        # The others' parts must stay until process 0 has read them.
        process_group.barrier()
        self._stack.close()

    def _write(self, target: IO[bytes], row_types: RowTypes, parts: list[Part], fixed: dict[str, object]) -> None:
        rows = sum(part.rows for part in parts)
        # A process without an image has opened no file.
        others = [part for part in parts[1:] if part.files]
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, (dtype, shape) in row_types.items():
                descr = np.lib.format.dtype_to_descr(dtype)
                header = {"descr": descr, "fortran_order": False, "shape": (rows, *shape)}
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array_header_1_0(entry, header)
                    names = [part.files[name] for part in others]
                    process_group.merge_parts(self._files.get(name), names, entry)
            for name, value in fixed.items():
                array = np.asanyarray(value)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)


def describe(row_types: RowTypes) -> str:
    described = []
    for name, (dtype, shape) in row_types.items():
        described.append(f"{name} {dtype}{list(shape)}")
    return ", ".join(described) or "nothing"


def origin(images: list[str], meta: dict[str, Any], contaminated: Collection[str], path: str | Path) -> dict[str, Any]:
    """What the file `path` of maps or curves says of its images: names, which were trained on, where it comes from."""
    is_marked = [image in contaminated for image in images]
    marked = np.array(is_marked, dtype=bool)  # (N,)
    known = portable_origin(meta, Path(path))
    known["images"] = len(images)
    known["contaminated_images"] = int(marked.sum())
    # A checkpoint may say of itself that it was trained on images of this table.
    stated = bool(meta.get("contaminated"))
    known["contaminated"] = stated or bool(marked.any())
    return {
        "images": np.array(images),
        "contaminated": marked,
        "meta": json.dumps(known),
    }


def read_arrays(path: str | Path, needed: Sequence[str], kind: str) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz; no code in it is run.

    Args:
        path: the file.
        needed: names of the arrays that it must have.
        kind: what such a file is called in messages.

    Raises:
        UserError: there is no such file, it is none, or one of `needed` is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such {kind}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # zipfile, zlib and numpy have errors of their own
        raise UserError(f"{path}: not a {kind}, or a damaged one ({reason(error)})") from error
    missing = [repr(name) for name in needed if name not in arrays]
    if missing:
        names = ", ".join(missing)
        existing = sorted(arrays)[:12]
        raise UserError(f"{path}: not a {kind} (it has no {names}, but {existing})")
    return arrays


def scalar(arrays: dict[str, np.ndarray], name: str, path: str | Path) -> float:
    """A number of the file. UserError: it is none."""
    value = arrays[name]
    is_number = value.ndim == 0 and np.issubdtype(value.dtype, np.number)
    if not is_number or not np.isfinite(value):
        kind = f"{value.dtype}{list(value.shape)}"
        raise UserError(f"{path}: {name!r} is {kind}, not a number; write the file anew")
    return float(value)


def read_meta(value: np.ndarray, path: str | Path, kind: str) -> dict[str, Any]:
    """Read the text `meta` of the file: where it comes from. UserError: it is no JSON, or a value in it is odd."""
    try:
        meta = json.loads(str(value))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not a {kind}: its meta is no JSON ({error})") from error
    return read_origin(check_origin(meta, f"{path}: meta"), Path(path))


def is_contaminated(
    arrays: dict[str, np.ndarray],
    meta: dict[str, Any],
    rows: np.ndarray,
    path: str | Path,
) -> bool | None:
    """Was the checkpoint trained on one of these rows, or another image of their patients? None: nobody says."""
    marked = arrays.get("contaminated")
    if marked is None:
        return meta.get("contaminated")
    if marked.shape != arrays["images"].shape or marked.dtype != bool:
        kind = f"{marked.dtype}{list(marked.shape)}"
        raise UserError(f"{path}: 'contaminated' is {kind}, not a yes or no an image; write the file anew")
    return True if marked[rows].any() else meta.get("contaminated")

"""Compressed files of arrays (.npz) that are written row by row: memory stays flat, the file is complete or absent."""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from roi.errors import UserError
from roi.files import atomic_write, beside, reason
from roi.scoring.provenance import check_origin


class ArrayWriter:
    """`add` blocks of rows, `close` writes the file; as a context manager it leaves nothing behind when an error comes first.

    with ArrayWriter("maps.npz") as out:
        out.add(map_mask=block)  # (n, C, m, m), any n
        out.close(images=names, side=224)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = 0
        self._stack = ExitStack()
        self._files: dict[
            str, IO[bytes]
        ] = {}  # nameless files beside the target, gone with the process; named where process 0 reads them
        self._kinds: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}  # type and shape of a row

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def add(self, **arrays: np.ndarray) -> None:
        """Append (n, ...) to every array: the same names in every call, the same n within it. UserError otherwise."""
        kinds = {name: (a.dtype, a.shape[1:]) for name, a in arrays.items()}
        if not self._kinds:
            self._kinds = kinds
            for name in kinds:
                self._files[name] = self._stack.enter_context(self._file(name))
        if kinds != self._kinds or len({len(a) for a in arrays.values()}) != 1:
            raise UserError(
                f"{self.path}: a block of {describe(kinds)}, {[len(a) for a in arrays.values()]} rows, after {describe(self._kinds)}"
            )
        for name, array in arrays.items():
            self._files[name].write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
        self.rows += len(next(iter(arrays.values())))

    def _file(self, name: str) -> AbstractContextManager[IO[bytes]]:
        from roi import distributed  # brings torch, which reading does without

        if distributed.rank() == 0:
            return tempfile.TemporaryFile(dir=self.path.parent)
        return beside(self.path.with_name(f"{self.path.name}.{name}"), "wb+")

    def close(self, **fixed: object) -> None:
        """Write the file: the rows, those of process 0 first where there are several, and, once each, `fixed` (numbers, strings,
        arrays). UserError without any row."""
        from roi import distributed

        for file in self._files.values():
            file.flush()
        everyone = distributed.all_gather_objects(
            (self.rows, self._kinds, {name: file.name for name, file in self._files.items()})
        )
        kinds = next((kinds for _, kinds, _ in everyone if kinds), None)
        if kinds is None:
            raise UserError(f"{self.path}: no image was left to write about")
        if distributed.rank() == 0:
            with atomic_write(self.path, "wb") as target, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, (kind, shape) in kinds.items():
                    header = {
                        "descr": np.lib.format.dtype_to_descr(kind),
                        "fortran_order": False,
                        "shape": (sum(n for n, _, _ in everyone), *shape),
                    }
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array_header_1_0(entry, header)
                        if self._files:
                            self._files[name].seek(0)
                            shutil.copyfileobj(self._files[name], entry, 1 << 20)
                        for names in (names for _, _, names in everyone[1:] if names):
                            with open(names[name], "rb") as other:
                                shutil.copyfileobj(other, entry, 1 << 20)
                for name, value in fixed.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, np.asanyarray(value), allow_pickle=False)
        distributed.barrier()
        self.__exit__()


def origin(images: list[str], meta: dict[str, Any], contaminated: Collection[str]) -> dict[str, Any]:
    """What files of maps and of curves say of their images: names, which were trained on, and where all comes from."""
    marked = np.array([image in contaminated for image in images], dtype=bool)  # (N,)
    known = {**meta, "images": len(images), "contaminated_images": int(marked.sum())}
    known["contaminated"] = bool(meta.get("contaminated")) or bool(marked.any())
    return {"images": np.array(images), "contaminated": marked, "meta": json.dumps(known)}


def describe(kinds: dict[str, tuple[np.dtype, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {kind}{list(shape)}" for name, (kind, shape) in kinds.items()) or "nothing"


def read_arrays(path: str | Path, needed: Sequence[str], what: str) -> dict[str, np.ndarray]:
    """All arrays of an .npz; no code in it is run. UserError: no such file, not one, or one of `needed` is missing."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such {what}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # zipfile, zlib and numpy have errors of their own
        raise UserError(f"{path}: not a {what}, or a damaged one ({reason(error)})") from error
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise UserError(f"{path}: not a {what} (it has no {', '.join(map(repr, missing))}, but {sorted(arrays)[:12]})")
    return arrays


def scalar(arrays: dict[str, np.ndarray], name: str, path: str | Path) -> float:
    """A number of the file. UserError: it is none."""
    value = arrays[name]
    if value.ndim or not np.issubdtype(value.dtype, np.number) or not np.isfinite(value):
        raise UserError(f"{path}: {name!r} is {value.dtype}{list(value.shape)}, not a number; write the file anew")
    return float(value)


def read_meta(value: np.ndarray, path: str | Path, what: str) -> dict[str, Any]:
    """The text `meta` of the file: where it comes from. UserError: it is no JSON, or a value in it is odd."""
    try:
        meta = json.loads(str(value))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not a {what}: its meta is no JSON ({error})") from error
    return check_origin(meta, f"{path}: meta")


def is_contaminated(
    arrays: dict[str, np.ndarray], meta: dict[str, Any], rows: np.ndarray, path: str | Path
) -> bool | None:
    """Was the checkpoint trained on one of these rows, or another image of their patients? None: nobody says."""
    marked = arrays.get("contaminated")
    if marked is None:
        return meta.get("contaminated")
    if marked.shape != arrays["images"].shape or marked.dtype != bool:
        raise UserError(
            f"{path}: 'contaminated' is {marked.dtype}{list(marked.shape)}, not a yes or no an image; "
            "write the file anew"
        )
    return True if marked[rows].any() else meta.get("contaminated")

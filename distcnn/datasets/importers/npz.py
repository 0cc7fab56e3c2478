"""NumPy's files: ``.npz`` archives and ``.npy`` arrays. Nothing in them is unpickled."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from distcnn.datasets.importers.named_arrays import NamedArray, source_of
from distcnn.datasets.importers.source import Array, Options, Source, damage_named, require_room
from distcnn.errors import InputError
from distcnn.system.files import open_named
from distcnn.system.wording import printable

MOST_MEMBERS = 1000


def read_npz(paths: Sequence[Path], options: Options) -> Source:
    """``.npz`` and ``.npy`` files as a source."""
    arrays = [array for path in paths for array in arrays_of(path)]
    return source_of("NumPy arrays", arrays, options)


def arrays_of(path: Path) -> list[NamedArray]:
    """The arrays in a file."""
    with open_named(path) as file:
        is_archive = zipfile.is_zipfile(file)
    return list(_members(path)) if is_archive else [_array(path)]


def _array(path: Path) -> NamedArray:
    """A ``.npy`` file, named as the file is."""
    return _named(path, path.stem, "", partial(open_named, path), path.stat().st_size, None)


def _members(path: Path) -> Iterator[NamedArray]:
    with damage_named(path), open_named(path) as file, zipfile.ZipFile(file) as archive:
        infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
    if len(infos) > MOST_MEMBERS:
        raise InputError(f"{path} holds {len(infos):,} arrays: at most {MOST_MEMBERS:,} are read")
    if not infos:
        raise InputError(
            f"{path} is a ZIP archive without NumPy arrays: unpack it, and name what it holds"
        )
    for info in infos:
        name = info.filename.removesuffix(".npy")
        stored = info.compress_size if info.compress_type != zipfile.ZIP_STORED else None
        size = info.file_size if stored is None else None
        yield _named(path, name, path.stem, partial(_open_member, path, info), size, stored)


@contextmanager
def _open_member(path: Path, info: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    with open_named(path) as file, zipfile.ZipFile(file) as archive, archive.open(info) as member:
        yield member


def _named(
    path: Path,
    name: str,
    stem: str,
    open_file: Callable[[], AbstractContextManager[IO[bytes]]],
    size: int | None,
    stored: int | None,
) -> NamedArray:
    """Read an array's header. Its data are ``size`` bytes, or compressed to ``stored`` bytes."""
    shown = printable(f"{path}: {name}" if stem else str(path))

    with damage_named(shown), open_file() as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        shape, _, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
        if min(shape, default=0) < 0:
            raise ValueError(f"its shape is {shape}")
    needed = math.prod(shape) * dtype.itemsize
    if size is not None and needed > size and not dtype.hasobject:
        raise InputError(f"{shown} claims {needed:,} bytes, but only {size:,} are there: damaged")

    def load() -> Array:
        if dtype.hasobject:
            raise InputError(
                f"{shown} holds pickled Python objects, which may run code: they are not read; save"
                " it as an array of numbers or text"
            )
        require_room(shown, needed, stored)
        with damage_named(shown), open_file() as file:
            found: Array = np.lib.format.read_array(file, allow_pickle=False)
        return found

    return NamedArray(stem, name, shape, dtype, load)

"""The files that an image set consists of: each is opened, and its beginning read, before HDF5 opens it.

HDF5 opens files and looks up names while h5py holds the interpreter's lock. On a file that never answers (a named pipe, a hung file
system) no other thread and no signal handler would run then: no watchdog, no Ctrl-C. Here Python opens each file, which releases the
lock while it waits, and HDF5 reads links through Python's file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py

from distcnn.errors import InputError
from distcnn.files import require_regular

MOST_LINKS = 64
"""The longest way from a name to its dataset, in groups and soft links."""
HERE = "."
"""What HDF5 calls the file itself, as the source of a virtual dataset."""
FOLDERS_VARIABLES = ("HDF5_EXT_PREFIX", "HDF5_VDS_PREFIX")
"""Lists of folders in which HDF5 looks for linked files, and for the sources of virtual datasets."""


def probe(path: str | Path, names: Iterable[str]) -> None:
    """Open every file that the datasets ``names`` of ``path`` need, through links and virtual datasets, and read where they lead.

    What is missing or damaged is left to the reader. ``InputError`` when a file is a pipe, a socket or a device.
    """
    pending, done = [(Path(path), name) for name in names], set()
    while pending:
        place = pending.pop()
        if place in done:
            continue
        done.add(place)
        for other, inner in _sources(*place):
            found = place[0] if other == HERE else _find(other, place[0])
            if found is not None:
                pending.append((_regular(found, path), inner))


def _sources(path: Path, name: str) -> list[tuple[str, str]]:
    """Where else data of the dataset ``name`` in the file ``path`` are: names of files, and of datasets in them."""
    try:
        with io.FileIO(path) as file, h5py.File(file, "r") as hdf5:
            return list(_links(hdf5, name))
    except (OSError, RuntimeError, LookupError, ValueError):  # the reader meets it too, and says what it is
        return []


def _links(hdf5: h5py.File, name: str) -> Iterator[tuple[str, str]]:
    item, parts = hdf5, name.split("/")
    for _ in range(MOST_LINKS):
        part, *parts = parts
        if part and not isinstance(item, h5py.Group):
            return
        if part:
            kind = item.id.links.get_info(part.encode()).type
            if kind == h5py.h5l.TYPE_EXTERNAL:
                other, inner = item.id.links.get_val(part.encode())
                yield os.fsdecode(other), "/".join([inner.decode(), *parts])
                return
            if kind == h5py.h5l.TYPE_SOFT:
                target = item.id.links.get_val(part.encode()).decode()
                item, parts = (hdf5 if target.startswith("/") else item), [*target.split("/"), *parts]
            else:
                item = item[part]
        if not parts:
            break
    if isinstance(item, h5py.Dataset) and item.is_virtual:
        yield from ((source.file_name, source.dset_name) for source in item.virtual_sources())


def _find(name: str, parent: Path) -> Path | None:
    """Where HDF5 finds the file ``name``, which the file ``parent`` names; None when it is missing."""
    folders = [folder for variable in FOLDERS_VARIABLES for folder in os.environ.get(variable, "").split(":") if folder]
    places = [*(Path(folder) / name for folder in folders), parent.parent / name, Path(name), parent.parent / Path(name).name]
    return next((place for place in places if os.path.exists(place)), None)  # noqa: PTH110  (Path's raises for too long a name)


def _regular(found: Path, path: str | Path) -> Path:
    try:
        require_regular(found)
    except OSError as error:
        raise InputError(f"{path}: its part {found} cannot be read ({error.strerror}): put back the regular file") from error
    return Path(os.path.realpath(found))

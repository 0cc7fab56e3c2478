"""Where the rows of a dataset are stored, and whether they are complete.

Where nothing is stored, such as a missing part of a virtual dataset or a chunk that was never
written, HDF5 reads zeros without an error. So this is checked before anything is read.
"""

from __future__ import annotations

import importlib
import math
import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from distcnn.datasets.opening import PART_REMEDY, OpenFiles, opened
from distcnn.errors import InputError
from distcnn.system.locked_calls import killable
from distcnn.system.wording import printable

MOST_LINKS = 16
"""Links followed one after the other, as in HDF5."""


def find_dataset(files: OpenFiles, file: h5py.File, name: str) -> h5py.Dataset | None:
    """The dataset ``name``, through links of all kinds, whose files are opened by ``files``.

    None if there is none; ``InputError`` if a file cannot be opened.
    """
    found = _follow(files, file["/"], name, MOST_LINKS)
    return found if isinstance(found, h5py.Dataset) else None


def require_stored(files: OpenFiles, dataset: h5py.Dataset, name: str) -> None:
    """Raise ``InputError`` unless all of ``dataset`` is stored and can be decoded.

    ``files`` notes each file that holds some of it; ``name`` is for messages.
    """
    path, layout = dataset.file.filename, dataset.id.get_create_plist().get_layout()
    if layout == h5py.h5d.VIRTUAL:
        _require_parts(files, dataset, name)
        return
    if dataset.external:
        raise InputError(
            f"{path}: {name} is in external raw storage ({printable(dataset.external[0][0])}),"
            " which is not supported: write its arrays into one file (see docs/data_format.md)"
        )
    what, missing = "values", 0
    if layout == h5py.h5d.CHUNKED:
        _require_filters(path, dataset, name)
        sizes = zip(dataset.shape, dataset.chunks, strict=True)
        count = math.prod(-(-size // chunk) for size, chunk in sizes)
        with killable(files.stall_timeout):
            missing = count - dataset.id.get_num_chunks()
        what = f"{missing:,} of {count:,} chunks"
    elif layout == h5py.h5d.CONTIGUOUS:
        missing = dataset.size and dataset.id.get_offset() is None
    if missing:
        raise InputError(
            f"{path}: {what} of {name} were never written: let the writer finish, or make the file"
            " again"
        )


def _follow(files: OpenFiles, group: h5py.Group, name: str, links: int) -> Any:
    """The object ``name`` in ``group``.

    Links are followed here, because HDF5 would wait forever for a FIFO behind one.
    """
    found: Any = group
    for part in (part for part in name.split("/") if part not in ("", ".")):
        with killable(files.stall_timeout):
            link = found.get(part, None, getlink=True) if isinstance(found, h5py.Group) else None
            target = found.get(part) if isinstance(link, h5py.HardLink) else None
        if link is None or target is not None:
            found = target
        elif not links:
            raise InputError(
                f"{group.file.filename}: the links of /{name.strip('/')} form a loop: name the"
                " datasets themselves"
            )
        elif isinstance(link, h5py.ExternalLink):
            primary, place = found.file.filename, posixpath.join(found.name or "/", part)
            where = f"{primary}: {place} is a link into {printable(link.filename)}"
            path = _resolved(link.filename, primary, "HDF5_EXT_PREFIX", where)
            with _prefixed(where):
                file = files.open(path, part=True)
            found = _follow(files, file["/"], link.path, links - 1)
        else:
            start = found.file["/"] if link.path.startswith("/") else found
            found = _follow(files, start, link.path, links - 1)
    return found


# -- virtual datasets


def _require_parts(files: OpenFiles, dataset: h5py.Dataset, name: str) -> None:
    path = dataset.file.filename
    covered = h5py.h5s.create_simple(dataset.shape)
    covered.select_none()
    parts: dict[tuple[str, str], list[Any]] = {}
    with killable(files.stall_timeout):
        sources = dataset.virtual_sources()
    for source in sources:
        if "%b" in source.file_name + source.dset_name or not _add(covered, source.vspace):
            raise InputError(
                f"{path}: {name} is a virtual dataset with an open-ended number of parts"
                f" ({printable(source.file_name)}), so missing ones would not be noticed: make one"
                " file of them (see docs/data_format.md)"
            )
        parts.setdefault((source.file_name, source.dset_name), []).append(source)
    for (file_name, dataset_name), taken in parts.items():
        first, last = (int(bound[0]) for bound in taken[0].vspace.get_select_bounds())
        where = f"{path}: {name}[{first}:{last + 1}] is stored in {printable(file_name)}"
        part_path = path
        if file_name != ".":  # this file
            part_path = _resolved(file_name, path, "HDF5_VDS_PREFIX", where)
        with _prefixed(where):
            files.note(part_path)
            with opened(part_path, files.stall_timeout, part=True) as part:
                _require_part(files, dataset, part, dataset_name, taken)
    if missing := dataset.size - covered.get_select_npoints():
        raise InputError(
            f"{path}: {missing:,} of the {dataset.size:,} values of {name} are in no part: make"
            " the file again"
        )


def _require_part(
    files: OpenFiles, dataset: h5py.Dataset, part: h5py.File, name: str, sources: list[Any]
) -> None:
    """Raise ``InputError`` unless ``part`` holds everything that ``sources`` take from it."""
    where, found = printable(part.filename), find_dataset(files, part, name)
    if found is None or found == dataset:
        raise InputError(f"{where} has no dataset {printable(name)}: {PART_REMEDY}")
    if not np.can_cast(found.dtype, dataset.dtype, "safe"):
        raise InputError(
            f"{where}: {printable(name)} is {found.dtype}, it must be {dataset.dtype}, or its"
            " values are cut off"
        )
    if not all(_holds(found, source) for source in sources):
        raise InputError(
            f"{where}: {printable(name)} has shape {found.shape}, which does not hold all of it:"
            f" {PART_REMEDY}"
        )
    require_stored(files, found, printable(name))


def _holds(found: h5py.Dataset, source: Any) -> bool:
    if source.src_space.get_select_type() == h5py.h5s.SEL_ALL:
        return bool(found.size == source.vspace.get_select_npoints())
    high = source.src_space.get_select_bounds()[1]
    return len(high) == found.ndim and bool(np.all(np.array(high) < found.shape))


def _add(covered: h5py.h5s.SpaceID, space: h5py.h5s.SpaceID) -> bool:
    """Add the selection of ``space`` to that of ``covered``. False if it is unlimited."""
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        covered.select_all()
    elif space.is_regular_hyperslab():
        start, stride, counts, blocks = space.get_regular_hyperslab()
        if h5py.h5s.UNLIMITED in (*counts, *blocks):
            return False
        covered.select_hyperslab(start, counts, stride, blocks, h5py.h5s.SELECT_OR)
    else:
        for first, last in space.get_select_hyper_blocklist():
            size, ones = tuple(last - first + 1), (1,) * len(first)
            covered.select_hyperslab(tuple(first), ones, None, size, h5py.h5s.SELECT_OR)
    return True


# -- chunks and filters


def _require_filters(path: str, dataset: h5py.Dataset, name: str) -> None:
    creation = dataset.id.get_create_plist()
    for code, _, _, text in (creation.get_filter(i) for i in range(creation.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            with suppress(ImportError):
                importlib.import_module("hdf5plugin")  # registers its filters
        if not h5py.h5z.filter_avail(code):
            filter_name = printable(text.decode(errors="replace").strip()) or "without a name"
            raise InputError(
                f"{path}: {name} is compressed with HDF5 filter {code} ({filter_name}), which is"
                " not installed here: pip install hdf5plugin, which has the usual ones, or write"
                " the file with gzip or without compression"
            )


@contextmanager
def _prefixed(where: str) -> Iterator[None]:
    """Put ``where`` before the text of an ``InputError``."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


# -- where HDF5 finds other files


def _resolved(name: str, primary: str, variable: str, where: str) -> str:
    """The first existing path at which HDF5 looks for ``name``, named in the file ``primary``."""
    path = Path(primary)
    prefixes = filter(None, os.environ.get(variable, "").split(":"))
    folders = [prefix.replace("${ORIGIN}", str(path.parent.absolute())) for prefix in prefixes]
    folders += [str(path.parent.absolute()), "", str(path.resolve().parent)]
    relative = name.rpartition("/")[2] if name.startswith("/") else name
    places = [name] * name.startswith("/") + [os.path.join(each, relative) for each in folders]  # noqa: PTH118
    for place in places:
        if os.path.exists(place):  # noqa: PTH110
            return place
    raise InputError(f"{where}, which is missing, or not visible here: {PART_REMEDY}")

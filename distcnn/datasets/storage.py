"""Where the rows of a dataset are stored, and whether they are complete.

Where nothing is stored, such as a missing part of a virtual dataset or a chunk that was never
written, HDF5 reads zeros without an error. So this is checked before anything is read.
"""

from __future__ import annotations

import importlib
import math
import os
import posixpath
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from distcnn.datasets.opening import PART_REMEDY, OpenFiles, opened
from distcnn.errors import InputError
from distcnn.system.locked_calls import killable
from distcnn.system.wording import printable

T = TypeVar("T")

MOST_LINKS = 16
"""Links followed one after the other, as in HDF5."""


def find_dataset(files: OpenFiles, file: h5py.File, name: str) -> h5py.Dataset | None:
    """The dataset ``name``, through links of all kinds; None if there is none.

    Files that links lead to are opened by ``files``. Raises ``InputError`` when one cannot be.
    """
    found = _follow(files, file["/"], name, MOST_LINKS)
    return found if isinstance(found, h5py.Dataset) else None


def require_stored(files: OpenFiles, dataset: h5py.Dataset, name: str, rows: range) -> None:
    """Raise ``InputError`` unless all of ``rows`` are stored and can be decoded.

    Args:
        files: Notes each file that holds some of them.
        dataset: The dataset.
        name: Its name, for messages.
        rows: Indices along its first axis.
    """
    path, layout = dataset.file.filename, dataset.id.get_create_plist().get_layout()
    if layout == h5py.h5d.VIRTUAL:
        _require_parts(files, dataset, name)
    elif dataset.external:
        raise InputError(
            f"{path}: {name} is in external raw storage ({printable(dataset.external[0][0])}),"
            " which is not supported: write its arrays into one file (see data/README.md)"
        )
    elif layout == h5py.h5d.CHUNKED:
        _require_filters(path, dataset, name)
        with killable(files.stall_timeout):
            _require_chunks(path, dataset, name, rows)
    elif layout == h5py.h5d.CONTIGUOUS and dataset.id.get_offset() is None and dataset.size:
        raise InputError(_never_written(path, name, 0, dataset.shape[0]))


def _follow(files: OpenFiles, group: h5py.Group, name: str, links: int) -> Any:
    """The object ``name`` in ``group``.

    Links are followed here, because HDF5 would wait forever for a FIFO behind one.
    """
    found: Any = group
    for part in (part for part in name.split("/") if part not in ("", ".")):
        with killable(files.stall_timeout):
            link = found.get(part, None, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.HardLink):
            with killable(files.stall_timeout):
                found = found.get(part)
        elif not links:
            raise InputError(
                f"{group.file.filename}: the links of /{name.strip('/')} form a loop: name the"
                " datasets themselves"
            )
        elif isinstance(link, h5py.ExternalLink):
            file = _linked_file(files, found, part, link)
            found = _follow(files, file["/"], link.path, links - 1)
        else:
            start = found.file["/"] if link.path.startswith("/") else found
            found = _follow(files, start, link.path, links - 1)
    return found


def _linked_file(
    files: OpenFiles, group: h5py.Group, part: str, link: h5py.ExternalLink
) -> h5py.File:
    primary, name = group.file.filename, posixpath.join(group.name or "/", part)
    where = f"{primary}: {name} is a link into {printable(link.filename)}"
    path = _resolved(link.filename, primary, "HDF5_EXT_PREFIX")
    if path is None:
        raise InputError(f"{where}, which is missing, or not visible here: {PART_REMEDY}")
    return _with_context(where, partial(files.open, path, part=True))


# -- virtual datasets


def _require_parts(files: OpenFiles, dataset: h5py.Dataset, name: str) -> None:
    path = dataset.file.filename
    covered = h5py.h5s.create_simple(dataset.shape)
    covered.select_none()
    parts: dict[tuple[str, str], list[Any]] = {}
    with killable(files.stall_timeout):
        sources = dataset.virtual_sources()
    for source in sources:
        if "%b" in source.file_name + source.dset_name or _is_unlimited(source.vspace):
            raise InputError(
                f"{path}: {name} is a virtual dataset with an open-ended number of parts"
                f" ({printable(source.file_name)}), so missing ones would not be noticed: make one"
                " file of them (see data/README.md)"
            )
        _add(covered, source.vspace)
        parts.setdefault((source.file_name, source.dset_name), []).append(source)
    for sources_of_part in parts.values():
        _require_part(files, dataset, sources_of_part, name)
    if covered.get_select_npoints() != dataset.size:
        missing = dataset.size - covered.get_select_npoints()
        raise InputError(
            f"{path}: {missing:,} of the {dataset.size:,} values of {name} are in no part: make"
            " the file again"
        )


def _require_part(
    files: OpenFiles, dataset: h5py.Dataset, sources: list[Any], dataset_name: str
) -> None:
    """Raise ``InputError`` unless the part that ``sources`` refer to has everything they take."""
    primary, name = dataset.file.filename, sources[0].file_name
    first, last = (int(bound[0]) for bound in sources[0].vspace.get_select_bounds())
    where = f"{primary}: {dataset_name}[{first}:{last + 1}] is stored in {printable(name)}"

    def check() -> None:
        if name == ".":
            _require_sources(files, dataset, dataset.file, sources, "this file")
            return
        files.note(path)
        with opened(path, files.stall_timeout, part=True) as part:
            _require_sources(files, dataset, part, sources, printable(path))

    path = _resolved(name, primary, "HDF5_VDS_PREFIX") or ""
    if not path and name != ".":
        raise InputError(f"{where}, which is missing, or not visible here: {PART_REMEDY}")
    _with_context(where, check)


def _require_sources(
    files: OpenFiles, dataset: h5py.Dataset, part: h5py.File, sources: list[Any], where: str
) -> None:
    name = printable(sources[0].dset_name)
    found = find_dataset(files, part, sources[0].dset_name)
    if found is None or found == dataset:
        raise InputError(f"{where} has no dataset {name}: {PART_REMEDY}")
    if not np.can_cast(found.dtype, dataset.dtype, "safe"):
        raise InputError(
            f"{where}: {name} is {found.dtype}, it must be {dataset.dtype}, or its values are cut"
            " off"
        )
    taken = [_rows_taken(found, source) for source in sources]
    rows = [span for span in taken if span is not None]
    if len(rows) < len(taken):
        raise InputError(
            f"{where}: {name} has shape {found.shape}, which does not hold all of it: {PART_REMEDY}"
        )
    first, stop = min(span.start for span in rows), max(span.stop for span in rows)
    require_stored(files, found, name, range(first, stop))


def _rows_taken(found: h5py.Dataset, source: Any) -> range | None:
    """The rows of ``found`` that ``source`` takes; None if some are missing."""
    if source.src_space.get_select_type() == h5py.h5s.SEL_ALL:
        rows = range(found.shape[0] if found.shape else 0)
        return rows if found.size == source.vspace.get_select_npoints() else None
    low, high = source.src_space.get_select_bounds()
    if len(high) != found.ndim or any(
        last >= length for last, length in zip(high, found.shape, strict=True)
    ):
        return None
    return range(int(low[0]), int(high[0]) + 1)


def _add(covered: h5py.h5s.SpaceID, space: h5py.h5s.SpaceID) -> None:
    """Add the selection of ``space``, which has the same shape, to that of ``covered``."""
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        covered.select_all()
    elif space.is_regular_hyperslab():
        start, stride, counts, blocks = space.get_regular_hyperslab()
        covered.select_hyperslab(start, counts, stride, blocks, h5py.h5s.SELECT_OR)
    else:
        for first, last in space.get_select_hyper_blocklist().tolist():
            block = tuple(end - begin + 1 for begin, end in zip(first, last, strict=True))
            ones = (1,) * len(block)
            covered.select_hyperslab(tuple(first), ones, None, block, h5py.h5s.SELECT_OR)


def _is_unlimited(space: h5py.h5s.SpaceID) -> bool:
    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
        return False
    _, _, counts, blocks = space.get_regular_hyperslab()
    return h5py.h5s.UNLIMITED in (*counts, *blocks)


# -- chunks and filters


def _require_chunks(path: str, dataset: h5py.Dataset, name: str, rows: range) -> None:
    chunks = dataset.chunks
    grid = [-(-length // chunk) for length, chunk in zip(dataset.shape, chunks, strict=True)]
    if dataset.id.get_num_chunks() == math.prod(grid):
        return
    height = chunks[0]
    for index in range(rows.start // height, -(-rows.stop // height)):
        for place in np.ndindex(*grid[1:]):
            offset = tuple(i * size for i, size in zip((index, *place), chunks, strict=True))
            if dataset.id.get_chunk_info_by_coord(offset).byte_offset is None:
                stop = min((index + 1) * height, dataset.shape[0])
                raise InputError(_never_written(path, name, index * height, stop))


def _never_written(path: str, name: str, first: int, stop: int) -> str:
    return (
        f"{path}: {name}[{first}:{stop}] was never written: let the writer finish, or make the file"
        " again"
    )


def _require_filters(path: str, dataset: h5py.Dataset, name: str) -> None:
    creation = dataset.id.get_create_plist()
    for code, _, _, text in (creation.get_filter(i) for i in range(creation.get_nfilters())):
        if not _has_filter(code):
            filter_name = printable(text.decode(errors="replace").strip()) or "without a name"
            raise InputError(
                f"{path}: {name} is compressed with HDF5 filter {code} ({filter_name}), which is"
                " not installed here: pip install hdf5plugin, which has the usual ones, or write"
                " the file with gzip or without compression"
            )


def _has_filter(code: int) -> bool:
    if h5py.h5z.filter_avail(code):
        return True
    with suppress(ImportError):
        importlib.import_module("hdf5plugin")  # registers its filters
    return bool(h5py.h5z.filter_avail(code))


def _with_context(where: str, work: Callable[[], T]) -> T:
    """The result of ``work``; ``where`` is prepended to its ``InputError``."""
    try:
        return work()
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


# -- where HDF5 finds other files


def _resolved(name: str, primary: str, variable: str) -> str | None:
    """The first existing path at which HDF5 looks for ``name``, as named in the file ``primary``;
    None if there is none.
    """
    return next((path for path in _places(name, primary, variable) if os.path.exists(path)), None)  # noqa: PTH110


def _places(name: str, primary: str, variable: str) -> Iterator[str]:
    if os.path.isabs(name):  # noqa: PTH117
        yield name
        name = os.path.basename(name)  # noqa: PTH119
    folder = str(Path(primary).parent.absolute())
    prefixes = filter(None, os.environ.get(variable, "").split(":"))
    yield from (
        os.path.join(prefix, name)  # noqa: PTH118
        for prefix in (
            *(prefix.replace("${ORIGIN}", folder) for prefix in prefixes),
            folder,
            "",
            os.path.dirname(os.path.realpath(primary)),  # noqa: PTH120
        )
    )

"""Where the rows of a dataset are stored, and whether all of them are there.

HDF5 reads zeros where nothing is stored: for a missing part of a virtual dataset, for chunks never
written, past the end of external raw storage. None of that is an error to it, so it is looked at
before anything is read.
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

from distcnn.datasets.opening import OpenFiles, opened, shown
from distcnn.errors import InputError
from distcnn.system.locked_calls import killable

T = TypeVar("T")

MOST_LINKS = 16
"""Links followed one after the other, as in HDF5."""
WHOLE = (
    "put the part back where the file names it, or make one file of all parts (data/README.md says"
    " how)"
)


def find_dataset(files: OpenFiles, file: h5py.File, name: str) -> h5py.Dataset | None:
    """The dataset ``name``, behind links of all kinds; None when there is none. Files that it is in
    are opened by ``files``.

    ``InputError`` names the file of an external link that cannot be opened.
    """
    found = _follow(files, file["/"], name, MOST_LINKS)
    return found if isinstance(found, h5py.Dataset) else None


def require_stored(files: OpenFiles, dataset: h5py.Dataset, what: str, rows: range) -> None:
    """``InputError`` unless all of ``rows`` of ``dataset`` are stored and can be decoded; ``files``
    notes each file that holds some.

    ``what`` is its name for messages.
    """
    path, layout = dataset.file.filename, dataset.id.get_create_plist().get_layout()
    if layout == h5py.h5d.VIRTUAL:
        _require_parts(files, dataset, what)
    elif dataset.external:
        _require_raw(files, dataset, what)
    elif layout == h5py.h5d.CHUNKED:
        _require_filters(path, dataset, what)
        with killable(files.stall_timeout):
            _require_chunks(path, dataset, what, rows)
    elif layout == h5py.h5d.CONTIGUOUS and dataset.id.get_offset() is None and dataset.size:
        raise InputError(_never_written(path, what, 0, dataset.shape[0]))


# -- links


def _follow(files: OpenFiles, group: h5py.Group, name: str, links: int) -> Any:
    """What is called ``name`` in ``group``.

    Links are followed here, as HDF5 would wait for ever in a FIFO behind one.
    """
    found: Any = group
    for part in (each for each in name.split("/") if each not in ("", ".")):
        with killable(files.stall_timeout):
            link = found.get(part, None, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.HardLink):
            with killable(files.stall_timeout):
                found = found.get(part)
        elif not links:
            raise InputError(
                f"{group.file.filename}: the links of /{name.strip('/')} lead in a circle: name the"
                " datasets themselves"
            )
        elif isinstance(link, h5py.ExternalLink):
            found = _follow(
                files, _linked_file(files, found, part, link)["/"], link.path, links - 1
            )
        else:
            start = found.file["/"] if link.path.startswith("/") else found
            found = _follow(files, start, link.path, links - 1)
    return found


def _linked_file(
    files: OpenFiles, group: h5py.Group, part: str, link: h5py.ExternalLink
) -> h5py.File:
    primary = group.file.filename
    path = _resolved(link.filename, primary, "HDF5_EXT_PREFIX")
    where = (
        f"{primary}: {posixpath.join(group.name or '/', part)} is a link into"
        f" {shown(link.filename)}"
    )
    if path is None:
        raise InputError(f"{where}, which is missing, or not visible here: {WHOLE}")
    return _told_of(where, partial(files.open, path))


# -- virtual datasets


def _require_parts(files: OpenFiles, dataset: h5py.Dataset, what: str) -> None:
    path = dataset.file.filename
    covered = h5py.h5s.create_simple(dataset.shape)
    covered.select_none()
    parts: dict[tuple[str, str], list[Any]] = {}
    with killable(files.stall_timeout):
        everyone = dataset.virtual_sources()
    for source in everyone:
        if "%b" in source.file_name + source.dset_name or _is_unlimited(source.vspace):
            raise InputError(
                f"{path}: {what} is a virtual dataset of any number of parts"
                f" ({shown(source.file_name)}), so it cannot be seen whether all are there: make"
                " one file of them (data/README.md says how)"
            )
        _add(covered, source.vspace)
        parts.setdefault((source.file_name, source.dset_name), []).append(source)
    for sources in parts.values():
        _require_part(files, dataset, sources, what)
    if covered.get_select_npoints() != dataset.size:
        missing = dataset.size - covered.get_select_npoints()
        raise InputError(
            f"{path}: no part holds {missing:,} of the {dataset.size:,} values of {what}: make the"
            " file again"
        )


def _require_part(files: OpenFiles, dataset: h5py.Dataset, sources: list[Any], what: str) -> None:
    """``InputError`` unless the part that all ``sources`` name can be opened and has all that is
    taken from it.
    """
    primary, name = dataset.file.filename, sources[0].file_name
    first, last = (int(bound[0]) for bound in sources[0].vspace.get_select_bounds())
    where = f"{primary}: {what}[{first}:{last + 1}] is stored in {shown(name)}"
    if name == ".":
        _told_of(
            where, lambda: _require_sources(files, dataset, dataset.file, sources, "this file")
        )
        return
    path = _resolved(name, primary, "HDF5_VDS_PREFIX")
    if path is None:
        raise InputError(f"{where}, which is missing, or not visible here: {WHOLE}")

    def look() -> None:
        files.note(path)
        with opened(path, files.stall_timeout) as part:
            _require_sources(files, dataset, part, sources, shown(path))

    _told_of(where, look)


def _require_sources(
    files: OpenFiles, dataset: h5py.Dataset, part: h5py.File, sources: list[Any], where: str
) -> None:
    """``InputError`` unless ``part``, which messages call ``where``, holds what ``dataset`` takes
    from ``sources``.
    """
    name = shown(sources[0].dset_name)
    found = find_dataset(files, part, sources[0].dset_name)
    if found is None or found == dataset:
        raise InputError(f"{where} has no dataset {name}: {WHOLE}")
    if not np.can_cast(found.dtype, dataset.dtype, "safe"):
        raise InputError(
            f"{where}: {name} is {found.dtype}, it must be {dataset.dtype}, or its values are"
            " cut off"
        )
    taken = [_rows_taken(found, source) for source in sources]
    rows = [each for each in taken if each is not None]
    if len(rows) < len(taken):
        raise InputError(
            f"{where}: {name} has shape {found.shape}, which does not hold all of it: {WHOLE}"
        )
    require_stored(
        files, found, name, range(min(each.start for each in rows), max(each.stop for each in rows))
    )


def _rows_taken(found: h5py.Dataset, source: Any) -> range | None:
    """The rows of ``found`` that ``source`` takes, from the first to the last; None where ``found``
    does not have all that it takes.
    """
    if source.src_space.get_select_type() == h5py.h5s.SEL_ALL:
        return (
            range(found.shape[0] if found.shape else 0)
            if found.size == source.vspace.get_select_npoints()
            else None
        )
    low, high = source.src_space.get_select_bounds()
    if len(high) != found.ndim or any(
        last >= length for last, length in zip(high, found.shape, strict=True)
    ):
        return None
    return range(int(low[0]), int(high[0]) + 1)


def _add(covered: h5py.h5s.SpaceID, space: h5py.h5s.SpaceID) -> None:
    """Select in ``covered`` what ``space``, of the same shape, selects too."""
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        covered.select_all()
    elif space.is_regular_hyperslab():
        start, stride, counts, blocks = space.get_regular_hyperslab()
        covered.select_hyperslab(start, counts, stride, blocks, h5py.h5s.SELECT_OR)
    else:
        for first, last in space.get_select_hyper_blocklist().tolist():
            block = tuple(end - begin + 1 for begin, end in zip(first, last, strict=True))
            covered.select_hyperslab(
                tuple(first), (1,) * len(block), None, block, h5py.h5s.SELECT_OR
            )


def _is_unlimited(space: h5py.h5s.SpaceID) -> bool:
    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
        return False
    _, _, counts, blocks = space.get_regular_hyperslab()
    return h5py.h5s.UNLIMITED in (*counts, *blocks)


# -- chunks, filters, external raw storage


def _require_chunks(path: str, dataset: h5py.Dataset, what: str, rows: range) -> None:
    grid = [
        math.ceil(length / chunk)
        for length, chunk in zip(dataset.shape, dataset.chunks, strict=True)
    ]
    if dataset.id.get_num_chunks() == math.prod(grid):
        return
    height = dataset.chunks[0]
    for index in range(rows.start // height, math.ceil(rows.stop / height)):
        for place in np.ndindex(*grid[1:]):
            offset = tuple(
                i * chunk for i, chunk in zip((index, *place), dataset.chunks, strict=True)
            )
            if dataset.id.get_chunk_info_by_coord(offset).byte_offset is None:
                raise InputError(
                    _never_written(
                        path, what, index * height, min((index + 1) * height, dataset.shape[0])
                    )
                )


def _never_written(path: str, what: str, first: int, stop: int) -> str:
    return (
        f"{path}: {what}[{first}:{stop}] was never written: let what makes the file finish, or make"
        " it again"
    )


def _require_filters(path: str, dataset: h5py.Dataset, what: str) -> None:
    creation = dataset.id.get_create_plist()
    for code, _, _, name in (creation.get_filter(i) for i in range(creation.get_nfilters())):
        if not _has_filter(code):
            named = shown(name.decode(errors="replace").strip()) or "without a name"
            raise InputError(
                f"{path}: {what} is compressed with HDF5 filter {code} ({named}), which is not"
                " installed here: pip install hdf5plugin, which has the usual ones, or write the"
                " file with gzip or without compression"
            )


def _has_filter(code: int) -> bool:
    if h5py.h5z.filter_avail(code):
        return True
    with suppress(ImportError):
        importlib.import_module("hdf5plugin")  # it registers its filters
    return bool(h5py.h5z.filter_avail(code))


def _require_raw(files: OpenFiles, dataset: h5py.Dataset, what: str) -> None:
    """``InputError`` unless the files of external raw storage hold all bytes of ``dataset``."""
    primary, left = dataset.file.filename, dataset.nbytes
    for name, offset, size in dataset.external:
        taken, path = min(size, left), _raw_path(name, primary)
        where = f"{primary}: {what} is stored in {shown(name)}"
        if not taken:
            break
        if not os.path.exists(path):  # noqa: PTH110  (Path's raises for a name that is too long)
            raise InputError(f"{where}, which is missing, or not visible here: {WHOLE}")
        _told_of(where, partial(files.note, path))
        if Path(path).stat().st_size < offset + taken:
            raise InputError(
                f"{where}, which is too short ({offset + taken:,} bytes are needed): {WHOLE}"
            )
        left -= taken
    if left:
        raise InputError(
            f"{primary}: no part holds the last {left:,} bytes of {what}: make the file again"
        )


def _told_of(where: str, work: Callable[[], T]) -> T:
    """What ``work`` gives; its ``InputError`` says ``where`` first."""
    try:
        return work()
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _raw_path(name: str, primary: str) -> str:
    """HDF5 takes such names relative to the current folder, unless a variable says otherwise."""
    prefix = os.environ.get("HDF5_EXTFILE_PREFIX", "")
    return (
        name
        if os.path.isabs(name) or prefix in ("", ".")  # noqa: PTH117
        else os.path.join(_expanded(prefix, primary), name)  # noqa: PTH118
    )


def _resolved(name: str, primary: str, variable: str) -> str | None:
    """Where HDF5 finds the file ``name`` that ``primary`` names: the first place, in its order,
    where there is one; None if nowhere.
    """
    return next((path for path in _places(name, primary, variable) if os.path.exists(path)), None)  # noqa: PTH110


def _places(name: str, primary: str, variable: str) -> Iterator[str]:
    if os.path.isabs(name):  # noqa: PTH117
        yield name
        name = os.path.basename(name)  # noqa: PTH119
    folders = [_expanded(each, primary) for each in os.environ.get(variable, "").split(":") if each]
    for folder in (
        *folders,
        str(Path(primary).parent.absolute()),
        "",
        os.path.dirname(os.path.realpath(primary)),  # noqa: PTH120
    ):
        yield os.path.join(folder, name)  # noqa: PTH118


def _expanded(prefix: str, primary: str) -> str:
    return prefix.replace("${ORIGIN}", str(Path(primary).parent.absolute()))

"""Opening the files of an image set, with one-line errors for whatever is wrong with them.

A set may be spread over several files: external links and the parts of a virtual dataset.
"""

from __future__ import annotations

import errno
import fcntl
import io
import itertools
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import h5py

from distcnn.errors import InputError
from distcnn.system.locked_calls import killable

SIGNATURE = b"\x89HDF\r\n\x1a\n"
HEAD_BYTES = 4096
LOCKING = "HDF5_USE_FILE_LOCKING"
CONVERT = "python -m distcnn.convert makes image sets of other formats"
FORMAT_HINT = "python -m distcnn.convert makes one: docs/your_data.md"
PREPARE_AGAIN = "prepare it again (see docs/data_format.md)"
PART_REMEDY = "restore that part, or make one file of all parts (see docs/data_format.md)"
PICKLE = "a Python pickle, which may run code"

CONVERTIBLE = {
    b"PK\x03\x04": "a ZIP archive, as NumPy's .npz are",
    b"\x93NUMPY": "a NumPy .npy array",
    b"\x1f\x8b": "compressed with gzip",
    b"MATLAB 5.0 MAT-file": "a MATLAB file",
    b"PAR1": "a Parquet file",
    b"\x00\x00\x08": "an IDX file, one of four",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
}
"""Kinds of files that ``distcnn.convert`` takes, or folders of them."""
OTHER_FORMATS = {
    b"BZh": "compressed with bzip2 (unpack it first)",
    b"\xfd7zXZ\x00": "compressed with xz (unpack it first)",
    b"version https://git-lfs": "a Git LFS pointer (git lfs pull fetches the file)",
    b"<": "a web page or XML text: the download failed",
    **dict.fromkeys((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), PICKLE),
    b"\x89HDF": "an HDF5 file whose first bytes were altered (transferred as text?)",
}
TEXT = "text, perhaps CSV"

MOST_OBJECTS = 100
"""An image set has six objects. In a file with many more, only the first are read ahead."""

HDF5_ERRORS = (OSError, RuntimeError, LookupError, TypeError, ValueError, OverflowError)
"""What h5py raises for damaged files."""


class OpenFiles:
    """The files of an image set, open until ``close``; ``require_unchanged`` notices changes.

    The process ends when HDF5 waits ``stall_timeout`` seconds (0: never).
    """

    def __init__(self, stall_timeout: float = 0.0) -> None:
        self.stall_timeout = stall_timeout
        self._held = ExitStack()
        self._states: dict[str, tuple[int | str, tuple[int, int, int]]] = {}

    def open(self, path: str, part: bool = False) -> h5py.File:
        """Open ``path`` and keep it open; otherwise like ``opened``."""
        file = self._held.enter_context(opened(path, self.stall_timeout, part))
        self._states.setdefault(path, (handle := file.id.get_vfd_handle(), _state(handle)))
        return file

    def note(self, path: str) -> None:
        """Watch a part that HDF5 itself opens whenever it reads from it."""
        require_regular(path, part=True)
        self._states.setdefault(path, (path, _state(path)))

    def require_unchanged(self) -> None:
        for path, (place, before) in self._states.items():
            try:
                what = "changed while it was read" if _state(place) != before else ""
            except FileNotFoundError:
                what = "removed"
            except OSError as error:
                raise InputError(file_system_problem(path, error)) from error
            if what:
                raise InputError(f"{path} was {what}: restore it, then --resume the run")

    def close(self) -> None:
        self._held.close()


def _state(place: int | str) -> tuple[int, int, int]:
    status = os.stat(place)  # noqa: PTH116  (it may be a descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ino


@contextmanager
def opened(path: str, stall_timeout: float = 0.0, part: bool = False) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading, without taking locks. ``InputError`` says why it cannot be.

    ``part``: it is a part of a set, which decides the remedy.
    """
    require_regular(path, part)
    try:
        with Path(path).open("rb") as raw:
            head = raw.read(HEAD_BYTES)
            checks_locks = os.environ.get(LOCKING, "").upper() not in ("FALSE", "0")
            if checks_locks and is_locked(raw):
                raise InputError(
                    f"{path} is locked by another process that writes to it: wait until it is"
                    f" written, or end the writer; to read it anyway, set {LOCKING}=FALSE"
                )
    except OSError as error:
        raise InputError(file_system_problem(path, error)) from error
    _read_ahead(path)
    try:
        # Without HDF5's chunk cache, some MiB for each dataset: each chunk is read only once.
        with killable(stall_timeout):
            file = h5py.File(path, "r", locking=False, rdcc_nbytes=0)
    except OSError as error:
        raise _not_opened(path, head, error) from error
    with input_errors(path), file:
        _require_complete(path, file)
        yield file


@contextmanager
def input_errors(path: str) -> Iterator[None]:
    """Turn what h5py raises while it reads ``path`` into an ``InputError``."""
    try:
        yield
    except InputError:
        raise
    except HDF5_ERRORS as error:
        raise read_error(path, error, f"{path} is damaged") from error


def read_error(path: str, error: BaseException, damage: str) -> InputError:
    """The file system's error, if it is one; else ``damage``, with HDF5's reason."""
    text = " ".join(str(error).split()) or type(error).__name__
    reason = text[text.find("(") + 1 : text.rfind(")")] if "(" in text and ")" in text else text
    return InputError(file_system_problem(path, error) or f"{damage} ({reason}): {PREPARE_AGAIN}")


def require_regular(path: str, part: bool = False) -> None:
    """Raise ``InputError`` unless ``path`` is a regular file. A FIFO or device is never opened."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except ValueError as error:
        raise InputError(f"{path!r} is not a path ({error}): name a prepared image set") from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise InputError(
                f"no such file: {path}: name a prepared image set with --data ({FORMAT_HINT})"
            ) from error
        raise InputError(file_system_problem(path, error)) from error
    if not stat.S_ISREG(mode):
        kind = "is a folder" if stat.S_ISDIR(mode) else "is not a regular file"
        remedy = PART_REMEDY if part else f"--data takes one HDF5 file ({FORMAT_HINT})"
        raise InputError(f"{path} {kind}: {remedy}")


def file_system_problem(path: str, error: BaseException) -> str | None:
    """What the file system reported; None if ``error`` is about the file's content."""
    found = re.search(r"\berrno = (\d+)", str(error))
    number = (isinstance(error, OSError) and error.errno) or (int(found[1]) if found else 0)
    if not number:
        return None
    if number in (errno.EACCES, errno.EPERM):
        return f"{path} may not be read: check its permissions"
    name = f"{os.strerror(number)}, {errno.errorcode.get(number, number)}"
    return (
        f"{path} cannot be read, the file system reports an error ({name}): the file may be intact:"
        " start again, or --resume, when the disk or server works"
    )


def _read_ahead(path: str) -> None:
    """Make the system cache what HDF5 reads when it opens ``path`` and looks up names.

    HDF5 reads while h5py holds the interpreter's lock, so that no other thread and no signal
    handler runs. Here Python reads, and releases the lock while it waits. Errors are left to the
    code that really opens the file.
    """
    with suppress(*HDF5_ERRORS), io.FileIO(path) as file, h5py.File(file, "r") as hdf5:
        list(hdf5.attrs.items())
        seen = itertools.count()
        hdf5.visititems(lambda name, item: next(seen) > MOST_OBJECTS or None)


def _not_opened(path: str, head: bytes, error: OSError) -> InputError:
    if "already open for" in str(error):
        return InputError(
            f"{path} is open for writing in another process, or its writer crashed: wait until it"
            f" is written, or end the writer; after a crash run h5clear -s {path}"
        )
    if not head:
        return InputError(f"{path} is empty because its writer did not finish: {PREPARE_AGAIN}")
    kind = _format_of(head)
    if kind or (any(head) and "signature not found" in str(error)):
        but = f" but {kind}" if kind else ""
        hint = CONVERT if kind in {TEXT, *CONVERTIBLE.values()} else FORMAT_HINT
        return InputError(f"{path} is not an HDF5 file{but}: {hint}")
    return read_error(path, error, f"{path} is not a complete HDF5 file")


def _format_of(head: bytes) -> str | None:
    """The kind of file that begins with ``head`` if it is not HDF5; None if unknown."""
    if SIGNATURE in head:
        return None
    kinds = CONVERTIBLE | OTHER_FORMATS
    known = (kind for magic, kind in kinds.items() if head.startswith(magic))
    with_controls = set(head) & (set(range(32)) - set(b"\t\n\r\f"))
    return next(known, None if with_controls else TEXT)


def is_locked(file: BinaryIO) -> bool:
    """Whether another process holds a lock to write it. Tries locks of both kinds."""
    try:
        for lock in (fcntl.flock, fcntl.lockf):
            lock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            lock(file.fileno(), fcntl.LOCK_UN)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # the file system has no locks
        pass
    return False


def _require_complete(path: str, file: h5py.File) -> None:
    """Compare the size with the end in the superblock, which is written only when a file is closed.

    HDF5 File Format Specification 3.0, II.A: the base address, one other address, then the end's.
    """
    with Path(path).open("rb") as raw:
        raw.seek(file.userblock_size)
        block = raw.read(128)
    version = block[8]
    if version > 3:
        return
    width, first = (block[13], 24 + 4 * version) if version < 2 else (block[9], 12)
    base, _, end = (
        int.from_bytes(block[first + i * width : first + (i + 1) * width], "little")
        for i in range(3)
    )
    size, end = os.fstat(file.id.get_vfd_handle()).st_size, end + file.userblock_size - base
    if size > end:
        raise InputError(
            f"{path} is {size - end:,} bytes longer than its own header says: another process is"
            " still writing it, its writer crashed, or data was appended: wait until it is closed,"
            " or make it again"
        )

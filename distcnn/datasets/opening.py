"""Opening the files of an image set, with one-line errors for whatever is wrong with them.

A set may be spread over several files: external links and the parts of a virtual dataset.
``OpenFiles`` notes the state of each, so that a change of any of them is noticed.
"""

from __future__ import annotations

import errno
import fcntl
import io
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import h5py

from distcnn.errors import InputError
from distcnn.system.locked_calls import killable

SIGNATURE = b"\x89HDF\r\n\x1a\n"
HEAD_BYTES = 4096
LOCKING = "HDF5_USE_FILE_LOCKING"
FORMAT_HINT = "data/README.md describes how to make an image set"
PREPARE_AGAIN = "prepare it again (see data/README.md)"
PART_REMEDY = "restore that part, or make one file of all parts (see data/README.md)"

OTHER_FORMATS = (
    (b"PK\x03\x04", "a ZIP archive (as NumPy's .npz and PyTorch's .pt are)"),
    (b"\x93NUMPY", "a NumPy .npy array"),
    (b"\x1f\x8b", "compressed with gzip (unpack it first)"),
    (b"BZh", "compressed with bzip2 (unpack it first)"),
    (b"\xfd7zXZ\x00", "compressed with xz (unpack it first)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd (unpack it first)"),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file of version 5 to 7.2 (save -v7.3 writes HDF5)"),
    (b"version https://git-lfs", "a Git LFS pointer (git lfs pull fetches the file)"),
    (b"<!DOCTYPE", "a web page: the download failed"),
    (b"<!doctype", "a web page: the download failed"),
    (b"<html", "a web page: the download failed"),
    (b"<?xml", "XML text: the download may have failed"),
    (b"\x00\x00\x08", "an IDX file (data/from_idx.py takes the four of a set)"),
    (b"\x89PNG", "a PNG image (data/from_images.py takes folders of images)"),
    (b"\xff\xd8\xff", "a JPEG image (data/from_images.py takes folders of images)"),
    (b"GIF8", "a GIF image (data/from_images.py takes folders of images)"),
    (b"CDF", "a netCDF 3 file"),
    (b"PAR1", "a Parquet table"),
    *((b"\x80" + bytes([number]), "a Python pickle, which may run code") for number in range(2, 6)),
    (b"\x89HDF", "an HDF5 file whose first bytes were altered (transferred as text?)"),
)

FILE_SYSTEM_REMEDIES = {
    errno.ESTALE: "it was replaced or removed on its server: check that it exists and start again",
    errno.EMFILE: "this process has too many open files: raise the limit (ulimit -n)",
    errno.ENFILE: "the host has too many open files: close some, or ask the site",
    errno.ENOMEM: "the host is out of memory",
    errno.ELOOP: "its links form a loop: name the file itself",
}

MOST_OBJECTS = 100
"""An image set has six objects. In a file with many more, only the first are read ahead."""

HDF5_ERRORS = (OSError, RuntimeError, LookupError, TypeError, ValueError, OverflowError)
"""What h5py raises for damaged files."""

State = tuple[int, int, int]
"""A file's size, modification time in nanoseconds, and inode."""


class OpenFiles:
    """The files of an image set, held open until ``close``, and the state they were found in.

    Args:
        stall_timeout: The process ends when HDF5 waits this many seconds for one of them (0: never
            end it).
    """

    def __init__(self, stall_timeout: float = 0.0) -> None:
        self.stall_timeout = stall_timeout
        self._held = ExitStack()
        self._states: dict[str, tuple[State, Callable[[], os.stat_result]]] = {}

    def open(self, path: str, part: bool = False) -> h5py.File:
        """Open ``path`` and keep it open. Arguments and errors as for ``opened``."""
        file = self._held.enter_context(opened(path, self.stall_timeout, part))
        descriptor = file.id.get_vfd_handle()
        self._note(path, lambda: os.fstat(descriptor))
        return file

    def note(self, path: str) -> None:
        """Record the state of a part that HDF5 itself opens whenever it reads it."""
        require_regular(path, part=True)
        self._note(path, lambda: os.stat(path))  # noqa: PTH116

    def require_unchanged(self) -> None:
        """Raise ``InputError`` when any of the files has changed since it was noted."""
        for path, (before, look) in self._states.items():
            try:
                now = _state(look())
            except FileNotFoundError as error:
                raise InputError(
                    f"{path} was removed: restore it, then --resume the run"
                ) from error
            except OSError as error:
                raise InputError(_file_system_text(path, error.errno or 0)) from error
            if now != before:
                raise InputError(
                    f"{path} was changed while it was read: restore it, then --resume the run"
                )

    def close(self) -> None:
        """Close all files."""
        self._held.close()

    def _note(self, path: str, look: Callable[[], os.stat_result]) -> None:
        self._states.setdefault(path, (_state(look()), look))


def _state(status: os.stat_result) -> State:
    return status.st_size, status.st_mtime_ns, status.st_ino


@contextmanager
def opened(path: str, stall_timeout: float = 0.0, part: bool = False) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading, without taking locks.

    Args:
        path: The file.
        stall_timeout: As for ``OpenFiles``.
        part: Whether it is a part of a set, which decides the remedy in errors.

    Raises:
        InputError: When it is missing, in another format, damaged or still being written, or when
            the file system fails.
    """
    require_regular(path, part)
    try:
        with Path(path).open("rb") as raw:
            head = raw.read(HEAD_BYTES)
    except OSError as error:
        raise InputError(_file_system_text(path, error.errno or 0)) from error
    _require_unlocked(path)
    _read_ahead(path)
    try:
        # Without HDF5's chunk cache, some MiB for each dataset: each chunk is read only once.
        with killable(stall_timeout):
            file = h5py.File(path, "r", locking=False, rdcc_nbytes=0)
    except OSError as error:
        raise InputError(_why_not_opened(path, head, error)) from error
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
        damaged = f"{path} is damaged ({hdf5_reason(error)}): {PREPARE_AGAIN}"
        raise InputError(file_system_problem(path, error) or damaged) from error


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
        raise InputError(_file_system_text(path, error.errno or 0)) from error
    if not stat.S_ISREG(mode):
        kind = "is a folder" if stat.S_ISDIR(mode) else "is not a regular file"
        remedy = PART_REMEDY if part else f"--data takes one HDF5 file ({FORMAT_HINT})"
        raise InputError(f"{path} {kind}: {remedy}")


def file_system_problem(path: str, error: BaseException) -> str | None:
    """What the file system reported; None if ``error`` is about the file's content."""
    number = error.errno if isinstance(error, OSError) else None
    found = re.search(r"\berrno = (\d+)", str(error))
    number = number or (int(found[1]) if found else None)
    return _file_system_text(path, number) if number else None


def _file_system_text(path: str, number: int) -> str:
    if number in (errno.EACCES, errno.EPERM):
        return f"{path} may not be read: check its permissions"
    name = f"{os.strerror(number)}, {errno.errorcode.get(number, number)}"
    default = "the file may be intact: start again, or --resume, when the disk or server works"
    remedy = FILE_SYSTEM_REMEDIES.get(number, default)
    return f"{path} cannot be read, the file system reports an error ({name}): {remedy}"


def hdf5_reason(error: BaseException) -> str:
    """HDF5's own reason, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[text.find("(") + 1 : text.rfind(")")] if "(" in text and ")" in text else text


def other_format(head: bytes) -> str | None:
    """What kind of file begins with ``head`` if it is not HDF5; None if unknown."""
    for magic, description in OTHER_FORMATS:
        if head.startswith(magic) and not head.startswith(SIGNATURE):
            return description
    if head[257:262] == b"ustar":
        return "a tar archive"
    with_controls = set(head) & (set(range(32)) - set(b"\t\n\r\f"))
    return None if with_controls or SIGNATURE in head else "text (such as CSV)"


def _read_ahead(path: str) -> None:
    """Make the system cache what HDF5 reads when it opens ``path`` and looks up names.

    HDF5 reads while h5py holds the interpreter's lock, so that no other thread and no signal
    handler runs. Here Python reads, and releases the lock while it waits.
    """
    # Errors are reported by the code that really opens it.
    with suppress(*HDF5_ERRORS), io.FileIO(path) as file, h5py.File(file, "r") as hdf5:
        list(hdf5.attrs.items())
        seen = itertools.count()
        hdf5.visititems(lambda name, item: next(seen) > MOST_OBJECTS or None)


def _why_not_opened(path: str, head: bytes, error: OSError) -> str:
    if "already open for" in str(error):
        return (
            f"{path} is open for writing in another process, or its writer crashed: wait until it"
            f" is written, or end the writer; after a crash run h5clear -s {path}"
        )
    if not head:
        return f"{path} is empty because its writer did not finish: {PREPARE_AGAIN}"
    if description := other_format(head):
        return f"{path} is not an HDF5 file but {description}: {FORMAT_HINT}, from arrays too"
    if any(head) and "signature not found" in str(error):
        return f"{path} is not an HDF5 file: {FORMAT_HINT}, from arrays too"
    incomplete = f"{path} is not a complete HDF5 file ({hdf5_reason(error)}): {PREPARE_AGAIN}"
    return file_system_problem(path, error) or incomplete


def lock_state(path: str) -> str:
    """ "free", "held" by another process that writes, or why this file system has no locks.

    Both kinds of locks are tried, and released.
    """
    ways: tuple[Callable[[int, int], None], ...] = (fcntl.flock, fcntl.lockf)
    try:
        with Path(path).open("rb") as file:
            for lock in ways:
                lock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
                lock(file.fileno(), fcntl.LOCK_UN)
    except PermissionError as error:  # without a file name it comes from lockf: a lock is held
        return "held" if error.filename is None else "free"
    except BlockingIOError:
        return "held"
    except OSError as error:
        return str(error.strerror)
    return "free"


def _require_unlocked(path: str) -> None:
    """HDF5 holds a lock for as long as it has a file open for writing."""
    if os.environ.get(LOCKING, "").upper() not in ("FALSE", "0") and lock_state(path) == "held":
        raise InputError(
            f"{path} is locked by another process that writes to it: wait until it is written, or"
            f" end the writer; to read it anyway, set {LOCKING}=FALSE"
        )


def _require_complete(path: str, file: h5py.File) -> None:
    """HDF5 writes the end of a file into its header only when it is closed."""
    size, end = os.fstat(file.id.get_vfd_handle()).st_size, end_of_file(path, file.userblock_size)
    if end and size > end:
        raise InputError(
            f"{path} is {size - end:,} bytes longer than its own header says: another process is"
            " still writing it, its writer crashed, or data was appended: wait until it is closed,"
            " or make it again"
        )


def end_of_file(path: str, start: int) -> int | None:
    """The end of the file according to its superblock, which starts at ``start``; None if unknown.

    HDF5 File Format Specification 3.0, II.A: the base address, one other address, then the end's.
    """
    with Path(path).open("rb") as file:
        file.seek(start)
        block = file.read(128)
    version = block[8]
    if version > 3:
        return None
    width, first = (block[13], 24 + 4 * version) if version < 2 else (block[9], 12)
    places = (slice(first + i * width, first + (i + 1) * width) for i in range(3))
    base, _, end = (int.from_bytes(block[place], "little") for place in places)
    return end + start - base

"""Opening the files of an image set. What is not HDF5, is still being written or fails in the file
system is said in one line.

A set may be spread over several files: external links, the parts of a virtual dataset, external raw
storage. ``OpenFiles`` notes the state of each one, so that a change of any of them is noticed.
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
HOW = "data/README.md says how to make an image set"

OTHER_FORMATS = (
    (b"PK\x03\x04", "a ZIP archive (as NumPy's .npz and PyTorch's .pt are)"),
    (b"\x93NUMPY", "a NumPy .npy array"),
    (b"\x1f\x8b", "compressed with gzip (unpack it first)"),
    (b"BZh", "compressed with bzip2 (unpack it first)"),
    (b"\xfd7zXZ\x00", "compressed with xz (unpack it first)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd (unpack it first)"),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file of version 5 to 7.2 (save -v7.3 writes HDF5)"),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS instead of the file (git lfs pull fetches it)",
    ),
    (b"<!DOCTYPE", "a web page: the download failed"),
    (b"<!doctype", "a web page: the download failed"),
    (b"<html", "a web page: the download failed"),
    (b"<?xml", "XML text: the download may have failed"),
    (b"\x00\x00\x08", "an IDX file (data/from_idx.py takes the four of a set)"),
    (b"\x89PNG", "a PNG picture (data/from_images.py takes folders of pictures)"),
    (b"\xff\xd8\xff", "a JPEG picture (data/from_images.py takes folders of pictures)"),
    (b"GIF8", "a GIF picture (data/from_images.py takes folders of pictures)"),
    (b"CDF", "a netCDF 3 file"),
    (b"\x0e\x03\x13\x01", "an HDF4 file"),
    (b"PAR1", "a Parquet table"),
    (b"ARROW1", "an Arrow table"),
    (b"SQLite format 3", "an SQLite database"),
    *(
        (b"\x80" + bytes([protocol]), "a Python pickle, which may run code when it is loaded")
        for protocol in range(2, 6)
    ),
    (b"\x89HDF", "an HDF5 file whose first bytes were altered (transferred as text?)"),
)

FILE_SYSTEM_REMEDIES = {
    errno.ESTALE: (
        "it was replaced or removed on its server: look whether it is still there, then start"
        " again, or --resume"
    ),
    errno.EMFILE: "this process has too many open files: raise the limit (ulimit -n)",
    errno.ENFILE: "the host has too many open files: close some, or ask the site",
    errno.ENOMEM: "the host has no memory left",
    errno.ELOOP: "its links lead in a circle: name the file itself",
}

MOST_OBJECTS = 100
"""An image set has six; of a file with many more, the first ones are looked at before HDF5 opens
it.
"""

State = tuple[int, int, int]
"""A file's size, the time of its last change in nanoseconds, and its inode."""


class OpenFiles:
    """The files of one image set, held open until ``close``, and the state in which they and those
    that HDF5 opens itself were found.

    The process ends when HDF5 waits for one of them for ``stall_timeout`` seconds (0: never).
    """

    def __init__(self, stall_timeout: float = 0.0) -> None:
        self.stall_timeout = stall_timeout
        self._held = ExitStack()
        self._states: dict[str, tuple[State, Callable[[], os.stat_result]]] = {}

    def open(self, path: str) -> h5py.File:
        """Open ``path`` and keep it open. ``InputError`` as ``opened``."""
        file = self._held.enter_context(opened(path, self.stall_timeout))
        descriptor = file.id.get_vfd_handle()
        self._note(path, lambda: os.fstat(descriptor))
        return file

    def note(self, path: str) -> None:
        """Remember the state of ``path``, which HDF5 opens whenever it reads it.

        ``InputError`` when it may not be read.
        """
        require_regular(path)
        self._note(path, lambda: os.stat(path))  # noqa: PTH116

    def require_unchanged(self) -> None:
        """``InputError`` when any of the files has changed since it was noted."""
        for path, (before, look) in self._states.items():
            try:
                now = _state(look())
            except FileNotFoundError as error:
                raise InputError(
                    f"{path} is gone: put it back as it was, then --resume the run"
                ) from error
            except OSError as error:
                raise InputError(_of_file_system(path, error.errno or 0)) from error
            if now != before:
                raise InputError(
                    f"{path} was changed while it was read: put it back as it was, then --resume"
                    " the run"
                )

    def close(self) -> None:
        """Close all files."""
        self._held.close()

    def _note(self, path: str, look: Callable[[], os.stat_result]) -> None:
        self._states.setdefault(path, (_state(look()), look))


def _state(status: os.stat_result) -> State:
    return status.st_size, status.st_mtime_ns, status.st_ino


@contextmanager
def opened(path: str, stall_timeout: float = 0.0) -> Iterator[h5py.File]:
    """The HDF5 file ``path``, open for reading, without locks of our own. ``stall_timeout`` as in
    ``OpenFiles``.

    ``InputError`` when it is missing, another format, damaged, still being written, or the file
    system fails.
    """
    require_regular(path)
    head = _head(path)
    _require_finished(path)
    _read_headers(path)
    try:
        # Without HDF5's cache of chunks, which keeps some MiB of each dataset: each chunk is read
        # once.
        with killable(stall_timeout):
            file = h5py.File(path, "r", locking=False, rdcc_nbytes=0)
    except OSError as error:
        raise InputError(_why_not_opened(path, head, error)) from error
    with told(path), file:
        _require_no_surplus(path, file)
        yield file


@contextmanager
def told(path: str) -> Iterator[None]:
    """Raise what h5py raises while it reads ``path`` as an ``InputError``."""
    try:
        yield
    except InputError:
        raise
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, OverflowError) as error:
        remedy = "prepare it again (data/README.md says how)"
        raise InputError(
            trouble(path, error) or f"{path} is damaged ({short(error)}): {remedy}"
        ) from error


def require_regular(path: str) -> None:
    """``InputError`` unless ``path`` is a regular file that this process can see.

    A FIFO or a device is never opened.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except ValueError as error:
        raise InputError(f"{path!r} is not a path ({error}): name a prepared image set") from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise InputError(
                f"no such file: {path}: name a prepared image set with --data ({HOW})"
            ) from error
        raise InputError(_of_file_system(path, error.errno or 0)) from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder: --data takes one HDF5 file ({HOW})")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is not a regular file: --data takes one HDF5 file ({HOW})")


def trouble(path: str, error: BaseException) -> str | None:
    """What the file system reported, in one line; None where ``error`` tells of the file's content
    instead.
    """
    number = error.errno if isinstance(error, OSError) else None
    found = re.search(r"\berrno = (\d+)", str(error))
    number = number or (int(found[1]) if found else None)
    return _of_file_system(path, number) if number else None


def _of_file_system(path: str, number: int) -> str:
    if number in (errno.EACCES, errno.EPERM):
        return f"{path} may not be read: check its permissions"
    what = f"{os.strerror(number)}, {errno.errorcode.get(number, number)}"
    remedy = FILE_SYSTEM_REMEDIES.get(
        number,
        "the file itself may be whole: start again, or --resume, when the disk or its server is"
        " well",
    )
    return f"{path} cannot be read, the file system reports an error ({what}): {remedy}"


def short(error: BaseException) -> str:
    """HDF5's own reason, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[text.find("(") + 1 : text.rfind(")")] if "(" in text and ")" in text else text


def shown(text: str) -> str:
    """A name that a file gives, safe to print: control characters are escaped."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def other_format(head: bytes) -> str | None:
    """What a file is that begins with ``head`` and is not HDF5; None where that is unknown."""
    for magic, what in OTHER_FORMATS:
        if head.startswith(magic) and not head.startswith(SIGNATURE):
            return what
    if head[257:262] == b"ustar":
        return "a tar archive"
    with_controls = set(head) & (set(range(32)) - set(b"\t\n\r\f"))
    return None if with_controls or SIGNATURE in head else "text (such as CSV)"


def _head(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise InputError(_of_file_system(path, error.errno or 0)) from error


def _read_headers(path: str) -> None:
    """Have the system read what HDF5 reads of ``path`` as it opens it and looks up names, so that
    it does not wait for it then.

    HDF5 waits while h5py holds the interpreter's lock: no other thread and no signal handler runs.
    Here Python reads for it, and releases the lock while it waits.
    """
    any_problem = (
        OSError,
        RuntimeError,
        LookupError,
        TypeError,
        ValueError,
        OverflowError,
    )  # whoever reads it in earnest says what is wrong
    with suppress(*any_problem), io.FileIO(path) as file, h5py.File(file, "r") as hdf5:
        list(hdf5.attrs.items())
        seen = itertools.count()
        hdf5.visititems(lambda name, item: next(seen) > MOST_OBJECTS or None)


def _why_not_opened(path: str, head: bytes, error: OSError) -> str:
    if "already open for" in str(error):
        return (
            f"{path} is open for writing in another process, or its writer died:"
            f" {WAIT.format(path=path)}"
        )
    if not head:
        return (
            f"{path} is empty, so what writes it did not finish: prepare it again (data/README.md"
            " says how)"
        )
    if what := other_format(head):
        return f"{path} is not an HDF5 file but {what}: {HOW}, from arrays too"
    if any(head) and "signature not found" in str(error):
        return f"{path} is not an HDF5 file: {HOW}, from arrays too"
    again = (
        f"{path} is not a whole HDF5 file ({short(error)}): prepare it again (data/README.md says"
        " how)"
    )
    return trouble(path, error) or again


# -- files that are still being written

WAIT = "wait until it is written, or end what writes it; h5clear -s {path} when a writer died"


def lock_state(path: str) -> str:
    """ "free", "held" by another process that writes, or why there are no locks here.

    Both kinds of locks are tried, and given back.
    """
    ways: tuple[Callable[[int, int], None], ...] = (fcntl.flock, fcntl.lockf)
    try:
        with Path(path).open("rb") as file:
            for lock in ways:
                lock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
                lock(file.fileno(), fcntl.LOCK_UN)
    except PermissionError as error:
        return (
            "held" if error.filename is None else "free"
        )  # of opening, which the reader will tell; of lockf, a lock
    except BlockingIOError:
        return "held"
    except OSError as error:
        return str(error.strerror)
    return "free"


def _require_finished(path: str) -> None:
    """``InputError`` when another process holds a writer's lock, as HDF5 does for as long as it has
    a file open for writing.
    """
    if os.environ.get(LOCKING, "").upper() in ("FALSE", "0"):
        return
    if lock_state(path) == "held":
        raise InputError(
            f"{path} is locked by another process, which writes it: wait until it is written, or"
            f" end what writes it; {LOCKING}=FALSE reads it all the same"
        )


def _require_no_surplus(path: str, file: h5py.File) -> None:
    """``InputError`` when the file is longer than its own header says: HDF5 sets its end only when
    it is closed.
    """
    size, end = os.fstat(file.id.get_vfd_handle()).st_size, end_of_file(path, file.userblock_size)
    if end and size > end:
        raise InputError(
            f"{path} is {size - end:,} bytes longer than its own header says: another process still"
            " writes it, its writer died, or something was appended: wait until it is closed, or"
            " make it again"
        )


def end_of_file(path: str, start: int) -> int | None:
    """Where the file ends by its superblock, which begins at byte ``start``; None for an unknown
    kind.

    HDF5 File Format Specification 3.0, II.A: the base address, one other address, then that of the
    end.
    """
    with Path(path).open("rb") as file:
        file.seek(start)
        block = file.read(128)
    version = block[8]
    if version > 3:
        return None
    width, first = (block[13], 24 + 4 * version) if version < 2 else (block[9], 12)
    base, _, end = (
        int.from_bytes(block[first + i * width : first + (i + 1) * width], "little")
        for i in range(3)
    )
    return end + start - base

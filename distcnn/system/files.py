"""Write files atomically, and read and write without following links."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from distcnn.errors import InputError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
"""Names of temporary files: hidden, and in the file's folder, so on the same file system."""


def write_atomically(path: Path, *parts: bytes, sync: bool = True) -> None:
    """Write ``parts`` to a new temporary file in the folder of ``path``, then rename it.

    So ``path`` has either the old content or the new. The temporary file has an unpredictable name
    and is created exclusively, so nothing that others put into the folder, such as a symbolic link,
    is written to. A link at ``path`` itself is replaced, not followed. ``sync`` flushes the file
    and its folder to disk, so that a crash cannot undo it. After an ``OSError``, such as a full
    disk, ``path`` is unchanged, and no temporary file is left.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if sync:
        sync_folder(path.parent)


def append(path: Path, piece: bytes) -> None:
    """Append ``piece`` to a regular file; make it if necessary."""
    with os.fdopen(open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file:
        file.write(piece)


def read_bytes(path: Path, follow: bool = False) -> bytes:
    """Read a regular file; ``follow`` links only for a file that the user names."""
    with os.fdopen(open_regular(path, os.O_RDONLY, follow=follow), "rb") as file:
        return file.read()


def read_entry(path: Path, *names: str) -> str:
    """The first entry of a file of /proc with one of ``names``, in any case; empty if none."""
    wanted = [name.lower() for name in names]
    with suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip().lower() in wanted:
                return value.strip()
    return ""


def open_regular(path: Path, flags: int, permissions: int = 0o666, follow: bool = False) -> int:
    """Open a regular file; ``OSError`` for anything else (a pipe would block), such as a link."""
    links = 0 if follow else os.O_NOFOLLOW
    try:
        descriptor = os.open(
            path, flags | links | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, permissions
        )
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise OSError(errno.ELOOP, "it is a symbolic link", str(path)) from error
        raise
    kind = KINDS.get(stat.S_IFMT(os.fstat(descriptor).st_mode))
    if kind:
        os.close(descriptor)
        number = errno.EISDIR if kind == "a folder" else errno.EINVAL
        raise OSError(number, f"it is {kind}, not a regular file", str(path))
    return descriptor


def open_named(path: str | Path) -> BinaryIO:
    """Open the file that a user names, for reading; ``InputError`` if it cannot be. Never waits."""
    try:
        return os.fdopen(open_regular(Path(path), os.O_RDONLY, follow=True), "rb")
    except (OSError, ValueError) as error:
        reason = str(error.strerror if isinstance(error, OSError) else error)
        problem, remedy = f"cannot be read ({reason})", "check the path and its permissions"
        if reason.startswith("it is "):  # not a regular file
            problem, remedy = reason.removeprefix("it "), "remove it, or name another"
        raise InputError(f"{path} {problem}: {remedy}") from error


@contextmanager
def explaining(problem: str, remedy: str) -> Iterator[None]:
    """Make an ``OSError`` an ``InputError``: the problem, the system's reason, the remedy."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{problem} ({error.strerror}): {remedy}") from error


@contextmanager
def reading(name: object, *damage: type[Exception], remedy: str = "") -> Iterator[None]:
    """``InputError`` for a file that cannot be read, or whose ``damage`` shows as such an error."""
    end = f": {remedy}" if remedy else ""
    try:
        yield
    except damage as error:
        raise InputError(f"{name} is damaged ({type(error).__name__}: {error}){end}") from error
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}){end}") from error


def remove_temporary_files(folder: Path) -> None:
    """Delete the temporary files that killed writers left in ``folder``."""
    with suppress(OSError):
        for path in folder.iterdir():
            if TEMPORARY.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()


def sync_folder(folder: Path) -> None:
    """Flush the folder's entries (a rename, a new name) to disk, if the file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

"""Who may write to a run directory: one process at a time, and only into a folder of its
own user.
"""

from __future__ import annotations

import fcntl
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distcnn.errors import InputError
from distcnn.system.files import open_regular

LOCK = ".lock"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing to the folder ``path``. File systems without locks are let
    be.

    The lock file is readable by its owner alone: whoever can open it can hold its lock.
    ``InputError`` when another process holds it, or the folder cannot be written.
    """
    descriptor = _lock(path)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path) -> int:
    while True:
        try:
            descriptor = open_regular(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error.strerror}): name another folder with --output"
            ) from error
        with suppress(OSError):
            os.fchmod(descriptor, 0o600)  # one made by an older version was readable by all
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise InputError(
                f"{path} is in use by another run that has not ended: wait for it or end it, or"
                " name another folder with --output"
            ) from error
        except OSError:
            return descriptor
        if _is_same(descriptor, path / LOCK):
            return descriptor
        os.close(descriptor)  # its holder was refused and removed it


def _is_same(descriptor: int, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    return False


def require_owner(path: Path, *inside: str) -> None:
    """``InputError`` when the folder ``path``, or a file of the names ``inside`` it, belongs to
    another user.

    That user could replace files while a run writes them. The administrator's own folders are
    accepted.
    """
    for file in (path, *(path / name for name in inside)):
        with suppress(FileNotFoundError, NotADirectoryError):
            owner = (file.stat() if file == path else file.lstat()).st_uid
            if owner not in (os.geteuid(), 0):
                raise InputError(
                    f"{file} belongs to {_name(owner)}, who could change the run's files while they"
                    " are written: name a folder of your own with --output, or accept this one"
                    " with --allow-other-owner"
                )


def _name(user: int) -> str:
    try:
        return f"the user {pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"the user with the number {user}"

"""Elect one process per host to report for it, and find out which processes exist.

A claim is a lock on a file, which the kernel releases when the process ends, however it ends. The
files are in a folder that only their user can enter, so no other user of the host can hold a claim
and silence a report. Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

SHARED_FOLDERS = ("/dev/shm", "/tmp")
"""Folders of this host in which every user may create folders."""
SECONDS_TO_KEEP = 300.0
"""Unlocked files are removed after this time. A name belongs to one launch, so it is not claimed
again that late.
"""


def private_folder() -> Path | None:
    """A folder of this host that this user owns and nobody else can enter; None if impossible."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    for base in (*([runtime] if runtime.startswith("/") else []), *SHARED_FOLDERS):
        folder = Path(base, f"distcnn-{os.geteuid()}")
        with suppress(OSError):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            status = folder.lstat()  # of a link, if another user put one there
            is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
            if is_own and not status.st_mode & 0o077:
                return folder
    return None


def claim(job: str) -> bool:
    """Claim ``job`` until this process ends.

    Returns:
        Whether this process is the first of this user and host; also True if that cannot be
        found out, because several reports are better than none.
    """
    folder = private_folder()
    if folder is None:
        return True
    with suppress(OSError):
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(folder / job, flags, 0o600)
            if not _lock(descriptor):
                os.close(descriptor)
                return False
            if os.fstat(descriptor).st_nlink:  # it stays open until the process ends
                break
            os.close(descriptor)  # it was removed between the two calls
        _remove_old_files(folder)
    return True


def claimed() -> set[str]:
    """Jobs that living processes of this user hold on this host; empty if unknown."""
    folder = private_folder()
    locked = set()
    # not by trying to lock them: a process that claims one at that moment would not get it
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            _, kind, *_, file, _, _ = line.split()
            if kind == "FLOCK":
                locked.add(int(file.rpartition(":")[2]))
    if folder and locked:
        with suppress(OSError):
            return {entry.name for entry in os.scandir(folder) if entry.inode() in locked}
    return set()


def _lock(descriptor: int) -> bool:
    """Lock a file; False if it is locked. ``OSError`` if there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_old_files(folder: Path) -> None:
    for path in folder.iterdir():
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime < SECONDS_TO_KEEP:
                continue
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if _lock(descriptor):
                    path.unlink()
            finally:
                os.close(descriptor)

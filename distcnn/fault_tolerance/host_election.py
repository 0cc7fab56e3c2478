"""Elect one process per host to report for it, and find out which processes exist.

A claim is a lock on a file, which the kernel releases when the process ends, however it ends. The
files are in a folder that only their user can enter, so no other user of the host can hold a claim
and silence a report. Standard library only.
"""

import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

SHARED_FOLDERS = ("/dev/shm", "/tmp")
"""Of this host: every user may create folders in them."""
FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
SECONDS_TO_KEEP = 300.0
"""Unlocked files are removed after this time: a name belongs to one launch."""


def private_folder() -> Path | None:
    """A folder of this host that only this user can enter; None if impossible."""
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), *SHARED_FOLDERS):
        folder = Path(base, f"distcnn-{os.geteuid()}")
        with suppress(OSError):
            if folder.is_absolute():
                folder.mkdir(mode=0o700, exist_ok=True)
                status = folder.lstat()  # of a link, if another user put one there
                is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
                if is_own and not status.st_mode & 0o077:
                    return folder
    return None


def claim(job: str) -> bool:
    """Claim ``job`` until this process ends; False if another one of this user and host holds it,
    True if that is unknown, because several reports are better than none.
    """
    folder = private_folder()
    if folder is None:
        return True
    with suppress(OSError):
        descriptor = os.open(folder / job, os.O_CREAT | FLAGS, 0o600)
        if not _lock(descriptor):
            os.close(descriptor)
            return False
        _remove_old_files(folder)  # the descriptor stays open until the process ends
    return True


def claimed() -> set[str]:
    """Jobs that living processes of this user hold on this host; empty if unknown."""
    folder = private_folder()
    # not by trying to lock them: a process that claims one at that moment would not get it
    with suppress(OSError, ValueError):
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        locked = {int(fields[-3].rpartition(":")[2]) for fields in locks if fields[1] == "FLOCK"}
        if folder:
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
            if time.time() - path.lstat().st_mtime > SECONDS_TO_KEEP:
                descriptor = os.open(path, FLAGS)
                try:
                    if _lock(descriptor):
                        path.unlink()
                finally:
                    os.close(descriptor)

"""Who speaks for a host: the first process to ask, and who is there at all. Standard library only.

A claim is a lock on a file, which the kernel releases when the process ends, however it ends. The
files are in a folder that only their user can enter, so that no other user of the host can hold a
claim first and so silence the report of a failure.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

SHARED_FOLDERS = ("/dev/shm", "/tmp")
"""Where everyone may make folders, on this host alone."""
SECONDS_TO_KEEP = 300.0
"""Files older than this that nobody holds are removed.

Names are of one start: none is claimed anew so late.
"""


def private_folder() -> Path | None:
    """A folder of this host that this user owns and nobody else can enter, made if need be; None
    where there can be none.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    for base in (*([runtime] if runtime.startswith("/") else []), *SHARED_FOLDERS):
        folder = Path(base, f"distcnn-{os.geteuid()}")
        with suppress(OSError):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            status = folder.lstat()  # of a link, where another user put one
            if (
                stat.S_ISDIR(status.st_mode)
                and status.st_uid == os.geteuid()
                and not status.st_mode & 0o077
            ):
                return folder
    return None


def claim(job: str) -> bool:
    """Whether this process is this user's first on its host to ask for ``job``; then nobody else is
    until it ends.

    True where that cannot be told: rather several speak than none.
    """
    folder = private_folder()
    if folder is None:
        return True
    with suppress(OSError):
        while True:
            descriptor = os.open(
                folder / job, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            if not _lock(descriptor):
                os.close(descriptor)
                return False
            if os.fstat(descriptor).st_nlink:  # it stays open until the process ends
                break
            os.close(descriptor)  # it was removed between the two calls
        _remove_old_files(folder)
    return True


def claimed() -> set[str]:
    """What living processes of this user hold on this host; empty where the system does not
    tell.
    """
    folder = private_folder()
    locked = set()
    with suppress(
        OSError
    ):  # not by trying to lock them: whoever claims one at that moment would not get it
        for line in Path("/proc/locks").read_text().splitlines():
            _, kind, *_, file, _, _ = line.split()
            if kind == "FLOCK":
                locked.add(int(file.rpartition(":")[2]))
    with suppress(OSError):
        return (
            {entry.name for entry in os.scandir(folder) if entry.inode() in locked}
            if folder and locked
            else set()
        )
    return set()


def _lock(descriptor: int) -> bool:
    """Whether it was free; raises ``OSError`` where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_old_files(folder: Path) -> None:
    for path in folder.iterdir():
        with suppress(OSError):
            status = path.lstat()
            if time.time() - status.st_mtime < SECONDS_TO_KEEP:
                continue
            if stat.S_ISREG(status.st_mode):
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    if _lock(descriptor):
                        path.unlink()
                finally:
                    os.close(descriptor)
            else:  # a socket of the doctor's, which listens for seconds
                path.unlink()

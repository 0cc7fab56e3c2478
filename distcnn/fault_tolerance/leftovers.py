"""Shared memory that an MPI left in /dev/shm because its ranks were killed.

It takes memory, and worse: srun names the steps of a requeued job as before and MPICH names its
memory after the step, so that the next start would find what the last one left. Standard library
only.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from distcnn.system import launcher
from distcnn.system.console import tell

MEMORY = Path("/dev/shm")
PREFIXES = (
    "mpich_shm_",
    "mpich_shar_tmp",
    "sm_segment.",
    "vader_segment.",
    "open_mpi.",
    "ucx_shm_",
    "psm2_shm",
    "psm3_shm",
)
"""MPICH's, Open MPI's (of several versions), UCX's, those of Intel's and Cornelis' networks."""

INITIAL_NAMESPACE = 0xEFFFFFFC
"""The inode of the host's own process namespace, a constant of Linux."""
SECONDS_TO_FINALIZE = 0.2
"""A rank that ends unmaps its memory just before it removes it: what is unused in two looks this
far apart was left behind.
"""
SECONDS_TO_ATTACH = 60.0
"""A process of another container that is about to map a file has done so after this time; then the
file may lose its name.
"""


def clean_before_start(folder: Path = MEMORY) -> None:
    """Remove what no living process uses, once on each host, before a rank starts MPI."""
    place = launcher.declared_place(os.environ)
    if launcher.declared(os.environ) and (place is None or place.local_rank == 0):
        remove_left_behind(folder)


def remove_left_behind(folder: Path = MEMORY) -> list[Path]:
    """Remove this user's files of MPIs that no process has open or mapped; what was removed."""
    unused = _unused(_candidates(folder))
    if unused:
        time.sleep(SECONDS_TO_FINALIZE)
        unused = [path for path in _unused(unused) if path.exists()]
    removed = []
    for path in unused:
        with suppress(OSError):
            path.unlink()
            removed.append(path)
    return removed


def _candidates(folder: Path) -> list[Path]:
    """Files of this user that may be left.

    In a container, which may not see all that use them, only older ones.
    """
    found = []
    with suppress(OSError):
        newest = time.time() - (0 if _sees_all_processes() else SECONDS_TO_ATTACH)
        for path in folder.iterdir():
            with suppress(OSError):
                status = path.lstat()
                if (
                    path.name.startswith(PREFIXES)
                    and status.st_uid == os.geteuid()
                    and status.st_mtime < newest
                ):
                    found.append(path)
    return found


def _sees_all_processes() -> bool:
    return Path("/proc/self/ns/pid").stat().st_ino == INITIAL_NAMESPACE


def _unused(paths: list[Path]) -> list[Path]:
    """Those that no process has open or mapped. Other users' processes cannot be seen, nor use this
    user's files.

    No file itself is asked, for one of a file system that hangs would hang this process. A
    process's open files come before its mapped ones: what is mapped and then closed meanwhile is
    seen all the same.
    """
    if not paths:
        return []
    used: set[Path] = set()
    for process in Path("/proc").glob("[0-9]*"):
        texts = []
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    texts.append(str(descriptor.readlink()))
            texts.append((process / "maps").read_text(errors="replace"))
        text = "\n".join(texts)
        used |= {
            path
            for path in paths
            if f"/{path.name}" in text and _has_same_folder(process, path.parent)
        }
    return [path for path in paths if path not in used]


def _has_same_folder(process: Path, folder: Path) -> bool:
    """Whether ``folder`` is the same one for that process; a container has its own, with files of
    the same names.
    """
    try:
        return folder.samefile(f"{process}/root{folder}")
    except OSError:
        return True


def main() -> int:
    """Clean now, and say what was removed."""
    for path in remove_left_behind():
        tell(f"{os.uname().nodename}: removed {path}, left by an MPI that was killed")
    return 0

"""Shared memory that MPI left in /dev/shm because its ranks were killed.

It takes memory, and worse: srun gives the steps of a requeued job the same names, and MPICH names
its memory after the step, so the next start would find what the last one left.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from distcnn.system import launcher
from distcnn.system.console import tell

MEMORY = Path("/dev/shm")
PREFIXES = (
    *("mpich_shm_", "mpich_shar_tmp"),
    *("sm_segment.", "vader_segment.", "open_mpi."),
    *("ucx_shm_", "psm2_shm", "psm3_shm"),
)
"""Of MPICH, of versions of Open MPI, and of UCX, Intel's and Cornelis' networks."""
INITIAL_NAMESPACE = 0xEFFFFFFC
"""The inode of the host's own process namespace, a constant of Linux."""
SECONDS_TO_FINALIZE = 0.2
"""A rank that ends unmaps its memory just before removing it: memory is checked twice."""
SECONDS_TO_ATTACH = 60.0
"""Within this time, a process of another container maps its file."""


def clean_before_start(folder: Path = MEMORY) -> None:
    """Remove memory that no living process uses, once per host, before a rank starts MPI."""
    place = launcher.declared_place(os.environ)
    if launcher.declared(os.environ) and (place is None or place.local_rank == 0):
        remove_left_behind(folder)


def remove_left_behind(folder: Path = MEMORY) -> list[Path]:
    """Remove this user's MPI files that no process has open or mapped, and return them."""
    unused = _unused(_candidates(folder))
    if unused:
        time.sleep(SECONDS_TO_FINALIZE)
        unused = _unused(unused)
    removed = []
    for path in unused:
        with suppress(OSError):
            path.unlink()
            removed.append(path)
    return removed


def _candidates(folder: Path) -> list[Path]:
    """This user's MPI files; in a container, which may not see all processes, only older ones."""
    found = []
    with suppress(OSError):
        sees_all = Path("/proc/self/ns/pid").stat().st_ino == INITIAL_NAMESPACE
        newest = time.time() - (0 if sees_all else SECONDS_TO_ATTACH)
        for path in folder.iterdir():
            with suppress(OSError):
                status = path.lstat()
                is_own = path.name.startswith(PREFIXES) and status.st_uid == os.geteuid()
                if is_own and status.st_mtime < newest:
                    found.append(path)
    return found


def _unused(paths: list[Path]) -> list[Path]:
    """Those of ``paths`` that no process has open or mapped.

    Other users' processes cannot be seen, but cannot use this user's files either. The files
    themselves are not opened, because a file system that hangs would hang this process. Open files
    are listed before mapped ones, to see a file that is mapped and closed in between.
    """
    unused = set(paths)
    for process in Path("/proc").glob("[0-9]*") if paths else ():
        texts = []
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    texts.append(str(descriptor.readlink()))
            texts.append((process / "maps").read_text(errors="replace"))
        text = "\n".join(texts)
        found = {path for path in unused if f"/{path.name}" in text}
        unused -= {path for path in found if _has_same_folder(process, path.parent)}
    return [*unused]


def _has_same_folder(process: Path, folder: Path) -> bool:
    """Whether the process sees the same ``folder``: a container has its own, with equal names."""
    try:
        return folder.samefile(f"{process}/root{folder}")
    except OSError:
        return True


def main() -> int:
    """Clean now, and print what was removed."""
    for path in remove_left_behind():
        tell(f"{os.uname().nodename}: removed {path}, left by killed MPI processes")
    return 0

"""Remove shared memory that an MPI left on this host when its ranks were killed: this user's own, that no process has mapped any more.

It takes memory, and worse: srun names the steps of a job that was requeued as before, MPICH names its memory after the step, and so the
next start would find what the last one left.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

MEMORY = Path("/dev/shm")
PATTERNS = ("mpich_shm_*", "sm_segment.*", "vader_segment.*", "ucx_shm_*")
"""MPICH's, Open MPI's (of several versions), UCX's."""


def mapped() -> set[str]:
    """Files in ``MEMORY`` that some process of this host has mapped; those of other users' processes cannot be seen, nor removed."""
    found = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            found |= {line.split(None, 5)[5].rstrip() for line in maps.read_text().splitlines() if f"{MEMORY}/" in line}
    return found


def main() -> int:
    """Say what was removed."""
    candidates = [each for pattern in PATTERNS for each in MEMORY.glob(pattern) if each.stat().st_uid == os.getuid()]
    in_use = mapped() if candidates else set()
    for each in candidates:
        if str(each) not in in_use:
            with suppress(OSError):
                each.unlink()
                print(f"{os.uname().nodename}: removed {each}, left by an MPI that was killed", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

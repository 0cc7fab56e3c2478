"""The machine and software of a measurement, and the memory it used."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path

from distcnn.distributed import Communicator
from distcnn.system.host import processor
from distcnn.training.fingerprint import fingerprint


def machine_facts(communicator: Communicator) -> dict[str, str | int]:
    """Processor, cores and software; whatever decides the bits (``fingerprint``) decides the
    speed too.
    """
    return {
        "processor": processor(),
        "cores": os.cpu_count() or 0,
        "hosts": len(set(communicator.hosts)),
        "system": f"{platform.system()} {platform.release()}",
        "mpi": communicator.description,
        **fingerprint(),
    }


def peak_bytes() -> int:
    """Peak memory of this process so far, in bytes.

    On Linux ``VmHWM``, because ``ru_maxrss`` is inherited over exec: a small rank started by a
    large process would report the peak of that process.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        lines = []
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    unit = 1 if sys.platform == "darwin" else 1024
    return peaks[0] if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from distcnn.distributed import Communicator
from distcnn.training.fingerprint import fingerprint


def machine_facts(communicator: Communicator) -> dict[str, str | int]:
    """Processor, cores, software; what decides the bits (``fingerprint``) decides the speed too."""
    return {
        "processor": processor(),
        "cores": os.cpu_count() or 0,
        "hosts": len(set(communicator.hosts)),
        "system": f"{platform.system()} {platform.release()}",
        "mpi": communicator.description,
        **fingerprint(),
    }


def processor() -> str:
    """The processor's name, as Linux tells; elsewhere as Python does."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    names = [
        line.partition(":")[2].strip()
        for line in text.splitlines()
        if line.lower().startswith("model name")
    ]
    return names[0] if names else platform.processor() or platform.machine()

"""The software and the processor that decide the bits."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np

import distcnn
from distcnn.parallel.threads import blas_description, blas_threads

FLAGS_OF_NOTE = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_bf16",
    "amx_tile",
    "asimd",
    "sve",
    "sve2",
    "vsx",
)
"""Instruction sets by which NumPy and BLAS choose their kernels."""


def fingerprint() -> dict[str, str]:
    """What must be the same for the same bits to come out."""
    return {
        "distcnn": distcnn.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": blas_description(),
        "blas_threads": str(blas_threads()),
        "machine": platform.machine(),
        "cpu_flags": " ".join(cpu_flags()),
    }


def cpu_flags() -> list[str]:
    """Those of ``FLAGS_OF_NOTE`` that this processor has, as Linux tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            return [flag for flag in FLAGS_OF_NOTE if flag in value.split()]
    return []


def differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """What differs, in words."""
    names = dict.fromkeys([*before, *now])
    return [f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in names if before.get(name) != now.get(name)]

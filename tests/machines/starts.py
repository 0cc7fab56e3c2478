"""How Python is started in an environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from distcnn.system.host import cpu_info
from tests.machines.debian import Unavailable, prepared, run
from tests.machines.measure import ROOT, blas, enabled_features


@dataclass(frozen=True)
class Start:
    """A command, and variables that it needs."""

    command: tuple[str, ...] = (sys.executable,)
    variables: Mapping[str, str] = field(default_factory=dict)


def kernel(name: str, needs: str) -> Callable[[], Start]:
    """OpenBLAS with this kernel, on a processor that has the instructions ``needs``."""

    def start() -> Start:
        if blas().get("internal_api") != "openblas":
            raise Unavailable("NumPy's BLAS is not OpenBLAS here")
        lacking = [flag for flag in needs.split() if flag not in cpu_info("flags").split()]
        if lacking:
            raise Unavailable(f"this processor has no {', '.join(lacking)}")
        return Start(variables={"OPENBLAS_CORETYPE": name})

    return start


def no_simd() -> Start:
    """NumPy without the instruction sets that it chooses at run time."""
    if not (features := enabled_features()):
        raise Unavailable("NumPy chooses no instruction sets here")
    return Start(variables={"NPY_DISABLE_CPU_FEATURES": " ".join(features)})


def lowest_numpy() -> Start:
    """The lowest NumPy that distcnn supports, with this Python, which must have wheels of it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = prepared(f"lowest-{version}", _install_lowest)
    return Start(variables={"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])})


def _install_lowest(folder: Path) -> None:
    constraint = ["--constraint", str(ROOT / ".ci" / "lowest.txt"), "--only-binary", ":all:"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
    run(*pip, *constraint, "numpy", "h5py")

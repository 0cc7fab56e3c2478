"""How Python is started in an environment."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from distcnn.system.host import cpu_info
from tests.machines.debian import Unavailable, prepared, run
from tests.machines.measure import ROOT, blas, enabled_features

NEEDED = "numpy", "h5py", "threadpoolctl", "tomli-w", "tqdm"
"""What distcnn needs."""


@dataclass(frozen=True)
class Start:
    """A command, variables that it needs, and the version of NumPy that it must have, if known."""

    command: tuple[str, ...] = (sys.executable,)
    variables: Mapping[str, str] = field(default_factory=dict)
    numpy: str = ""


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
    lowest = "--constraint", str(ROOT / ".ci" / "lowest.txt")
    return with_numpy("lowest", sys.executable, *lowest, "numpy", "h5py")


def newest_numpy() -> Start:
    """The newest NumPy, which needs a newer Python than the oldest that distcnn supports."""
    beside = Path(sys.base_prefix).parent.glob("*/bin")  # where pyenv and uv keep others
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, beside)])
    for minor in range(20, sys.version_info.minor, -1):
        for folder in path.split(os.pathsep):
            if python := shutil.which(f"python3.{minor}", path=folder):
                with suppress(Unavailable):
                    run(python, "--version")
                    return with_numpy("newest", python, *NEEDED)
    raise Unavailable("no newer Python here")


def with_numpy(name: str, python: str, *packages: str) -> Start:
    """``python`` with what pip installs for it, apart from its own packages."""
    version = run(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()

    def install(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
        run(*pip, "--only-binary", ":all:", "--target", str(folder), *packages)

    folder = prepared(f"{name}-{version}", install)
    found = next(folder.glob("numpy-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    return Start((python,), {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}, found)

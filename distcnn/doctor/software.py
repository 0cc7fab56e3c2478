"""Versions, the BLAS kernel, the processor and the environment variables that decide the bits."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import distcnn
from distcnn.doctor.check import BAD, WARNING, Check, Finding, Options, Places, root_cause
from distcnn.system import host, launcher
from distcnn.system.environment import kernel_variables, sources_sha256

LEAST_PYTHON = (3, 11)
LEAST = {"numpy": (2, 0), "h5py": (3, 11), "threadpoolctl": (3, 2), "mpi4py": (4, 0)}
"""The oldest supported versions, as in pyproject.toml."""
OF_RANK_0 = ("tomli_w", "tqdm")
"""Packages that only rank 0 imports."""

ONE_ENVIRONMENT = (
    "start all ranks in one environment: a venv or module on a file system that all hosts mount,"
    " activated in the job script"
)
INSTALL = (
    "install it (pip install . in distcnn's folder) into the environment in which the ranks start"
)
ONE_KIND_OF_HOST = (
    "request hosts of one kind (srun --constraint); OPENBLAS_CORETYPE is not enough, because"
    " OpenBLAS 0.3.34 and newer choose block sizes by the processor regardless"
)
SOFTWARE = ("all ranks need the same software to get the same bits", ONE_ENVIRONMENT, BAD)
KERNEL = ("different processors and BLAS kernels round differently", ONE_KIND_OF_HOST)
COMPARED = {
    "python": SOFTWARE,
    "numpy": SOFTWARE,
    "blas": (*KERNEL, BAD),
    "hdf5": ("ranks may read the file differently", ONE_ENVIRONMENT, WARNING),
    "distcnn": (SOFTWARE[0], f"{ONE_ENVIRONMENT}; look for copies in PYTHONPATH", BAD),
    "processor": (*KERNEL, WARNING),
    "environment": ("these variables select kernels", "set them in the job script", WARNING),
}
"""What must be equal on all ranks: the reason, the remedy for a difference, its severity."""


@dataclass(frozen=True)
class Software:
    """The software of one rank.

    Args:
        versions: by the names in ``COMPARED``, if known.
        problems: what is missing, broken or too old, by name.
    """

    versions: Mapping[str, str]
    problems: Mapping[str, str]

    @property
    def has_numpy(self) -> bool:
        """Whether NumPy can be imported."""
        return "numpy" in self.versions


def collect(options: Options) -> Software:
    """Import the libraries. mpi4py must come first: an h5py built for MPI would start MPI."""
    versions = {
        "python": platform.python_version(),
        "distcnn": f"{distcnn.__version__}, sources {sources_sha256()[:12]}",
        "processor": host.processor(),
        "environment": ", ".join(f"{k}={v}" for k, v in kernel_variables(os.environ).items())
        or "no variables that select kernels",
    }
    problems: dict[str, str] = {}
    if sys.version_info < LEAST_PYTHON:
        problems["python"] = f"{versions['python']} is too old: distcnn needs 3.11 or newer"
    of_rank_0 = OF_RANK_0 if launcher.declared_rank(os.environ) == 0 else ()
    for module in ("numpy", "threadpoolctl", "h5py", *of_rank_0):
        name = "hdf5" if module == "h5py" else module
        try:
            version = str(getattr(importlib.import_module(module), "__version__", ""))
        except Exception as error:
            problems[name] = f"{module} cannot be imported: {root_cause(error)}"
            continue
        versions[name] = _hdf5() if module == "h5py" else version
        if too_old(module, version):
            problems[name] = (
                f"{module} {version} is too old: distcnn needs {least(module)} or newer"
            )
    if "numpy" in versions and "threadpoolctl" in versions:
        from distcnn.distributed.blas_threads import blas_description, limit_blas_threads

        limit_blas_threads()
        versions["blas"] = blas_description()
    return Software(versions, problems)


def evaluate(places: Places, everyone: Mapping[int, Software]) -> Iterator[Finding]:
    """Report what is broken or too old, then each version and how ranks differ."""
    yield from places.gathered(
        {
            rank: [Finding.bad(name, text, INSTALL) for name, text in facts.problems.items()]
            for rank, facts in everyone.items()
        }
    )
    for name, (why, remedy, state) in COMPARED.items():
        values = {
            rank: facts.versions[name]
            for rank, facts in everyone.items()
            if facts.versions.get(name) and name not in facts.problems
        }
        if values:
            yield places.compared(name, values, why, remedy, state)


def too_old(module: str, version: str) -> bool:
    """Whether ``version`` ("2.3.1") is below the oldest supported; False if it cannot be read."""
    numbers = version.split(".")[:2]
    return (
        module in LEAST
        and all(number.isdigit() for number in numbers)
        and tuple(map(int, numbers)) < LEAST[module]
    )


def least(module: str) -> str:
    """The oldest supported version of ``module``, such as "2.0"."""
    return ".".join(map(str, LEAST[module]))


def _hdf5() -> str:
    import h5py

    build = " built for MPI" if h5py.get_config().mpi else ""
    return f"h5py {h5py.__version__}{build}, HDF5 {h5py.version.hdf5_version}"


CHECK = Check("software", collect, evaluate)

"""Versions, the BLAS kernel, the processor and the environment variables that decide the bits."""

from __future__ import annotations

import importlib
import os
import platform
import sys

import distcnn
from distcnn.doctor.findings import BAD, WARNING, Finding, Found, Same, root_cause
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
OR_PORTABLE = ", or train with --arithmetic portable"
"""The remedy for differences on which the bits of portable arithmetic do not depend."""
ONE_KIND_OF_HOST = (
    f"request hosts of one kind (srun --constraint){OR_PORTABLE}; OPENBLAS_CORETYPE is not enough,"
    " because OpenBLAS 0.3.34 and newer choose block sizes by the processor regardless"
)
SAME_SOFTWARE = "all ranks need the same software to get the same bits"
ROUNDING = "different processors and BLAS kernels round differently"


def software() -> Found:
    """What is broken or too old, and what must be the same on all ranks."""
    version = platform.python_version()
    if sys.version_info < LEAST_PYTHON:
        text = f"{version} is too old: distcnn needs 3.11 or newer"
        yield Finding(BAD, "python", text, INSTALL)
    yield Same("python", version, SAME_SOFTWARE, ONE_ENVIRONMENT + OR_PORTABLE, of_native=True)
    of_rank_0 = OF_RANK_0 if launcher.declared_rank(os.environ) == 0 else ()
    for module in ("numpy", "threadpoolctl", "h5py", *of_rank_0):
        yield from _library(module)
    if {"numpy", "threadpoolctl"} <= sys.modules.keys():
        from distcnn.distributed.blas_threads import blas_description, limit_blas_threads

        limit_blas_threads()
        yield Same("blas", blas_description(), ROUNDING, ONE_KIND_OF_HOST, of_native=True)
    sources = f"{distcnn.__version__}, sources {sources_sha256()[:12]}"
    remedy = f"{ONE_ENVIRONMENT}; look for copies in PYTHONPATH"
    yield Same("distcnn", sources, SAME_SOFTWARE, remedy)
    yield Same("processor", host.processor(), ROUNDING, ONE_KIND_OF_HOST, WARNING, of_native=True)
    settings = [f"{name}={value}" for name, value in kernel_variables(os.environ).items()]
    text = ", ".join(settings) or "no variables that select kernels"
    why, remedy = "these variables select kernels", f"set them in the job script{OR_PORTABLE}"
    yield Same("environment", text, why, remedy, WARNING, of_native=True)


def _library(module: str) -> Found:
    name = "hdf5" if module == "h5py" else module
    try:
        library = importlib.import_module(module)
    except Exception as error:
        yield Finding(BAD, name, f"{module} cannot be imported: {root_cause(error)}", INSTALL)
        return
    version = str(getattr(library, "__version__", ""))
    if problem := too_old(module, version):
        yield Finding(BAD, name, problem, INSTALL)
    elif module == "numpy":
        yield Same(name, version, SAME_SOFTWARE, ONE_ENVIRONMENT + OR_PORTABLE, of_native=True)
    elif module == "h5py":
        build = " built for MPI" if library.get_config().mpi else ""
        text = f"h5py {version}{build}, HDF5 {library.version.hdf5_version}"
        yield Same(name, text, "ranks may read the file differently", ONE_ENVIRONMENT, WARNING)


def too_old(module: str, version: str) -> str:
    """The problem with a ``version`` below the oldest supported; empty if it cannot be read."""
    numbers, least = version.split(".")[:2], LEAST.get(module, (0, 0))
    if not all(map(str.isdigit, numbers)) or tuple(map(int, numbers)) >= least:
        return ""
    return f"{module} {version} is too old: distcnn needs {'.'.join(map(str, least))} or newer"

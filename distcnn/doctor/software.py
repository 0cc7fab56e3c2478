"""Python, NumPy, BLAS, HDF5, distcnn itself, the processor: what decides the bits, and whether it
is the same on all ranks.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distcnn
from distcnn.doctor.check import Everyone, Facts, Section, tried
from distcnn.doctor.finding import BAD, GOOD, WARNING, Finding, Places, compared, gathered
from distcnn.system import launcher
from distcnn.system.environment import sources_sha256

LEAST_PYTHON = (3, 11)
LEAST = {"numpy": (2, 0), "h5py": (3, 9), "threadpoolctl": (3, 2), "mpi4py": (4, 0)}
"""As in pyproject.toml."""
OF_ROOT = ("tomli_w", "tqdm")
"""Packages that root alone imports."""

SAME = "all ranks must run the same software for the same bits"
ONE_ENVIRONMENT = (
    "start all ranks in one environment: a venv or module on a file system that all hosts see,"
    " activated in the job script"
)
INSTALL = (
    "install it into this environment (in distcnn's folder: pip install .), and activate that where"
    " the ranks start"
)


def look() -> Facts:
    """Versions, or the reason why one cannot be had.

    Importing h5py must come after mpi4py: built for MPI, it would start it.
    """
    facts: Facts = {
        "python": platform.python_version(),
        "new_enough": sys.version_info >= LEAST_PYTHON,
        "distcnn": f"{distcnn.__version__}, sources {sources_sha256()[:12]}",
        "folder": str(Path(distcnn.__file__).parent),
        "machine": platform.machine(),
        "model": processor(),
        "modules": {name: _version(name) for name in ("numpy", "threadpoolctl")},
    }
    if launcher.declared_rank(os.environ) == 0:
        facts["modules"] |= {name: _version(name) for name in OF_ROOT}
    return facts | {"blas": tried(_blas), "hdf5": tried(_hdf5), "flags": tried(_flags)}


def judge(places: Places, everyone: Everyone) -> list[Finding]:
    """Lines on each; then the differences."""
    pythons = compared(
        places,
        "python",
        {rank: facts["python"] for rank, facts in everyone.items()},
        SAME,
        ONE_ENVIRONMENT,
    )
    return [
        *(
            [pythons]
            if pythons.state == BAD or all(each["new_enough"] for each in everyone.values())
            else []
        ),
        *gathered(places, {rank: _problems(facts) for rank, facts in everyone.items()}),
        *_compared_parts(places, everyone),
    ]


def why_not(facts: Facts) -> str | None:
    """None, or why no rank of ours can speak to others on this software."""
    problem: str | None = facts.get("failed") or facts["modules"]["numpy"].get("problem")
    return problem


def _problems(facts: Facts) -> list[Finding]:
    """What is missing, broken or too old on this rank."""
    found = []
    if not facts["new_enough"]:
        least = ".".join(map(str, LEAST_PYTHON))
        found.append(
            Finding(
                "python",
                BAD,
                f"{facts['python']} is too old",
                f"load Python {least} or newer, and install distcnn into it",
            )
        )
    parts: dict[str, Facts] = {**facts["modules"], "hdf5": facts["hdf5"]}
    for name, part in parts.items():
        if "problem" in part:
            library = "h5py" if name == "hdf5" else name
            found.append(
                Finding(name, BAD, f"{library} cannot be used: {part['problem']}", INSTALL)
            )
        elif too_old(part.get("module", name), part.get("version", "")):
            least = ".".join(map(str, LEAST[part.get("module", name)]))
            found.append(
                Finding(
                    name, BAD, f"{part['is']} is too old: distcnn needs {least} or newer", INSTALL
                )
            )
    if "problem" in facts["blas"] and "problem" not in parts["numpy"]:
        found.append(Finding("blas", WARNING, f"not known: {facts['blas']['problem']}", INSTALL))
    return found


def _compared_parts(places: Places, everyone: Everyone) -> list[Finding]:
    def values(get: Callable[[Facts], Any]) -> dict[int, str]:
        """Of the ranks that have it."""
        found = {rank: get(facts) for rank, facts in everyone.items()}
        return {
            rank: part["is"] if isinstance(part, dict) else part
            for rank, part in found.items()
            if "problem" not in part
        }

    kinds = "another kind of processor or kernel rounds otherwise, so replicas may differ"
    same_hosts = (
        "ask for hosts of one kind (srun --constraint); OPENBLAS_CORETYPE alone does not make"
        " different kinds agree, because OpenBLAS 0.3.34 and newer choose block sizes by the"
        " processor even then"
    )
    found = [
        compared(
            places, "numpy", values(lambda facts: facts["modules"]["numpy"]), SAME, ONE_ENVIRONMENT
        ),
        compared(places, "blas", values(lambda facts: facts["blas"]), kinds, same_hosts),
        compared(
            places,
            "hdf5",
            values(lambda facts: facts["hdf5"]),
            "they may not read a file alike",
            ONE_ENVIRONMENT,
            WARNING,
        ),
        compared(
            places,
            "distcnn",
            values(lambda facts: facts["distcnn"]),
            SAME,
            f"{ONE_ENVIRONMENT}; look for copies in PYTHONPATH",
            BAD,
        ),
        compared(
            places,
            "processor",
            values(lambda facts: facts["model"]),
            "where their instructions differ, so do bits; and all wait for the slowest",
            same_hosts,
            WARNING,
        ),
    ]
    flags = compared(
        places, "instructions", values(lambda facts: facts["flags"]), kinds, same_hosts, WARNING
    )
    return [
        each for each in [*found, flags] if each.text and (each is not flags or each.state != GOOD)
    ]


def too_old(module: str, version: str) -> bool:
    """Whether ``version`` ("2.3.1") is below what distcnn needs; False where it cannot be read."""
    numbers = version.split(".")[:2]
    return (
        module in LEAST
        and all(each.isdigit() for each in numbers)
        and tuple(map(int, numbers)) < LEAST[module]
    )


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


def _version(name: str) -> Facts:
    return tried(
        lambda: {
            "version": (version := str(getattr(importlib.import_module(name), "__version__", ""))),
            "is": version,
        }
    )


def _blas() -> Facts:
    from distcnn.distributed.blas_threads import blas_description, limit_blas_threads

    limit_blas_threads()
    return {"is": blas_description()}


def _hdf5() -> Facts:
    import h5py

    build = " built for MPI" if h5py.get_config().mpi else ""
    return {
        "is": f"h5py {h5py.__version__}{build}, HDF5 {h5py.version.hdf5_version}",
        "version": h5py.__version__,
        "module": "h5py",
    }


def _flags() -> Facts:
    from distcnn.training.fingerprint import cpu_flags

    return {"is": " ".join(cpu_flags())}


SECTION = Section("software", look, judge)

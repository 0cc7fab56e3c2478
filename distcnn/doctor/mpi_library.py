"""The MPI library against the launcher, checked before MPI starts: a mismatch may end the process.

A launcher can start only libraries of its own family (MPICH or Open MPI).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from distcnn.doctor.check import Check, Finding, Options, Places, root_cause
from distcnn.doctor.software import ONE_ENVIRONMENT, least, too_old
from distcnn.system import launcher

SECONDS_FOR_MPIRUN = 5.0
OPEN_MPI = "Open MPI"
FAMILIES = {
    "MPICH": ("mpich", "hydra", "intel(r) mpi", "mvapich", "cray"),
    OPEN_MPI: ("open mpi", "openmpi", "open-mpi", "prrte", "prterun"),
}
"""Words in the version text of a library or an mpirun by which its family is known."""

GET_MPI = (
    "on a laptop: pip install '.[mpi,mpich]' in distcnn's folder; on a cluster: load the site's MPI"
    " module, then pip install '.[mpi]'"
)
OWN_MPIRUN = (
    "use the mpirun of the environment or module that has mpi4py's library, or srun with its plugin"
)


@dataclass(frozen=True)
class Mpirun:
    """The mpirun found in PATH: its family, or the ``problem`` with it."""

    path: str = ""
    family: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Library:
    """The MPI library of one rank.

    Args:
        several: whether a launcher started several processes.
        name: name and version; empty if mpi4py cannot be used.
        mpi4py: version of mpi4py.
        problem: why mpi4py cannot be used.
        foreign: why the launcher cannot start this library.
        mpirun: the mpirun in PATH, if no launcher started several processes.
    """

    several: bool
    name: str = ""
    mpi4py: str = ""
    problem: str = ""
    foreign: str = ""
    mpirun: Mpirun | None = None

    @property
    def why_not(self) -> str:
        """Why this rank cannot start MPI; empty if it can, or need not."""
        return (self.problem or self.foreign) if self.several else ""


def collect(options: Options) -> Library:
    """Load the library without starting MPI."""
    found = Library(launcher.needs_mpi(os.environ))
    try:
        import numpy  # noqa: F401
    except Exception:  # reported by the software check
        return found
    try:
        from distcnn.distributed.mpi import library_name

        name = library_name()
        foreign = launcher.foreign_library(name, os.environ) or ""
        found = replace(found, name=name, mpi4py=sys.modules["mpi4py"].__version__, foreign=foreign)
    except Exception as error:
        found = replace(found, problem=root_cause(error))
    return found if found.several else replace(found, mpirun=find_mpirun())


def evaluate(places: Places, everyone: Mapping[int, Library]) -> Iterator[Finding]:
    """The library can be used, is the same on all ranks, and belongs to the launcher."""
    names = {rank: facts.name for rank, facts in everyone.items() if facts.name}
    if names:
        why = "ranks with different MPI libraries cannot communicate"
        yield places.compared("mpi", names, why, ONE_ENVIRONMENT)
    yield from places.gathered({rank: list(_own(facts)) for rank, facts in everyone.items()})


def family(text: str) -> str:
    """The MPI family that a version text names; empty if unknown."""
    words = text.lower()
    found = (name for name, marks in FAMILIES.items() if any(mark in words for mark in marks))
    return next(found, "")


def find_mpirun() -> Mpirun:
    """Run the mpirun in PATH to learn its family."""
    path = shutil.which("mpirun") or shutil.which("mpiexec")
    if path is None:
        return Mpirun(problem="no mpirun in PATH")
    words = [path, "--version"]
    try:
        with tempfile.TemporaryFile() as output:  # a pipe would wait for what mpirun has started
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=SECONDS_FOR_MPIRUN,
                check=False,
            )
            output.seek(0)
            text = output.read().decode(errors="replace")
    except OSError as error:
        return Mpirun(path, problem=f"{path} cannot be run ({error.strerror})")
    except subprocess.TimeoutExpired:
        return Mpirun(path, problem=f"{path} --version took more than {SECONDS_FOR_MPIRUN:g} s")
    if done.returncode:
        return Mpirun(path, problem=f"{path} --version failed with exit code {done.returncode}")
    return Mpirun(path, family(text))


def _own(facts: Library) -> Iterator[Finding]:
    """Yield the problems of one rank, and whether its mpirun matches."""
    if facts.problem and facts.several:
        text = f"several processes were started, but mpi4py cannot be used: {facts.problem}"
        yield Finding.bad("mpi", text, GET_MPI)
    elif facts.problem:
        text = f"only needed for several processes: {facts.problem}"
        yield Finding.warning("mpi", text, GET_MPI)
    elif too_old("mpi4py", facts.mpi4py):
        text = f"mpi4py {facts.mpi4py} is too old: distcnn needs {least('mpi4py')} or newer"
        yield Finding.bad("mpi", text, GET_MPI)
    if facts.foreign:
        text = facts.foreign.removesuffix(f": {launcher.REMEDY}")
        yield Finding.bad("launcher", text, launcher.REMEDY)
    elif facts.mpirun and facts.name:
        yield _mpirun_in_path(facts.mpirun, facts.name)


def _mpirun_in_path(mpirun: Mpirun, library: str) -> Finding:
    """Whether the mpirun in PATH belongs to the library."""
    beside = Path(sys.prefix) / "bin" / "mpirun"
    remedy = OWN_MPIRUN + (f": {beside} (activate its environment)" if beside.exists() else "")
    if mpirun.problem:
        if not mpirun.path and shutil.which("srun"):
            text = "no mpirun in PATH; use srun --mpi=pmi2 for MPICH, --mpi=pmix for Open MPI"
            return Finding.good("launcher", text)
        return Finding.warning("launcher", mpirun.problem, remedy)
    own = family(library)
    if mpirun.family and own and mpirun.family != own:
        text = (
            f"{mpirun.path} belongs to {mpirun.family}, but mpi4py loads {library}: each process"
            " would be rank 0 of 1"
        )
        return Finding.warning("launcher", text, remedy)
    known = "belongs to" if mpirun.family and own else "may or may not match"
    return Finding.good("launcher", f"{mpirun.path} {known} {library}")


CHECK = Check("mpi", collect, evaluate)

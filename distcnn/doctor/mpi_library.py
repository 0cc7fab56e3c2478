"""The MPI library against the launcher: before MPI is started, for with the wrong one that may end
the process.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from distcnn.doctor.check import Everyone, Facts, Section, root_cause
from distcnn.doctor.finding import BAD, GOOD, WARNING, Finding, Places, compared, gathered
from distcnn.doctor.software import LEAST, ONE_ENVIRONMENT, too_old
from distcnn.system import launcher

SECONDS_FOR_MPIRUN = 5.0
FAMILIES = {
    "MPICH": ("mpich", "hydra", "intel(r) mpi", "mvapich", "cray"),
    "Open MPI": ("open mpi", "openmpi", "open-mpi", "prrte", "prterun"),
}
"""Words by which a library or an mpirun is known: a launcher starts libraries of its own family
only.
"""

GET_MPI = (
    "on a laptop pip install '.[mpi,mpich]' in distcnn's folder; on a cluster load the site's MPI"
    " module, pip install '.[mpi]'"
)
OWN_MPIRUN = (
    "use the mpirun of the same environment or module as mpi4py's library, or the module system's"
    " srun with its plugin"
)


def look() -> Facts:
    """Which library mpi4py loads, without starting it; alone, also whose mpirun is found."""
    facts: Facts = {"several": launcher.needs_mpi(os.environ), "started": started()}
    try:
        import numpy  # noqa: F401
    except Exception:  # said elsewhere; our part of mpi4py needs it
        return facts
    try:
        from distcnn.distributed.mpi import library_name

        facts |= {"library": library_name(), "mpi4py": sys.modules["mpi4py"].__version__}
        facts["foreign"] = launcher.foreign_library(facts["library"], os.environ)
    except Exception as error:
        facts["problem"] = root_cause(error)
    return facts if facts["several"] else facts | {"mpirun": found_mpirun()}


def judge(places: Places, everyone: Everyone) -> list[Finding]:
    """The library is there, the same on all ranks, and of the launcher's family."""
    lines = gathered(places, {rank: _own(facts) for rank, facts in everyone.items()})
    libraries = {rank: facts["library"] for rank, facts in everyone.items() if "library" in facts}
    same = compared(
        places,
        "mpi",
        libraries,
        "ranks of different MPIs cannot speak to each other",
        ONE_ENVIRONMENT,
    )
    return [*([same] if libraries else []), *lines]


def why_not(facts: Facts) -> str | None:
    """None, or why this rank cannot start MPI."""
    if "failed" in facts:
        return str(facts["failed"])
    return (facts.get("problem") or facts.get("foreign")) if facts["several"] else None


def is_open_mpi(facts: Facts) -> bool:
    """Whether the library is Open MPI, which starts in places where MPICH dies."""
    return family(facts.get("library", "")) == "Open MPI"


def family(text: str) -> str:
    """The family of MPIs that ``text`` (a version) speaks of; nothing where it is unknown."""
    return next(
        (name for name, words in FAMILIES.items() if any(word in text.lower() for word in words)),
        "",
    )


def started() -> str:
    """What the launcher says: "4 processes, PMI_SIZE"."""
    found = [each for each in launcher.declared(os.environ) if each.several]
    return f"{found[0].world_size or 'several'} processes, {found[0].variable}" if found else ""


def found_mpirun() -> Facts:
    """The mpirun in PATH, and what it says of itself."""
    path = shutil.which("mpirun") or shutil.which("mpiexec")
    if path is None:
        return {"problem": "there is no mpirun in PATH"}
    try:
        process = subprocess.Popen(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return {"path": path, "problem": f"{path} cannot be run ({error.strerror})"}
    try:
        text, _ = process.communicate(timeout=SECONDS_FOR_MPIRUN)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {
            "path": path,
            "problem": f"{path} --version took more than {SECONDS_FOR_MPIRUN:g} s",
        }
    if process.returncode != 0:
        first = next(iter(text.strip().splitlines()), "without a word")
        return {
            "path": path,
            "problem": f"{path} --version ended with code {process.returncode} ({first})",
        }
    return {"path": path, "family": family(text)}


def _own(facts: Facts) -> list[Finding]:
    """Of one rank."""
    found = []
    if "problem" in facts:
        found.append(_without_library(facts))
    elif too_old("mpi4py", facts.get("mpi4py", "")):
        least = ".".join(map(str, LEAST["mpi4py"]))
        found.append(
            Finding(
                "mpi",
                BAD,
                f"mpi4py {facts['mpi4py']} is too old: distcnn needs {least} or newer",
                GET_MPI,
            )
        )
    if facts.get("foreign"):
        text = (
            f"the launcher is Open MPI's (it started {facts['started']}), but mpi4py loaded"
            f" {facts['library']}: MPI cannot start"
        )
        found.append(Finding("launcher", BAD, text, launcher.REMEDY))
    elif "mpirun" in facts and "library" in facts:
        found.append(_mpirun_in_path(facts))
    return found


def _without_library(facts: Facts) -> Finding:
    if facts["several"]:
        text = (
            f"the launcher started {facts['started'].partition(',')[0] or 'processes'}, but mpi4py"
            f" cannot be used: {facts['problem']}"
        )
        return Finding("mpi", BAD, text, GET_MPI)
    return Finding(
        "mpi",
        WARNING,
        f"one process needs none, but several would not start: {facts['problem']}",
        GET_MPI,
    )


def _mpirun_in_path(facts: Facts) -> Finding:
    """Whether the mpirun that one would type belongs to the library."""
    mpirun, library = facts["mpirun"], facts["library"]
    beside = Path(sys.prefix) / "bin" / "mpirun"
    remedy = OWN_MPIRUN + (
        f": {beside} is one (activate the environment)" if beside.exists() else ""
    )
    if "problem" in mpirun:
        only_srun = mpirun["problem"].startswith("there is no") and shutil.which("srun")
        if only_srun:
            text = (
                "no mpirun in PATH, but srun: give it the plugin (--mpi=pmi2 for MPICH, --mpi=pmix"
                " for Open MPI)"
            )
            return Finding("launcher", GOOD, text)
        return Finding("launcher", WARNING, mpirun["problem"], remedy)
    if not mpirun["family"] or not family(library):
        return Finding(
            "launcher",
            GOOD,
            f"{mpirun['path']}: not known whether it is of {library}; mpirun -n 2 with this command"
            " tells",
        )
    if mpirun["family"] != family(library):
        text = (
            f"{mpirun['path']} is {mpirun['family']}'s, but mpi4py loads {library}: each process"
            " would be rank 0 of 1"
        )
        return Finding("launcher", WARNING, text, remedy)
    return Finding(
        "launcher", GOOD, f"{mpirun['path']} is {mpirun['family']}'s, as mpi4py's library"
    )


SECTION = Section("mpi", look, judge)

"""The MPI library against the launcher, checked before MPI starts: a mismatch may end the process.

A launcher can start only libraries of its own family (MPICH or Open MPI).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from distcnn.doctor.findings import BAD, GOOD, WARNING, Finding, Found, Same, root_cause
from distcnn.doctor.software import ONE_ENVIRONMENT, too_old
from distcnn.system import launcher

SECONDS_FOR_MPIRUN = 5.0
OPEN_MPI = "Open MPI"
FAMILIES = {
    "MPICH": r"mpich|hydra|intel\(r\) mpi|mvapich|cray",
    OPEN_MPI: "open[ -]?mpi|prrte|prterun",
}
"""Words in the version text of a library or an mpirun by which its family is known."""

GET_MPI = (
    "on a laptop: pip install '.[mpi,mpich]' in distcnn's folder; on a cluster: load the site's MPI"
    " module, then pip install '.[mpi]'"
)
OWN_MPIRUN = (
    "use the mpirun of the environment or module that has mpi4py's library, or srun with its plugin"
)


def mpi() -> Found:
    """The library, which is loaded without starting MPI; alone, the mpirun in PATH."""
    several = launcher.needs_mpi(os.environ)
    try:
        from distcnn.distributed.mpi import library_name

        library = library_name()
    except Exception as error:
        if "numpy" not in sys.modules:  # reported by the software check
            return
        state, text = WARNING, "only needed for several processes"
        if several:
            state, text = BAD, "several processes were started, but mpi4py cannot be used"
        yield Finding(state, "mpi", f"{text}: {root_cause(error)}", GET_MPI)
        return
    why = "ranks with different MPI libraries cannot communicate"
    yield Same("mpi", library, why, ONE_ENVIRONMENT)
    if problem := too_old("mpi4py", sys.modules["mpi4py"].__version__):
        yield Finding(BAD, "mpi", problem, GET_MPI)
    if not several:
        yield mpirun_in_path(library)


def mpirun_in_path(library: str) -> Finding:
    """Whether the mpirun in PATH, which is run to learn its family, belongs to ``library``."""
    beside = Path(sys.prefix) / "bin" / "mpirun"
    remedy = OWN_MPIRUN + (f": {beside} (activate its environment)" if beside.exists() else "")
    mpirun = shutil.which("mpirun") or shutil.which("mpiexec")
    if mpirun is None and shutil.which("srun"):
        text = "no mpirun in PATH; use srun --mpi=pmi2 for MPICH, --mpi=pmix for Open MPI"
        return Finding(GOOD, "launcher", text)
    if mpirun is None:
        return Finding(WARNING, "launcher", "no mpirun in PATH", remedy)
    with tempfile.TemporaryFile() as output:  # a pipe would wait for what mpirun has started
        try:
            subprocess.run(
                [mpirun, "--version"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=SECONDS_FOR_MPIRUN,
                check=True,
            )
        except subprocess.TimeoutExpired:
            text = f"{mpirun} --version took more than {SECONDS_FOR_MPIRUN:g} s"
            return Finding(WARNING, "launcher", text, remedy)
        except (OSError, subprocess.CalledProcessError) as error:
            return Finding(WARNING, "launcher", f"{mpirun} does not work: {error}", remedy)
        output.seek(0)
        found, own = family(output.read().decode(errors="replace")), family(library)
    if found and own and found != own:
        text = f"{mpirun} belongs to {found}, but mpi4py loads {library}"
        return Finding(WARNING, "launcher", f"{text}: each process would be rank 0 of 1", remedy)
    known = "belongs to" if found and own else "may or may not match"
    return Finding(GOOD, "launcher", f"{mpirun} {known} {library}")


def family(text: str) -> str:
    """The MPI family that a version text names; empty if unknown."""
    return next((name for name, marks in FAMILIES.items() if re.search(marks, text, re.I)), "")

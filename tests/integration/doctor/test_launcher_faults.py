"""The doctor finds what prevents ranks from forming one world.

It prints one report, although several processes believe that they are rank 0.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from distcnn.doctor import mpi_library
from distcnn.doctor.findings import WARNING
from distcnn.doctor.time_limits import watched_start
from tests.conftest import ROOT, Launcher, clean_environment, mpi_launcher, openmpi_launcher
from tests.support.examined import DOCTOR, Examined, doctor, doctor_but, in_shell, read

NO_LIBRARY = "export MPI4PY_LIBMPI=/nonexistent/libmpi.so"


@pytest.mark.mpi
@pytest.mark.openmpi
@pytest.mark.parametrize("ours", [0, 1])
def test_the_mpirun_of_another_mpi(ours: int) -> None:
    both = mpi_launcher(), openmpi_launcher()
    seen = doctor(Launcher("mixed", both[ours].python, both[1 - ours].mpirun), 3)
    seen.only_bad("launcher", any_code=True)
    assert "started 3 processes" in seen.of("launcher", "bad")
    assert "use the mpirun of that library" in seen.of("launcher", "bad")
    assert "not checked" in seen.of("doctor", "warning")


@pytest.mark.mpi
def test_srun_without_a_plugin() -> None:
    """As Slurm starts them: each has its number, and they cannot reach each other."""
    start = [mpi_launcher().python, *DOCTOR]
    environments = [
        {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": str(rank)}
        for rank in range(3)
    ]
    processes = [
        subprocess.Popen(
            start,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=clean_environment() | each,
        )
        for each in environments
    ]
    said = [process.communicate(timeout=40) for process in processes]
    assert all(process.returncode for process in processes)
    [spoke] = [each for each in said if each[0]]
    seen = read(subprocess.CompletedProcess([], 1, *spoke))
    seen.only_bad("launcher")
    assert "the launcher started 3 processes (SLURM_STEP_NUM_TASKS" in seen.of("launcher", "bad")
    assert "--mpi=pmi2 for MPICH" in seen.of("launcher", "bad")


def test_no_mpi_library(any_mpi: Launcher) -> None:
    seen = in_shell(any_mpi, 2, NO_LIBRARY)
    seen.only_bad("mpi")
    assert "mpi4py cannot be used" in seen.of("mpi", "bad")
    assert "load the site's MPI module" in seen.of("mpi", "bad")


@pytest.mark.mpi
def test_no_mpi_library_on_one_rank(mpirun: Launcher) -> None:
    seen = doctor_but(mpirun, 3, 1, NO_LIBRARY)
    seen.only_bad("mpi", any_code=True)
    assert "on rank 1 (host" in seen.of("mpi", "bad")


def test_no_mpi_library_alone(serial: Launcher) -> None:
    seen = doctor(serial, 1, MPI4PY_LIBMPI="/nonexistent/libmpi.so")
    seen.only_bad()
    assert "only needed for several processes" in seen.of("mpi", "warning")


def broken(folder: Path, module: str) -> str:
    """A line of shell after which importing ``module`` fails."""
    (folder / f"{module}.py").write_text(f"raise ImportError('{module} is broken on purpose')\n")
    return f"export PYTHONPATH={folder}:$PYTHONPATH"


@pytest.mark.mpi
@pytest.mark.parametrize(("module", "names"), [("numpy", {"numpy", "hdf5"}), ("h5py", {"hdf5"})])
def test_a_broken_module_on_one_rank(
    mpirun: Launcher, tmp_path: Path, module: str, names: set[str]
) -> None:
    seen = doctor_but(mpirun, 2, 1, broken(tmp_path, module))
    seen.only_bad(*names, any_code=module == "numpy")
    for name in names:
        assert f"{module} is broken on purpose" in seen.of(name, "bad")
        assert "on rank 1 (host" in seen.of(name, "bad")


@pytest.mark.mpi
@pytest.mark.openmpi
def test_two_mpis_under_one_launcher() -> None:
    seen = doctor_but(mpi_launcher(), 2, 1, f"python={openmpi_launcher().python}")
    seen.only_bad("launcher", any_code=True)
    assert "MPI sees 1 rank" in seen.of("launcher", "bad")


def with_path(serial: Launcher, folder: str) -> Examined:
    return doctor(serial, 1, PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("script", "says"), [("exit 3", "exit status 3"), ("sleep 30; true", "took more than 0.3 s")]
)
def test_a_broken_mpirun_in_path(
    tmp_path: Path, script: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mpirun").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "mpirun").chmod(0o755)
    monkeypatch.setattr(mpi_library, "SECONDS_FOR_MPIRUN", 0.3)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = mpi_library.mpirun_in_path("MPICH 5.0.2")
    assert found.state == WARNING
    assert says in found.text


@pytest.mark.mpi
@pytest.mark.openmpi
def test_the_mpirun_of_another_mpi_in_path(serial: Launcher) -> None:
    mpi_launcher()
    mpirun = openmpi_launcher().mpirun
    assert mpirun
    seen = with_path(serial, str(Path(mpirun).parent))
    seen.only_bad()
    assert "belongs to Open MPI, but mpi4py loads MPICH" in seen.of("launcher", "warning")


WATCHED = """
import os, time
from distcnn.doctor.time_limits import watched_start

with watched_start(lambda reason: print("report:", reason, flush=True), {seconds}):
    {then}
"""


@pytest.mark.parametrize(
    ("seconds", "then", "code", "says"),
    [
        (1.0, "time.sleep(30)", -9, "took more than 1 s"),
        (60, "os.abort()", -6, "the process died"),
        (60, "raise KeyError", 1, ""),
        (60, "pass", 0, ""),
    ],
)
def test_a_start_that_hangs_or_dies_is_reported(
    serial: Launcher, seconds: float, then: str, code: int, says: str
) -> None:
    done = serial.run(1, "-c", WATCHED.format(seconds=seconds, then=then))
    assert done.returncode == code, done.stderr
    assert says in done.stdout
    assert bool(done.stdout) == bool(says)


def test_the_time_of_a_process_is_limited(serial: Launcher) -> None:
    code = "import time; from distcnn.doctor.time_limits import limit_process"
    done = serial.run(1, "-c", f"{code}; limit_process(0.5); time.sleep(30)")
    assert done.returncode == 1
    assert "Timeout" in done.stderr


def test_where_no_process_can_be_forked_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("os.fork", fork)
    with watched_start(lambda reason: None):
        pass


@pytest.mark.mpi
def test_files_that_mpi_cannot_open(mpirun: Launcher) -> None:
    seen = in_shell(mpirun, 2, "ulimit -n 24")
    seen.only_bad("limits")
    assert "only 24 open files" in seen.of("limits", "bad")

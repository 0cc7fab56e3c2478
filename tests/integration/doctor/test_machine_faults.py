"""The doctor finds a lack of memory, disk space and other resources.

Mounts are made in a namespace that ends with the run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, Launcher, clean_environment, openmpi_launcher
from tests.support.examined import DOCTOR, Examined, doctor, in_shell, read, small_data


def unshared(launcher: Launcher, ranks: int, mount: str, *flags: str) -> Examined:
    """Run the doctor after ``mount``, a line of shell."""
    start = [launcher.mpirun, "-n", str(ranks)] if launcher.mpirun else []
    command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        f'{mount} || exit 99; exec "$@"',
        "sh",
        *start,
        launcher.python,
        "-m",
        "distcnn.doctor",
        *flags,
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env=clean_environment(),
    )
    if done.returncode == 99 or "unshare failed" in done.stderr:
        pytest.skip(f"no private mount here: {done.stderr}")
    return read(done)


@pytest.mark.mpi
def test_more_ranks_than_cores(mpirun: Launcher) -> None:
    cores = len(os.sched_getaffinity(0))
    if cores > 7:
        pytest.skip("too many cores to start more ranks than that")
    seen = doctor(mpirun, cores + 1)
    seen.only_bad()
    assert f"oversubscribed: {cores + 1} ranks on {cores} core" in seen.of("cores", "warning")
    assert "start fewer ranks" in seen.of("cores", "warning")


def test_more_threads_than_cores(serial: Launcher) -> None:
    seen = doctor(serial, 1, "--threads-per-rank", "999")
    assert "1 rank of 999 threads on" in seen.of("cores", "warning")
    assert "enough" in doctor(serial, 1, "--threads-per-rank", "auto").of("cores", "good")


@pytest.mark.mpi
def test_all_ranks_on_one_core(mpirun: Launcher) -> None:
    if (os.cpu_count() or 1) == 1 or not shutil.which("taskset"):
        pytest.skip("one core, or no taskset")
    core = min(os.sched_getaffinity(0))
    seen = in_shell(mpirun, 2, f"taskset -p -c {core} $$ > /dev/null")
    seen.only_bad()
    assert "2 ranks on 1 core" in seen.of("cores", "warning")


@pytest.mark.mpi
def test_a_small_dev_shm(mpirun: Launcher) -> None:
    seen = unshared(mpirun, 2, "mount -t tmpfs -o size=64k none /dev/shm")
    seen.only_bad("shared")
    assert "docker --shm-size" in seen.of("shared", "bad")


@pytest.mark.mpi
@pytest.mark.openmpi
def test_open_mpi_starts_in_a_dev_shm_that_mpich_dies_of() -> None:
    seen = unshared(openmpi_launcher(), 2, "mount -t tmpfs -o size=64k none /dev/shm")
    seen.only_bad("shared")
    assert seen.of("sum", "good")


def test_a_container_with_little_time_and_memory(serial: Launcher, tmp_path: Path) -> None:
    for name, text in {
        "cpu.max": "50000 100000",
        "memory.max": str(200 * 2**20),
        "memory.current": str(100 * 2**20),
    }.items():
        (tmp_path / name).write_text(f"{text}\n")
    seen = unshared(serial, 1, f"mount --bind {tmp_path} /sys/fs/cgroup")
    seen.only_bad("memory")
    assert "100 MiB free, for 1 rank of about 256 MiB" in seen.of("memory", "bad")
    assert "1 rank on 0.5 cores" in seen.of("cores", "warning")


def test_limits(serial: Launcher) -> None:
    limits = "ulimit -n 128; ulimit -t 600; ulimit -v 3000000"
    command = ["sh", "-c", f'{limits}; exec "$@"', "sh", serial.python, *DOCTOR, *small_data()]
    seen = read(
        subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=ROOT,
            env=clean_environment(),
        )
    )
    seen.only_bad()
    for says in ("only 128 open files", "only 600 seconds of CPU time", "address space"):
        assert says in seen.of("limits", "warning")


@pytest.mark.parametrize(
    ("mount", "says"),
    [
        ("tmpfs -o ro", "Read-only file system"),
        ("tmpfs -o size=4m", "No space left on device"),
        ("tmpfs -o nr_inodes=1", "No space left"),
    ],
)
def test_an_output_that_takes_nothing(
    serial: Launcher, tmp_path: Path, mount: str, says: str
) -> None:
    seen = unshared(
        serial, 1, f"mount -t {mount} none {tmp_path}", "--output", f"{tmp_path}/runs/mine"
    )
    seen.only_bad("output")
    assert f"{tmp_path}/runs/mine cannot be written: {says}" in seen.of("output", "bad")

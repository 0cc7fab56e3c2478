"""Imports that fail before MPI is loaded: one report with rank and host. Other Python programs keep
their own hook.
"""

from __future__ import annotations

import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from distcnn.fault_tolerance.early import SECONDS_FOR_LAUNCHER_TO_PRINT
from tests.conftest import ROOT, SERIAL
from tests.support.running import running

PROBE = "import distcnn, sys; print(sys.excepthook is sys.__excepthook__)"


def broken(folder: Path, name: str) -> dict[str, str]:
    """An environment in which the module ``name`` cannot be imported."""
    (folder / f"{name}.py").write_text("raise ImportError('broken on purpose')\n")
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


def hydra(ranks: int, rank: int) -> dict[str, str]:
    """The variables that MPICH's mpirun sets for a rank, all on one host."""
    return {
        "PMI_SIZE": str(ranks),
        "PMI_RANK": str(rank),
        "MPI_LOCALNRANKS": str(ranks),
        "MPI_LOCALRANKID": str(rank),
    }


@pytest.mark.parametrize("module", ["h5py", "numpy", "tqdm"])
def test_a_failing_import_is_reported_with_rank_host_and_traceback(
    module: str, tmp_path: Path
) -> None:
    with running(SERIAL, 1, "-m", "distcnn.train", **broken(tmp_path, module)) as run:
        ended = run.end(10)
        first, *rest = ended.stderr.splitlines()
        assert (
            first
            == f"distcnn: rank 0 failed on host {socket.gethostname()} (process {run.process.pid}),"
            " starting:"
        )
    assert ended.code == 1
    assert rest[0].startswith("Traceback")
    assert rest[-1] == "ImportError: broken on purpose"
    assert f"{module}.py" in ended.stderr


def test_of_several_ranks_one_reports_and_all_end(tmp_path: Path) -> None:
    start = time.monotonic()
    with ExitStack() as open_runs:
        # Two ranks of one parent, this process, as a launcher's are; the second comes when the
        # first would have long left.
        world = [hydra(2, rank) | broken(tmp_path, "h5py") for rank in range(2)]
        runs = [open_runs.enter_context(running(SERIAL, 1, "-m", "distcnn.train", **world[0]))]
        time.sleep(2 * SECONDS_FOR_LAUNCHER_TO_PRINT)
        runs.append(open_runs.enter_context(running(SERIAL, 1, "-m", "distcnn.train", **world[1])))
        ended = [run.end(10) for run in runs]
    assert time.monotonic() - start < 8
    assert [each.code for each in ended] == [1, 1]
    assert sorted(len(each.lines("failed on host")) for each in ended) == [0, 1]
    assert "".join(each.stderr for each in ended).count("ImportError: broken on purpose") == 1


def test_a_rank_that_fails_alone_ends_by_a_signal(tmp_path: Path) -> None:
    """Hydra releases the others, which wait in MPI_Init, only if a signal ended the rank."""
    environment = hydra(2, 1) | broken(tmp_path, "h5py")
    with running(SERIAL, 1, "-m", "distcnn.train", **environment) as run:
        ended = run.end(10)
    assert ended.code == -signal.SIGTERM
    assert len(ended.lines("rank 1 failed on host")) == 1


def test_a_program_that_only_imports_distcnn_keeps_its_hook(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROBE)
    for arguments in (["-c", PROBE], [str(tmp_path / "program.py")], ["-m", "program"]):
        with running(SERIAL, 1, *arguments, PYTHONPATH=f"{tmp_path}:{ROOT}") as run:
            assert run.end(10).stdout == "True\n", arguments

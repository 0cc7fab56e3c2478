"""The exit code that a rank chose: only the first counts; MPI's own errors are not defects."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcnn.distributed.communicator import NOTE_VARIABLE, note_exit
from tests.conftest import Launcher, MakeImageSet, as_flags

LOST = """
import sys
from distcnn.cli.command import run_command

def work(communicator, arguments):
    if communicator.rank == 1:
        from mpi4py import MPI
        raise MPI.Exception(MPI.ERR_OTHER)
    communicator.barrier()

sys.exit(run_command("test", lambda: None, work, []))
"""


def test_the_first_code_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note_exit(5)  # no file is named
    monkeypatch.setenv(NOTE_VARIABLE, str(tmp_path / "note"))
    note_exit(3)
    note_exit(0)
    assert (tmp_path / "note").read_text() == "3\n"
    monkeypatch.setenv(NOTE_VARIABLE, str(tmp_path / "nowhere" / "note"))
    note_exit(1)


@pytest.mark.parametrize(
    ("flags", "code"),
    [(["--epochs", "1"], 0), (["--epochs", "0"], 2), (["--learning-rate", "1e20"], 3)],
)
def test_a_run_notes_its_code(
    flags: list[str], code: int, any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    more = as_flags(data=image_set(), output=tmp_path / "run", model="tutorial", warmup_steps=0)
    done = any_mpi.run(
        2, "-m", "distcnn.train", *more, *flags, DISTCNN_EXIT_NOTE=str(tmp_path / "note")
    )
    assert (tmp_path / "note").read_text() == f"{code}\n", done.stderr


def test_an_error_of_mpis_own_is_a_loss_not_a_defect(any_mpi: Launcher, tmp_path: Path) -> None:
    done = any_mpi.run(2, "-c", LOST, DISTCNN_EXIT_NOTE=str(tmp_path / "note"))
    assert done.returncode == 4, done.stderr
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert (tmp_path / "note").read_text() == "4\n"

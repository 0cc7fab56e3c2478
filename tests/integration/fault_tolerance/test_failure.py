"""Mistakes in a user's own module are reported by module, line and error, wherever its code runs;
so are limits of the system.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import SERIAL, Launcher, MakeImageSet, as_flags, clean_environment
from tests.support.broken_modules import WRONG, line_of, module
from tests.support.training_fixtures import with_path


@pytest.mark.parametrize("place", ["in_forward", "in_backward"])
def test_code_that_fails_while_training(
    place: str, image_set: MakeImageSet, tmp_path: Path
) -> None:
    file = module(tmp_path, **{place: f"; {WRONG}"})
    flags = as_flags(data=image_set(), output=tmp_path / "run", model="mine:network")
    done = SERIAL.run(1, "-m", "distcnn.train", *flags, PYTHONPATH=with_path(tmp_path))
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert re.match(
        r"distcnn\.train: rank 0 of 1 failed on host .*, step 0, forward and backward of shard 0:$",
        lines[0],
    )
    assert f"mine.py, line {line_of(file, WRONG)}, in " in lines[1]
    assert lines[-1].startswith("IndexError: ")
    assert len(lines) == 3


@pytest.mark.mpi
def test_on_several_ranks_it_is_reported_once(
    mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    for place, wrong, code in (
        ("in_initialiser", f" + {WRONG}", 2),
        ("in_building", WRONG, 2),
        ("in_forward", f"; {WRONG}", 1),
    ):
        module(tmp_path, **{place: wrong})
        flags = as_flags(data=image_set(), output=tmp_path / "run", model="mine:network")
        done = mpirun.run(3, "-m", "distcnn.train", *flags, PYTHONPATH=with_path(tmp_path))
        assert done.returncode == code, done.stderr
        assert done.stderr.count("mine.py, line") == 1
        assert "Traceback" not in done.stderr


IN_A_THREAD = """
import sys, threading
from distcnn import train, verify
codes = []
run = threading.Thread(target=lambda: codes.append({command}.main(sys.argv[1:])))
run.start()
run.join()
sys.exit(codes[0])
"""


def test_commands_run_outside_the_main_thread(image_set: MakeImageSet, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    for command, flags in (
        ("train", ["--data", str(image_set()), "--model", "mlp", "--epochs", "1", "--output", run]),
        ("verify", [run]),
    ):
        done = SERIAL.run(1, "-c", IN_A_THREAD.format(command=command), *flags)
        assert (done.returncode, done.stderr) == (0, "")


WITHOUT_THREADS = """
import runpy, sys, threading
def start(thread):
    raise RuntimeError("can't start new thread")
threading.Thread.start = start
sys.argv = sys.argv[1:]
if sys.argv[0].endswith(".py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    "command", ["distcnn.train", "distcnn.benchmark", "distcnn.doctor", "distcnn.report"]
)
def test_where_threads_are_forbidden_there_is_a_line_or_none(
    command: str, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = {"distcnn.doctor": [], "distcnn.report": [str(tmp_path)]}.get(
        command, ["--data", str(image_set())]
    )
    words = [SERIAL.python, "-c", WITHOUT_THREADS, command, *flags]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env=clean_environment(),
    )
    assert "Traceback" not in done.stderr
    if command in ("distcnn.train", "distcnn.benchmark"):
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "threads" in done.stderr

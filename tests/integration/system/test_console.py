"""Printing to a stream that is closed, full, blocked, replaced or has a poor encoding neither ends
nor delays a command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, SERIAL, MakeImageSet, as_flags, clean_environment, slow
from tests.support.full_pipe import full_pipe

MODULES = [
    "train",
    "export",
    "evaluate",
    "predict",
    "verify",
    "report",
    "convert",
    "benchmark",
    "scaling",
    "scaling.interconnect_test",
    "doctor",
]
SCRIPTS = ["data/mnist.py", "data/from_idx.py", "data/from_images.py"]
COMMANDS = [*(["-m", f"distcnn.{name}"] for name in MODULES), *([script] for script in SCRIPTS)]
QUICK = ["--model", "tutorial", "--epochs", "1"]


def shell(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of shell in which "$@" is Python with ``arguments``."""
    words = ["sh", "-c", script, "sh", sys.executable, *arguments]
    return subprocess.run(
        words,
        capture_output=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env=clean_environment() | environment,
    )


@pytest.mark.parametrize(
    "command", [COMMANDS[0], COMMANDS[-1], *slow(*COMMANDS[1:-1])], ids=lambda command: command[-1]
)
def test_help_without_a_reader_is_not_a_failure(command: list[str]) -> None:
    done = shell('{ "$@"; echo "code $?" >&2; } | true', *command, "--help")
    assert done.stderr == b"code 0\n"


@pytest.mark.parametrize(
    "closed", [">&- 2>&- <&-", ">/dev/full", "| true", *slow(">&-", "2>&-", "| head -1")]
)
def test_a_run_outlives_its_streams(closed: str, image_set: MakeImageSet, tmp_path: Path) -> None:
    flags = ["--data", str(image_set()), *QUICK, "--output", str(tmp_path / "run")]
    done = shell(f'{{ "$@"; echo $? >{tmp_path}/code; }} {closed}', "-m", "distcnn.train", *flags)
    assert (tmp_path / "code").read_text() == "0\n", done.stderr
    assert (tmp_path / "run" / "result.json").exists()
    assert b"Traceback" not in done.stderr


@pytest.mark.mpi
def test_ranks_outlive_their_streams(mpirun: Any, image_set: MakeImageSet, tmp_path: Path) -> None:
    flags = ["--data", str(image_set()), *QUICK, "--output", str(tmp_path / "run")]
    words = [
        mpirun.mpirun,
        "-n",
        "2",
        "sh",
        "-c",
        'exec "$@" >&- 2>&-',
        "sh",
        mpirun.python,
        "-m",
        "distcnn.train",
        *flags,
    ]
    done = subprocess.run(
        words, capture_output=True, timeout=120, check=False, cwd=ROOT, env=clean_environment()
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    "encoding", ["ascii", *slow("ascii:strict", "latin-1", "no-such-encoding")]
)
def test_names_that_the_terminal_cannot_show(
    encoding: str, image_set: MakeImageSet, tmp_path: Path
) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9 \xe2\x98\x83 \x1b[2J\nforged"
    flags: list[Any] = ["--data", str(image_set()), *QUICK, "--output", path]
    if encoding == "no-such-encoding":
        encoding = "utf-8"
    done = shell('"$@"', "-m", "distcnn.train", *flags, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout
    assert b"\nforged" not in done.stdout
    assert b"caf\\xe9 " in done.stdout
    again = shell('"$@"', "-m", "distcnn.train", "--resume", path, PYTHONIOENCODING=encoding)  # type: ignore[arg-type]
    assert (again.returncode, again.stderr) == (0, b"")
    checked = shell('"$@"', "-m", "distcnn.verify", path, PYTHONIOENCODING=encoding)  # type: ignore[arg-type]
    assert (checked.returncode, checked.stderr) == (0, b"")
    drawn = shell('"$@"', "-m", "distcnn.report", path, PYTHONIOENCODING=encoding)  # type: ignore[arg-type]
    assert (drawn.returncode, drawn.stderr) == (0, b"")


def test_a_broken_flag_of_a_strange_name_is_one_line(tmp_path: Path) -> None:
    done = shell(
        '"$@"', "-m", "distcnn.train", "--data", "no\nsuch\x1b[31m.h5", PYTHONIOENCODING="ascii"
    )
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"\x1b" not in done.stderr


def test_a_run_whose_output_blocks_trains_to_its_end(
    image_set: MakeImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = as_flags(data=image_set(), model="tutorial", epochs=20, log_every=1, stall_timeout=1)
    with full_pipe(monkeypatch):
        words = [SERIAL.python, "-m", "distcnn.train", *flags, "--output", str(tmp_path / "run")]
        start = time.monotonic()
        done = subprocess.run(
            words,
            stdout=sys.stdout.fileno(),
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
            cwd=ROOT,
        )
        assert time.monotonic() - start < 30
    assert (done.returncode, done.stderr) == (0, b"")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) >= 40


# What a notebook, a test or a service may have in the streams' places: each runs a whole training.
REPLACED = {
    "closed": "sys.stdout.close(); sys.stderr.close()",
    "objects that raise": (
        "sys.stdout = sys.stderr = type('Bad', (), {'write': lambda self, text: 1 / 0})()"
    ),
    "texts in memory": "sys.stdout, sys.stderr = io.StringIO(), io.StringIO()",
    "objects that only write": (
        "sys.stdout = sys.stderr = type('Bare', (), {'write': lambda self, text: None})()"
    ),
    "nothing": "sys.stdout = sys.stderr = None",
    "bytes": "sys.stdout = io.BytesIO()",
}


@pytest.mark.parametrize("what", [*list(REPLACED)[:2], *slow(*list(REPLACED)[2:])])
def test_a_run_with_replaced_streams(what: str, image_set: MakeImageSet, tmp_path: Path) -> None:
    program = (
        f"import io, os, sys\nfrom distcnn import train\n{REPLACED[what]}\ncode ="
        " train.main(sys.argv[1:])\nos._exit(code)"
    )
    done = SERIAL.run(
        1, "-c", program, *as_flags(data=image_set()), *QUICK, *as_flags(output=tmp_path / "run")
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").exists()

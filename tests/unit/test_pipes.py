"""A named pipe in place of a file that a user names: one line and exit code 2 at once, from every
command that reads it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from distcnn import train, verify
from distcnn.benchmark.__main__ import main as benchmark
from distcnn.report import __main__ as report
from distcnn.scaling.__main__ import main as scaling

Main = Callable[[Sequence[str]], int]


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (train.main, "--data PIPE --output OUT"),
        (train.main, "--config PIPE --output OUT"),
        (train.main, "--resume PIPE"),
        (verify.main, "PIPE"),
        (report.main, "PIPE --output OUT"),
        (report.main, "--trace PIPE --output OUT"),
        (benchmark, "--data PIPE"),
        (benchmark, "--draw PIPE --picture OUT"),
        (scaling, "--ranks 1 --data PIPE --output OUT"),
        (scaling, "--ranks 1 --predict 4 --network PIPE --output OUT"),
    ],
)
def test_a_named_pipe_is_refused_at_once(
    main: Main, flags: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    words = (
        flags.replace("PIPE", str(tmp_path / "pipe"))
        .replace("OUT", str(tmp_path / "out.png"))
        .split()
    )
    assert main(words) == 2
    said = capfd.readouterr().err
    assert str(tmp_path / "pipe") in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "file",
    [
        *("config.toml", "result.json", "weights.h5", "receipt.jsonl"),
        *("metrics.jsonl", "metrics.csv", "SHA256SUMS"),
    ],
)
def test_no_file_of_a_run_can_hang_a_command(file: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").touch()
    (run / file).unlink(missing_ok=True)
    os.mkfifo(run / file)
    for main, flags in (
        (train.main, ["--resume", str(run)]),
        (verify.main, [str(run)]),
        (report.main, [str(run)]),
    ):
        assert main(flags) == 2

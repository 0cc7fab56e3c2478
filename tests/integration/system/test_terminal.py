"""A progress bar is shown on a terminal, also through a launcher, and nowhere else."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import SERIAL, Launcher, MakeImageSet, as_flags, slow
from tests.support.running import running

QUICK = ["--model", "mlp", "--epochs", "1"]
LOOK = "from distcnn.system.terminal import watched_columns; print('columns', watched_columns())"
# Stands for a launcher: two ranks, whose output goes through a pipe; by its name the kernel takes
# it for mpirun.
MPIRUN = """#!/bin/sh
while [ "$1" != python ]; do shift; done
PMI_SIZE=2 PMI_RANK=0 "{python}" -c "{look}" | cat
"""


def shown(
    command: Sequence[str],
    rows: int = 24,
    columns: int = 70,
    prefix: Sequence[str] = (),
    launcher: Launcher = SERIAL,
    ranks: int = 1,
    **environment: str,
) -> str:
    """What a terminal of that size shows of a command's output."""
    mine, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    try:
        with running(
            launcher,
            ranks,
            *command,
            prefix=prefix,
            stdout=terminal,
            stderr=terminal,
            **environment,
        ) as run:
            os.set_blocking(mine, False)
            text = b""

            def read() -> None:
                nonlocal text
                try:
                    while piece := os.read(mine, 1 << 16):
                        text += piece
                except (BlockingIOError, OSError):
                    pass

            run.wait_for(lambda: (read(), run.process.poll() is not None)[1], "the end")
            read()
            assert run.process.returncode == 0, text
        return text.decode()
    finally:
        os.close(mine)
        os.close(terminal)


@pytest.mark.parametrize("columns", [70, *slow(0, 1, 10, 40)])
def test_a_terminal_of_any_width(columns: int, image_set: MakeImageSet, tmp_path: Path) -> None:
    text = shown(
        [
            "-m",
            "distcnn.train",
            *as_flags(data=image_set()),
            *QUICK,
            *as_flags(output=tmp_path / "run"),
        ],
        0,
        columns,
    )
    assert "Traceback" not in text
    assert ("%|" in text) == (columns in (0, 40, 70))
    assert "test accuracy" in text


def test_columns_that_are_not_a_number(image_set: MakeImageSet, tmp_path: Path) -> None:
    flags = ["--data", str(image_set()), *QUICK, "--output", str(tmp_path / "run")]
    assert "test accuracy" in shown(["-m", "distcnn.train", *flags], COLUMNS="²")


@pytest.mark.parametrize(
    ("name", "options", "piped", "columns"),
    [
        ("mpirun", [], "", 70),
        ("mpiexec.openmpi", [], "", 70),
        ("another", [], "", None),
        ("mpirun", ["-l"], "", None),
        ("mpirun", ["-prepend-rank"], "", None),
        ("mpirun", ["--tag-output"], "", None),
        ("mpirun", [], "| cat", None),
    ],
)
def test_the_launchers_output_counts(
    name: str, options: list[str], piped: str, columns: int | None, tmp_path: Path
) -> None:
    script = tmp_path / name
    script.write_text(MPIRUN.format(python=sys.executable, look=LOOK))
    script.chmod(0o755)
    command = " ".join([str(script), *options, "-n", "2", "python", piped])
    assert f"columns {columns}\r\n" in shown([], prefix=["sh", "-c", f"{command}; exit 0", "sh"])


@pytest.mark.mpi
@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_a_progress_bar_under_mpirun(
    quiet: list[str], any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = [*as_flags(data=image_set()), *QUICK, *quiet, *as_flags(output=tmp_path / "run")]
    text = shown(["-m", "distcnn.train", *flags], launcher=any_mpi, ranks=2)
    assert ("%|" in text) == (not quiet)
    assert "results in " in text
    if not quiet:
        piped = any_mpi.run(2, "-m", "distcnn.train", *flags[:-1], str(tmp_path / "piped")).stdout
        assert "%|" not in piped

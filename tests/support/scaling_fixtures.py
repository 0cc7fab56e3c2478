"""Sweeps as a user starts them, and launchers made for a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Launcher

MakeLauncher = Callable[[str], str]


@pytest.fixture
def make_launcher(tmp_path: Path) -> MakeLauncher:
    """A function that makes a launcher of ``lines`` of sh, in which ``$n`` is the number of ranks
    and ``"$@"`` the command, and returns its template.
    """

    def make(lines: str) -> str:
        file = tmp_path / "launcher"
        file.write_text(f"#!/bin/sh\nn=$1; shift\n{lines}\n")
        file.chmod(0o755)
        return f"{file} {{ranks}}"

    return make


def alone(launcher: Launcher) -> Launcher:
    """The same Python without its mpirun: a sweep of one process."""
    return replace(launcher, mpirun=None)


def of(launcher: Launcher) -> str:
    """The template of its mpirun."""
    return f"{launcher.mpirun} -n {{ranks}}"

"""Unit tests start no process: tests that do belong in tests/integration."""

from __future__ import annotations

import multiprocessing.process
import os
import subprocess
import sys
from typing import Any

import numpy.testing  # noqa: F401  (NumPy 2.0 starts lscpu when this is first imported)
import pytest

EXECUTE = subprocess.Popen._execute_child  # type: ignore[attr-defined]
STARTING = [
    (multiprocessing.process.BaseProcess, "start"),
    *((os, name) for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system")),
]


def refuse(*_: Any, **__: Any) -> None:
    pytest.fail("a unit test starts a process: move it to tests/integration")


def execute(process: subprocess.Popen[Any], args: Any, *rest: Any) -> None:
    """Old versions of threadpoolctl find libc through ctypes, which starts a process; nothing else
    may.
    """
    starter = sys._getframe(2).f_globals["__name__"]
    EXECUTE(process, args, *rest) if starter == "ctypes.util" else refuse()


@pytest.fixture(autouse=True)
def _starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess.Popen, "_execute_child", execute)
    for owner, name in STARTING:
        monkeypatch.setattr(owner, name, refuse)

"""Folders for claims, and shared memory that killed processes left."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

import pytest

from distcnn.fault_tolerance import host_election

# Of this process alone: a file of the same name that another one has open counts as in use.
OWN = f"{os.getpid():x}"
NAMES = (f"mpich_shm_{OWN}_0", f"sm_segment.host.{os.getpid()}.1", f"ucx_shm_posix_{OWN}")


@pytest.fixture
def claim_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parent of "first" and "second", the only places for folders of claims."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    folders = [tmp_path / name for name in ("first", "second")]
    monkeypatch.setattr(host_election, "SHARED_FOLDERS", tuple(map(str, folders)))
    for folder in folders:
        folder.mkdir()
    return tmp_path


@pytest.fixture
def left_behind(tmp_path: Path) -> list[Path]:
    """Files as an MPI names them, an hour old, that nobody has open."""
    paths = [tmp_path / name for name in NAMES]
    for path in paths:
        path.write_bytes(bytes(mmap.PAGESIZE))
        os.utime(path, (time.time() - 3600,) * 2)
    return paths

"""What tests of checkpoints share: small checkpoints, and a folder of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distcnn.checkpoints import Checkpoint, CheckpointStore


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        {"step": step}, {"metrics": f"{step} steps"}, {"weights/a": np.full(3, step, np.float32)}
    )


def contents(store: CheckpointStore) -> dict[str, bytes]:
    """The content of all files except links, because /dev/full has no end."""
    return {
        path.name: b"a link" if path.is_symlink() else path.read_bytes()
        for path in store.folder.iterdir()
    }


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


@pytest.fixture
def filled(store: CheckpointStore) -> CheckpointStore:
    """With the steps 2, 4, 6, 8."""
    for step in (2, 4, 6, 8):
        store.save(step, checkpoint(step))
    return store

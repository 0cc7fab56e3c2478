"""Checkpoints: their format, their folder, their writer. It knows nothing of training."""

from distcnn.checkpoints.format import (
    Checkpoint,
    CheckpointError,
    VersionError,
    decode,
    encode,
    stored_arrays,
)
from distcnn.checkpoints.store import CheckpointStore
from distcnn.checkpoints.writer import CheckpointWriter, with_room

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointStore",
    "CheckpointWriter",
    "VersionError",
    "decode",
    "encode",
    "stored_arrays",
    "with_room",
]

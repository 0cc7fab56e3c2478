"""Checkpoints: their format, their folder, their writer. It knows nothing of training."""

from distcnn.checkpoints.format import Checkpoint, CheckpointError
from distcnn.checkpoints.store import CheckpointStore
from distcnn.checkpoints.writer import CheckpointWriter

__all__ = ["Checkpoint", "CheckpointError", "CheckpointStore", "CheckpointWriter"]

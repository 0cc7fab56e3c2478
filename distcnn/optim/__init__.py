"""Optimizers and learning-rate schedules, on flat vectors. NumPy only."""

from distcnn.optim.optimizers import OPTIMIZERS, SGD, Adam, AdamW, Optimizer, Updater
from distcnn.optim.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Linear,
    OwnSchedule,
    Schedule,
    StepDecay,
)

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "Linear",
    "Optimizer",
    "OwnSchedule",
    "Schedule",
    "StepDecay",
    "Updater",
]

"""Optimizers and learning-rate schedules, on flat vectors. NumPy only."""

from distcnn.optim.optimizers import OPTIMIZERS, SGD, Adam, Optimizer
from distcnn.optim.schedules import SCHEDULES, learning_rate_at

__all__ = ["OPTIMIZERS", "SCHEDULES", "SGD", "Adam", "Optimizer", "learning_rate_at"]

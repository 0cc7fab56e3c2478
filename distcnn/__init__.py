"""Data-parallel training of CNNs with NumPy and MPI: the same bits on any number of ranks.

    import distcnn as dc
    from distcnn import nn

    model = nn.Sequential([nn.Conv2d(20, kernel_size=5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
                           nn.Dense(10)])
    trainer = dc.Trainer(model, optimizer=dc.optim.SGD(learning_rate=0.03, momentum=0.9))
    run = trainer.fit("data/mnist.h5", epochs=1, output="runs/first")
    probabilities = dc.load("runs/first").predict(images)

Importing distcnn changes nothing outside it: no environment variable, signal handler, number of
BLAS threads or exception hook, and it does not import NumPy until a name is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distcnn import datasets, interop, nn, optim
    from distcnn.errors import InputError, Stopped, TrainingError
    from distcnn.loading import load
    from distcnn.network import Network
    from distcnn.training.callbacks import Callback
    from distcnn.training.results import RunResult
    from distcnn.training.tensorboard import TensorBoard
    from distcnn.training.trainer import Trainer

__version__ = "0.3.0"

__all__ = [
    "Callback",
    "InputError",
    "Network",
    "RunResult",
    "Stopped",
    "TensorBoard",
    "Trainer",
    "TrainingError",
    "__version__",
    "datasets",
    "interop",
    "load",
    "nn",
    "optim",
]

_HOMES = {
    **dict.fromkeys(("InputError", "Stopped", "TrainingError"), "distcnn.errors"),
    "load": "distcnn.loading",
    "Network": "distcnn.network",
    "Callback": "distcnn.training.callbacks",
    "RunResult": "distcnn.training.results",
    "TensorBoard": "distcnn.training.tensorboard",
    "Trainer": "distcnn.training.trainer",
}


def __getattr__(name: str) -> object:
    """Import a name on first use (PEP 562): commands must set up their process before NumPy."""
    if name in ("datasets", "interop", "nn", "optim"):
        return importlib.import_module(f"distcnn.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'distcnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

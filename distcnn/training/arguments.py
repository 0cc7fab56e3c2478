"""Checks of the arguments of ``Trainer``, whose errors name Python arguments, not flags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from distcnn.datasets import ArrayDataset, Dataset
from distcnn.distributed import Communicator
from distcnn.distributed.communicator import JointError
from distcnn.errors import ArgumentError, InputError
from distcnn.models import MODELS
from distcnn.nn import LOSSES, Sequential
from distcnn.optim import Optimizer, Schedule
from distcnn.training.callbacks import Callback
from distcnn.training.results import CONFIG

Arrays = tuple[tuple[ArrayLike, ArrayLike], tuple[ArrayLike, ArrayLike]]
"""((train_images, train_labels), (test_images, test_labels))."""
ARRAYS = "(arrays)"
"""What a configuration names as data that is in no file."""
DATA = (
    "name an HDF5 file, give an image set of distcnn.datasets, or write ((train_images,"
    " train_labels), (test_images, test_labels))"
)


def check_objects(
    model: object, loss: object, optimizer: object, schedule: object, communicator: object
) -> None:
    """``InputError`` for the first of a trainer's objects that is of another kind."""
    if not isinstance(optimizer, Optimizer):
        raise InputError(
            f"optimizer is {optimizer!r}: make it a distcnn.optim.Optimizer, such as"
            " optim.Adam(learning_rate=0.001)"
        )
    if not isinstance(schedule, Schedule) and not _is_function(schedule):
        raise InputError(
            f"schedule is {schedule!r}: make it a distcnn.optim.Schedule, such as"
            " optim.Cosine(warmup_steps=100), or a function of the progress"
        )
    if not isinstance(model, str | Sequential) and not callable(model):
        raise InputError(
            f"model is {model!r}: make it a distcnn.nn.Sequential([...]), a function"
            f" (input_shape, classes) that returns one, or one of {', '.join(MODELS)}"
        )
    if not isinstance(loss, str) and not _is_function(loss):
        raise InputError(
            f"loss is {loss!r}: make it one of {', '.join(LOSSES)}, or a function (outputs,"
            " labels, weights) that returns (loss_sum, grad_outputs)"
        )
    if communicator is not None and not hasattr(communicator, "Get_rank"):
        raise InputError(
            f"communicator is {communicator!r}: give one of mpi4py, such as MPI.COMM_WORLD"
        )


def image_set_of(data: str | Path | Dataset | Arrays) -> tuple[str, Dataset | None]:
    """The name to record, and the image set where it is not a file for all ranks to open."""
    if isinstance(data, str | Path):
        return str(data), None
    if isinstance(data, tuple | list):
        try:
            (train_images, train_labels), (test_images, test_labels) = data
        except (TypeError, ValueError) as error:
            raise InputError(f"data is a {type(data).__name__} of {len(data)}: {DATA}") from error
        try:
            return ARRAYS, ArrayDataset(train_images, train_labels, test_images, test_labels)
        except ArgumentError as error:
            raise InputError(str(error)) from error
    if not isinstance(data, Dataset):
        raise InputError(f"data is a {type(data).__name__}: {DATA}")
    return data.path or ARRAYS, data


def check_output_and_callbacks(output: object, callbacks: object) -> None:
    if output == "":
        raise InputError("output is '': name a folder, or give None to write nothing")
    if not isinstance(callbacks, Sequence) or not all(
        isinstance(callback, Callback) for callback in callbacks
    ):
        raise InputError(
            f"callbacks is {callbacks!r}: make it a list of instances of distcnn.Callback"
        )


def require_same_settings(settings: dict[str, Any], communicator: Communicator) -> None:
    """``InputError`` on all ranks unless they were given the same ``settings``. Collective."""
    everyone = communicator.allgather({name: repr(value) for name, value in settings.items()})
    for rank, others in enumerate(everyone):
        for name, value in everyone[0].items():
            if others[name] != value:
                raise JointError(
                    f"{name} is {value} on rank 0, but {others[name]} on rank {rank}: give all"
                    " ranks the same arguments"
                )


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, type)


def run_to_resume(resume: bool | str | Path, output: str | Path | None) -> str:
    """The run directory to continue; empty for a new run."""
    if not isinstance(resume, bool):
        return str(resume)
    if resume and output is None:
        raise InputError("resume is True, but output is None: name the run directory as output")
    begun = resume and output is not None and (Path(output) / CONFIG).exists()
    return str(output) if begun else ""

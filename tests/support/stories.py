"""A run in this process, to whose files a test does something at a step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from distcnn.checkpoints.weights import read_weights
from distcnn.distributed.blas_threads import THREADS_PER_RANK
from distcnn.training.loop import Loop
from distcnn.training.progress import NoProgress
from distcnn.training.results import RunResult
from distcnn.training.resume import open_directory
from distcnn.training.starts import begin_recording
from distcnn.training.state import State
from tests.conftest import MakeImageSet
from tests.support.training_fixtures import prepare


class Story:
    """Trains to the end, and keeps what was said."""

    def __init__(self, data: Path, path: Path, **flags: Any) -> None:
        self.run = prepare(data, output=str(path), log_every=1, check_every=1, **flags)
        self.path, self.said = path, list[str]()

    def train(self, meanwhile: Callable[[int], None] = lambda step: None) -> RunResult:
        """Train to the end and return the result; ``meanwhile`` is called before each step."""
        progress = NoProgress()
        progress.say = self.said.append  # type: ignore[method-assign]
        self.run.training_step.add_hook(
            lambda at, shard, lane: meanwhile(at.step) if shard.index == 0 else None
        )
        with threadpool_limits(THREADS_PER_RANK), ExitStack() as held:
            open_directory(self.run.config, None, held)
            directory = begin_recording(self.run, self.path, None, progress.say, held)
            result = Loop(self.run, State(), directory, progress).train()
            self.path = directory.location
        return result


def once(at: int, work: Callable[[], object]) -> Callable[[int], None]:
    """Do ``work`` before the step ``at``, when no checkpoint is being written."""

    def meanwhile(step: int) -> None:
        if step == at:
            for thread in threading.enumerate():
                if thread.name == "checkpoint":
                    thread.join(30)
            work()

    return meanwhile


def assert_same_weights(path: Path, other: Path) -> None:
    (weights, attributes), (others, expected) = map(read_weights, (path, other))
    assert attributes == expected
    assert list(weights) == list(others)
    assert all(np.array_equal(weights[name], others[name]) for name in others)


@pytest.fixture
def story(image_set: MakeImageSet, tmp_path: Path) -> Story:
    """Two epochs of 4 steps into ``tmp_path / "run"``."""
    return Story(image_set(), tmp_path / "run")


@pytest.fixture(scope="session")
def left_alone(image_set: MakeImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of 4 steps that was left alone."""
    path = tmp_path_factory.mktemp("whole") / "run"
    story = Story(image_set(), path)
    story.train()
    assert story.said[-1].startswith("epoch 2: ")
    return path

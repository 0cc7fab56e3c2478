"""Runs that are ready to take steps, in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from distcnn.config import Config
from distcnn.distributed import SerialCommunicator
from distcnn.training.setup import Run, prepare_run
from tests.conftest import MakeImageSet

MakeRun = Callable[..., Run]


@pytest.fixture
def make_run(image_set: MakeImageSet) -> MakeRun:
    """A serial run of three shards of the small image set; keywords as ``Config``."""

    def make(**fields: object) -> Run:
        config = Config(
            **{"data": str(image_set()), "num_shards": 3, "microbatch_size": 4, **fields}
        )  # type: ignore[arg-type]
        return prepare_run(config, SerialCommunicator(), lambda line: None)

    return make

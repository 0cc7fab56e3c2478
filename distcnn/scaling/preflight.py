"""What can be wrong with all points alike is found before the first one starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distcnn.config import Config
from distcnn.datasets import read_info
from distcnn.datasets.default import DEFAULT_PATH, must_be_prepared
from distcnn.models import build_model
from distcnn.scaling.options import Settings, require_launcher


def require_all(settings: Settings, say: Callable[[str], None]) -> None:
    """``InputError`` without a launcher, an image set or a model that fits it.

    Makes the default image set where it is not there.
    """
    require_launcher(settings.launcher)
    config = Config(**settings.flags)
    if (config.source or Path(config.data) == Path(DEFAULT_PATH)) and must_be_prepared(
        config.data, config.source or None
    ):
        from distcnn.datasets.prepare_mnist import prepare_mnist  # once in a machine's life

        prepare_mnist(config.data, config.source or None, say)
    dataset = read_info(config.data)
    build_model(config.model, dataset.image_shape, dataset.classes, 1)

"""What portable arithmetic gives on every machine: hashes that this machine is compared with.

They are in ``reference.json``; ``python -m tests.machines --write`` writes them, when a new version
changes the bits of portable runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("reference.json")


Weights = Mapping[str, Mapping[str, str]]
"""SHA-256 of weights by network and number of steps."""


@dataclass(frozen=True)
class Trained:
    """What training gives with the defaults of ``distcnn.train``; ``images`` is the SHA-256 of the
    training images and labels.
    """

    images: str
    weights: Weights


@dataclass(frozen=True)
class Reference:
    """SHA-256 of results of portable arithmetic.

    Attributes:
        mnist: weights trained on MNIST.
        sample: those trained on the sample that takes its place where no mirror answers.
        synthetic: weights after some steps on images drawn at random.
        layers: weights of the doctor's small network (``distcnn.doctor.layers``).
    """

    mnist: Trained
    sample: Trained
    synthetic: str
    layers: str

    @classmethod
    def read(cls) -> Reference:
        values = json.loads(FILE.read_text())
        trained = {name: Trained(**values[name]) for name in ("mnist", "sample")}
        return cls(**{**values, **trained})

    def trained_on(self, images: str) -> Trained | None:
        """What training on these images gives, if that is known."""
        return next((each for each in (self.mnist, self.sample) if each.images == images), None)

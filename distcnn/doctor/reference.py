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


@dataclass(frozen=True)
class Reference:
    """SHA-256 of results of portable arithmetic.

    Attributes:
        images: the training images and labels of MNIST, from which the weights were trained.
        weights: by network and number of steps, with the defaults of ``distcnn.train``.
        synthetic: weights after some steps on images drawn at random.
        layers: weights of the doctor's small network (``distcnn.doctor.layers``).
    """

    images: str
    weights: Mapping[str, Mapping[str, str]]
    synthetic: str
    layers: str

    @classmethod
    def read(cls) -> Reference:
        return cls(**json.loads(FILE.read_text()))

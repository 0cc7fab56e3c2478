"""Whole runs in this process give the same weights on every machine, with every NumPy.

With MNIST, and in many environments: ``tests/machines``.
"""

from __future__ import annotations

import pytest

from distcnn.doctor.layers import layers_sha256
from distcnn.doctor.reference import Reference
from tests.machines.measure import synthetic_sha256


@pytest.mark.parametrize("threads", [1, 2])
def test_training_gives_the_reference_hash(threads: int) -> None:
    assert synthetic_sha256(threads) == Reference.read().synthetic


def test_layers_give_the_reference_hash() -> None:
    assert layers_sha256() == Reference.read().layers

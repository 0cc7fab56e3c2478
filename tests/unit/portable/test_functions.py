"""Elementary functions of single IEEE operations: their errors against the C library's."""

from __future__ import annotations

import math

import numpy as np

from distcnn.portable.functions import cos_2pi, log_of_positive


def test_logarithm_and_cosine_are_right_to_the_last_bits() -> None:
    u = np.concatenate([np.random.default_rng(0).random(20_000), [2.0**-53, 0.5, 0.25, 0.75, 1.0]])
    u = u[u > 0]
    assert np.abs(log_of_positive(u) - [math.log(x) for x in u]).max() < 1e-14
    assert np.abs(cos_2pi(u) - [math.cos(2 * math.pi * x) for x in u]).max() < 2e-15

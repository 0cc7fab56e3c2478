"""The products of im2col depend on the layers alone."""

from __future__ import annotations

import numpy as np

from distcnn.benchmark.im2col_bound import im2col_products, seconds_of
from distcnn.nn import Conv2d, Dense, Flatten, ReLU, Sequential


def test_operations_of_a_small_network_by_hand() -> None:
    model = Sequential([Conv2d(3, 2), ReLU(), Flatten(), Dense(4)])
    # Convolution: 3 outputs, 1*2*2 terms, 3*4 positions of 2 examples. Dense: 4 outputs of 36.
    conv, dense = 2 * 3 * 4 * 24, 2 * 4 * 36 * 2
    products = im2col_products(model, (1, 4, 5), 2)
    assert [2 * out.size * first.shape[1] for first, _, out in products] == [
        conv,
        dense,
        dense,
        dense,
        conv,
    ]
    assert seconds_of(products) > 0
    for first, second, out in products:
        np.testing.assert_allclose(out, first @ second)

"""Random streams, named by purpose, never by rank; no version of NumPy changes their numbers.

In Philox (Salmon et al. 2011) a (key, counter) pair names a stream: that of any epoch and shard
is available without drawing those before it. NumPy keeps the raw words of its bit generators for
ever, but not what ``Generator`` makes of them (NEP 19). So ``PortableGenerator`` uses only
operations that IEEE 754 defines to the last bit (``distcnn.portable.functions``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distcnn.portable.functions import cos_2pi, log_of_positive

INITIALISE, SHUFFLE, SHUFFLE_WINDOWS, FOLDER_SPLIT, FOLDER_ORDER, LAYER = 1, 2, 3, 4, 5, 6
HOLD_OUT, SPOT_CHECK, SAMPLE = 7, 8, 9
"""The purpose of a stream."""

MAX_SEED = 2**64 - 1

Floats = NDArray[np.float64]
Size = int | Sequence[int] | None
Out = NDArray[np.floating] | None

BLOCK = 16_384
"""Normal numbers computed at a time, so that intermediate arrays stay in the cache."""
TO_FRACTION = 2.0**-53


def generator(seed: int, purpose: int, *indices: int) -> np.random.Philox:
    """The stream for ``purpose`` and up to two ``indices``, 2**128 numbers away from any other."""
    counter = [0, 0, *indices, *(0 for _ in range(2 - len(indices)))]
    return np.random.Philox(
        key=np.array([seed, purpose], np.uint64), counter=np.array(counter, np.uint64)
    )


def layer_streams(seed: int, step: int, shard: int) -> Callable[[str], PortableGenerator]:
    """Streams for layers in training, such as for dropout masks, by layer name.

    ``step`` counts from 0 over the run, so it implies the epoch.
    """

    def stream(layer: str) -> PortableGenerator:
        number = int.from_bytes(hashlib.sha256(layer.encode()).digest()[:8])
        key, counter = [seed, LAYER], [0, number, step, shard]
        return PortableGenerator(
            np.random.Philox(key=np.array(key, np.uint64), counter=np.array(counter, np.uint64))
        )

    return stream


class PortableGenerator(np.random.Generator):
    """NumPy's ``Generator``, with four methods whose bits depend on no NumPy and no processor.

    All others are NumPy's, and may change with it. A result of ``size`` None is one float;
    ``random`` and ``uniform`` take one raw word for each number, the normal methods two.
    """

    def random(self, size: Size = None, dtype: DTypeLike = np.float64, out: Out = None):  # type: ignore[no-untyped-def,override]
        """Uniform in [0, 1): multiples of 2**-53, rounded to ``dtype``, but never up to 1."""
        below_one = 1 - float(np.finfo(dtype if out is None else out.dtype).epsneg)
        return self._fill(lambda n: np.minimum(self._fractions(n), below_one), size, dtype, out)

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Size = None):  # type: ignore[no-untyped-def,override]
        """``low + (high - low) * random(size)``."""
        return np.add(low, np.subtract(high, low) * self.random(_size(size, low, high)))

    def standard_normal(  # type: ignore[no-untyped-def,override]
        self, size: Size = None, dtype: DTypeLike = np.float64, out: Out = None
    ):
        """Normal with mean 0 and standard deviation 1."""
        return self._fill(self._normals, size, dtype, out)

    def normal(self, loc: float = 0.0, scale: float = 1.0, size: Size = None):  # type: ignore[no-untyped-def,override]
        """``loc + scale * standard_normal(size)``."""
        return np.add(loc, np.multiply(scale, self.standard_normal(_size(size, loc, scale))))

    def _fill(self, draw: Callable[[int], Floats], size: Size, dtype: DTypeLike, out: Out):  # type: ignore[no-untyped-def]
        if out is not None:
            out[...] = draw(out.size).reshape(out.shape)
            return out
        if size is None:
            return float(draw(1)[0])
        return draw(int(np.prod(size))).reshape(size).astype(dtype, copy=False)

    def _words(self, count: int) -> NDArray[np.uint64]:
        """``count`` words, of which the upper 53 bits are left."""
        words: NDArray[np.uint64] = self.bit_generator.random_raw(count) >> np.uint64(11)
        return words

    def _fractions(self, count: int) -> Floats:
        return self._words(count).astype(np.float64) * TO_FRACTION

    def _normals(self, count: int) -> Floats:
        """``sqrt(-2 log u) cos(2 pi v)``, u in (0, 1], v in [0, 1) (Box and Muller 1958)."""
        values = np.empty(count)
        for start in range(0, count, BLOCK):
            block = values[start : start + BLOCK]
            pairs = self._words(2 * len(block)).astype(np.float64).reshape(-1, 2)
            radius = np.sqrt(log_of_positive((pairs[:, 0] + 1.0) * TO_FRACTION) * -2.0)
            np.multiply(radius, cos_2pi(pairs[:, 1] * TO_FRACTION), out=block)
        return values


def _size(size: Size, *parameters: float) -> Size:
    return np.broadcast_shapes(*map(np.shape, parameters)) or None if size is None else size

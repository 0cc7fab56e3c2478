"""``distcnn.convert`` called in this process, and images to convert."""

from __future__ import annotations

import io
import itertools
import tracemalloc
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcnn.convert import main
from distcnn.datasets import DatasetInfo, HDF5Dataset, read_info

COUNTER = itertools.count()
MEBIBYTE = 2**20
Examples = tuple[NDArray[np.uint8], NDArray[np.int64]]
RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (12, 6, 6)).astype(np.uint8)
WIDE = RNG.integers(0, 256, (12, 6, 5)).astype(np.uint8)
COLOR = RNG.integers(0, 256, (12, 32, 32, 3)).astype(np.uint8)
LABELS = np.array([0, 2, 1, 0, 1, 2, 1, 0, 2, 2, 1, 0])
"""Eight examples to train on and four to test on."""
TRAIN, TEST = slice(8), slice(8, 12)


@dataclass
class Converted:
    """A set that was written, and what the command printed."""

    info: DatasetInfo
    train: Examples
    test: Examples
    said: str


def run(arguments: list[Any]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def output_beside(source: Path) -> Path:
    return source.parent.parent / f"converted-{source.parent.name}-{next(COUNTER)}.h5"


def convert(*arguments: Any) -> Converted:
    """Convert a source into a new file above its folder, and read that."""
    output = output_beside(Path(arguments[0]))
    code, out, err = run([*arguments, "--output", output])
    assert code == 0, err
    data = HDF5Dataset(output)
    return Converted(read_info(output), data.read("train"), data.read("test"), out + err)


def refused(*arguments: Any) -> str:
    """The one line with which a source is refused; nothing is written."""
    output = output_beside(Path(arguments[0]))
    code, out, err = run([*arguments, "--output", output])
    assert (code, out, err.count("\n")) == (2, "", 1), out + err
    assert err.startswith("distcnn.convert: error: ")
    assert not list(output.parent.glob(f"*{output.name}*"))
    return err


def assert_is(found: Converted, images: NDArray[Any], labels: NDArray[Any] = LABELS) -> None:
    """The set has the first eight as training and the last four as test examples."""
    for (own_images, own_labels), chosen in ((found.train, TRAIN), (found.test, TEST)):
        wanted = images[chosen] if images.ndim == 4 else images[chosen, ..., None]
        assert np.array_equal(own_images, wanted)
        assert own_labels.tolist() == labels[chosen].tolist()


def refused_cheaply(*arguments: Any, most: int = 40 * MEBIBYTE) -> str:
    """What is said of refused ``arguments``, which take less than ``most`` bytes."""
    tracemalloc.start()
    try:
        said = refused(*arguments)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most
    return said


class Evil:
    """Pickled as a call of ``open``, which makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")

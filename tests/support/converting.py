"""``distcnn.convert`` called in this process."""

from __future__ import annotations

import io
import itertools
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcnn.convert import main
from distcnn.datasets import DatasetInfo, HDF5Dataset, read_info

COUNTER = itertools.count()
Examples = tuple[NDArray[np.uint8], NDArray[np.int64]]


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

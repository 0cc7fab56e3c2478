"""The default image set, MNIST: where it lies and whether it must be prepared. Every rank imports this; how it is had is ``mnist``'s,
which brings ssl, archives and pip's ways with it: only root needs that, and only once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from distcnn.datasets.hdf5 import read_info
from distcnn.errors import InputError

DEFAULT_PATH = "data/mnist.h5"
SOURCE_VARIABLE = "DISTCNN_MNIST_DIR"

SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
"""Of the four files."""

SAMPLE_NAME = "mnist-sample"
SAMPLE_NOTICE = (
    "this is a sample of MNIST, 4,000 training and 1,000 test images cut from its training set: its accuracy is no MNIST result. "
    f"For all 70,000, give the folder of the four .gz files (--source DIR or {SOURCE_VARIABLE})"
)


def must_be_prepared(path: str | Path, source: str | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether ``path`` is missing, or is a mere sample where a folder with all of MNIST is named."""
    folder = named_folder(source, environment)
    return not os.path.exists(path) or (  # noqa: PTH110  (Path's raises for a name that is too long)
        folder is not None and read_info(path).name == SAMPLE_NAME
    )


def named_folder(source: str | None, environment: Mapping[str, str]) -> Path | None:
    """The folder that the flag, else the environment, names. ``InputError`` when it is none."""
    name = source or environment.get(SOURCE_VARIABLE)
    if not name:
        return None
    if not os.path.isdir(name):  # noqa: PTH112
        named_by = "--source" if source else SOURCE_VARIABLE
        raise InputError(f"{named_by}: no such folder: {name}: name the folder that holds the four MNIST files ({', '.join(SHA256)})")
    return Path(name)

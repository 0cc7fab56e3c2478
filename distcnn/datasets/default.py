"""The default image set, MNIST: where it is, and whether it must be prepared.

Every rank imports this. Only root imports ``prepare_mnist``, which needs ssl, zipfile and so on.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from distcnn.datasets.hdf5 import read_info
from distcnn.errors import InputError

DEFAULT_PATH = "data/mnist.h5"
SOURCE_VARIABLE = "DISTCNN_MNIST_DIR"

SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""Of the unpacked content of the four files, whatever their names."""

SAMPLE_NAME = "mnist-sample"
SAMPLE_NOTICE = (
    "this is a sample of MNIST, 4,000 training and 1,000 test images from its training set: its"
    " accuracy is not an MNIST result. For all 70,000 images, name the folder of the four IDX files"
    f" (--source DIR or {SOURCE_VARIABLE})"
)


def must_be_prepared(
    path: str | Path, source: str | None, environment: Mapping[str, str] = os.environ
) -> bool:
    """Whether ``path`` is missing, or is only the sample although a folder with MNIST is named."""
    folder = named_folder(source, environment)
    return _is_missing(path) or (folder is not None and read_info(path).name == SAMPLE_NAME)


def _is_missing(path: str | Path) -> bool:
    """Whether the file is missing. An I/O error or a stale handle does not count as missing."""
    try:
        os.stat(path)  # noqa: PTH116  (Path's raises for a name that is too long)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
    return False


def named_folder(source: str | None, environment: Mapping[str, str]) -> Path | None:
    """The folder named by the flag, else by the environment. ``InputError`` if it is none."""
    name = source or environment.get(SOURCE_VARIABLE)
    if not name:
        return None
    if not os.path.isdir(name):  # noqa: PTH112
        raise InputError(
            f"{'--source' if source else SOURCE_VARIABLE}: no such folder: {name}: name the folder"
            f" that holds the four MNIST files ({', '.join(SHA256)})"
        )
    return Path(name)

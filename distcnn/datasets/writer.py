"""Writing an image set in HDF5."""

from __future__ import annotations

import errno
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.hashing import BlockHashes, WholeHash, blocks_sha256, leaves_of
from distcnn.datasets.hdf5 import SPLITS, Images, by
from distcnn.datasets.survey import mean_and_std, pixel_sums
from distcnn.errors import InputError

CHUNK_EXAMPLES, CHUNK_BYTES = 256, 2**22
"""Examples in a chunk of the file, the unit in which HDF5 reads and writes, but at most this many
bytes.
"""
CHUNK_LABELS = 2**13
STRUCTURE_BYTES = 2**20
"""Of HDF5's own structures in a file, and of the last chunk of labels, which is stored whole."""
MANY_CLASSES = 1000
REMEDY = "choose a folder you may write to, with space left"


def chunk_examples(image_bytes: int, count: int = CHUNK_EXAMPLES) -> int:
    """Examples per chunk of a split of ``count``: batches of this size are written fastest."""
    return max(1, min(count, CHUNK_EXAMPLES, CHUNK_BYTES // max(1, image_bytes)))


@dataclass(frozen=True)
class Split:
    """A split to be written: ``count`` examples in ``batches`` of images (n, H, W) or (n, H, W, C)
    and labels (n,).
    """

    count: int
    batches: Iterable[tuple[Images, NDArray[np.integer]]]


def write_dataset(
    path: str | Path,
    *,
    name: str,
    source: str,
    classes: int,
    splits: Mapping[str, Split],
    class_names: Sequence[str] | None = None,
) -> None:
    """Write an image set, completely or not at all.

    Args:
        path: The HDF5 file.
        name: The set's name.
        source: Where it comes from.
        classes: The number of classes.
        splits: "train" and "test".
        class_names: A name for each class, in the order of the labels.

    Raises:
        InputError: When labels are out of range, sizes differ, all pixels are the same, or the
            file cannot be written.
    """
    path = Path(path)
    require_writable(path)
    if class_names and len(class_names) != classes:
        raise InputError(
            f"{path} cannot be written: there are {len(class_names)} names for {classes} classes;"
            " give one name for each class"
        )
    # Written to a temporary file in the same folder, synced, then renamed. Its random name is
    # created exclusively, so that no link is followed and several processes may write at once.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # HDF5's default format has no attributes above 64 KiB, the names of some 4,000 classes.
        many = class_names and len(class_names) > MANY_CLASSES
        version = {"libver": ("v108", "v108")} if many else {}
        with h5py.File(temporary, "x", locking=False, **version) as file, _discarded(file):
            file.attrs.update({"name": _as_utf8(name), "source": _as_utf8(source)})
            file.attrs["classes"] = classes
            if class_names:
                file.attrs["class_names"] = [_as_utf8(each) for each in class_names]
            _write_splits(file, splits, classes)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({_reason(error)}): {REMEDY}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """``InputError`` if it is known beforehand that the file ``path`` cannot be written."""
    if not path.name:
        raise InputError(f"{str(path)!r} cannot be written: name a file")
    with suppress(OSError):  # said when it is written
        if path.exists() and not path.is_file():
            what = "folder" if path.is_dir() else "device or a named pipe"
            raise InputError(f"{path} cannot be written (it is a {what}): name another file")
        folder = next(each for each in path.absolute().parents if each.exists())
        if not folder.is_dir():
            raise InputError(f"{path} cannot be written ({folder} is not a folder): {REMEDY}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"{path} cannot be written (no permission in {folder}): {REMEDY}")


def _require_room(file: h5py.File, nbytes: int) -> None:
    """``OSError`` unless the disk has room for ``nbytes`` and HDF5's own structures.

    It is taken and given back: HDF5 crashes the process some time after a write that fails.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    descriptor = file.id.get_vfd_handle()
    size = os.fstat(descriptor).st_size
    try:
        os.posix_fallocate(descriptor, size, nbytes + nbytes // 100 + STRUCTURE_BYTES)
        os.ftruncate(descriptor, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):  # others: not supported here
            raise


@contextmanager
def _discarded(file: h5py.File) -> Iterator[None]:
    """If the block fails, let the file be closed without another error: what HDF5 still holds then,
    a few MiB, it writes to memory.
    """
    try:
        yield
    except BaseException:
        if hasattr(os, "memfd_create"):  # on Linux
            memory = os.memfd_create("distcnn-discarded")
            os.dup2(memory, file.id.get_vfd_handle(), inheritable=False)
            os.close(memory)
        raise


def _reason(error: OSError) -> str:
    """What the system says; HDF5's messages have its number in a long text."""
    found = re.search(r"errno = (\d+)", str(error))
    return os.strerror(int(found[1])) if found else error.strerror or str(error)


def _write_splits(file: h5py.File, splits: Mapping[str, Split], classes: int) -> None:
    whole, blocks, images, sums = WholeHash(), {}, {}, {}
    for index, split in enumerate(SPLITS):
        left = sum(splits[other].count for other in SPLITS[index:])
        blocks[split] = BlockHashes(splits[split].count)
        images[split], sums[split] = _write_split(
            file.create_group(split), splits[split], classes, whole, blocks[split], left
        )
    shape, test_shape = (images[split].shape[1:] for split in SPLITS)
    if shape != test_shape:
        raise InputError(
            f"the training images are {by(shape)} and the test images {by(test_shape)}: they must"
            " have the same size"
        )
    channels = sums["train"].shape[1]
    mean, std = mean_and_std(sums["train"], images["train"].size // channels)
    if not any(std):
        raise InputError(
            "all pixels of the training images have the same value in each channel: there is"
            " nothing to learn from"
        )
    file.attrs.update({"mean": mean, "std": std, "sha256": whole.hexdigest()})
    file.attrs["blocks_sha256"] = blocks_sha256(whole.hexdigest(), blocks)


def _write_split(
    group: h5py.Group, split: Split, classes: int, whole: WholeHash, blocks: BlockHashes, left: int
) -> tuple[h5py.Dataset, NDArray[np.int64]]:
    """Write a split and add it to the hashes; return its images and their ``pixel_sums``.

    ``left`` is the number of examples that are not written yet.
    """
    name, images, start, sums = group.name[1:], None, 0, np.zeros((2, 1), np.int64)
    # Chunks have a checksum, which HDF5 verifies at every read.
    chunks = (max(1, min(CHUNK_LABELS, split.count)),)
    labels = group.create_dataset("labels", split.count, np.int64, chunks=chunks, fletcher32=True)
    for batch_images, batch_labels in split.batches:
        if batch_labels.min() < 0 or batch_labels.max() >= classes:
            raise InputError(
                f"the {name} labels go from {batch_labels.min()} to {batch_labels.max()}: for"
                f" {classes} classes they must be 0 to {classes - 1}"
            )
        shape = batch_images.shape[1:]
        if 0 in shape:
            raise InputError(
                f"the {name} images are {by(shape)}: height, width and channels must be at least 1"
            )
        if images is None:
            chunks = (chunk_examples(math.prod(shape), split.count), *shape)
            whole_chunks = len(SPLITS) * math.prod(chunks)  # the last one of each is stored whole
            _require_room(group.file, left * (math.prod(shape) + 8) + whole_chunks)
            images = group.create_dataset(
                "images", (split.count, *shape), np.uint8, chunks=chunks, fletcher32=True
            )
        stop = start + len(batch_images)
        images[start:stop], labels[start:stop] = batch_images, batch_labels
        whole.add(name, batch_images, batch_labels)
        blocks.add(start, leaves_of(batch_images, batch_labels))
        channels = shape[2] if len(shape) == 3 else 1
        sums, start = sums + pixel_sums(batch_images.reshape(-1, channels)), stop
    assert start == split.count
    return images, sums


def _as_utf8(text: str) -> str:
    """A text that HDF5 can hold: bytes of a path that are not UTF-8, and NUL, become escapes."""
    return text.encode(errors="backslashreplace").decode().replace("\0", r"\x00")

"""Reading an image set in HDF5. `data/README.md` describes it.

``/train/images`` uint8 (N, H, W) or (N, H, W, C), ``/train/labels`` integers (N,), ``/test/...`` likewise. Each process opens the file
by itself, read-only, without collective calls and without file locks (which Lustre and NFS may refuse).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from distcnn.errors import InputError

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

SPLITS = ("train", "test")


@dataclass(frozen=True)
class DatasetInfo:
    """What an image set is. ``mean`` and ``std`` are of the training pixels / 255, one per channel; None where the file has none."""

    path: str
    name: str
    source: str
    sha256: str
    classes: int
    image_shape: tuple[int, int, int]
    """(channels, height, width)."""
    examples: Mapping[str, int]
    """How many there are in ``train`` and in ``test``."""
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    chunk_examples: Mapping[str, int]
    """Examples of a chunk of the images in ``train`` and in ``test``, the unit in which HDF5 reads; 1 where there are no chunks."""
    class_names: tuple[str, ...] = ()
    """In the order of the labels; empty where the file has none."""

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.image_shape)


def read_info(path: str | Path) -> DatasetInfo:
    """Read and check what ``path`` holds, without its images. ``InputError`` says what is wrong with it."""
    with _open(path) as file:
        shapes = {split: _check_split(file, path, split) for split in SPLITS}
        if shapes["train"][1:] != shapes["test"][1:]:
            raise InputError(
                f"{path}: /train/images are {by(shapes['train'][1:])} and /test/images {by(shapes['test'][1:])}: they must be of one size"
            )
        height, width, *channels = shapes["train"][1:]
        classes = _classes(file, path)
        image_shape = (channels[0] if channels else 1, height, width)
        return DatasetInfo(
            path=str(path),
            name=_text(file, "name") or Path(path).stem,
            source=_text(file, "source"),
            sha256=_text(file, "sha256"),
            classes=classes,
            image_shape=image_shape,
            examples={split: shapes[split][0] for split in SPLITS},
            mean=_statistic(file, path, "mean", image_shape[0]),
            std=_statistic(file, path, "std", image_shape[0]),
            chunk_examples={split: int((file[f"{split}/images"].chunks or (1,))[0]) for split in SPLITS},
            class_names=_class_names(file, path, classes),
        )


def read_examples(info: DatasetInfo, split: str, span: range) -> tuple[Images, Labels]:
    """The examples ``span`` of a split: images (n, H, W, C) uint8 and labels (n,), each checked to be below ``info.classes``."""
    channels, height, width = info.image_shape
    images, labels = np.empty((len(span), height, width, channels), np.uint8), np.empty(len(span), np.int64)
    with _open(info.path) as file:
        _read_into(info, file, split, span, images, labels)
    return images, labels


class ExampleFile:
    """An image set that is held open, to be read span by span. Threads may share it: h5py lets one read at a time.

    ``InputError`` when it cannot be opened.
    """

    def __init__(self, info: DatasetInfo) -> None:
        self.info = info
        self._held = ExitStack()
        # Without HDF5's cache of chunks, which keeps some MiB of each dataset: a window reads each of its chunks once.
        self._file = self._held.enter_context(_open(info.path, rdcc_nbytes=0))
        self._state = self._size_and_time()

    def read(self, split: str, span: range, images: Images, labels: Labels) -> None:
        """Read the examples ``span`` into ``images`` (n, H, W, C) and ``labels`` (n,).

        ``InputError`` as ``read_examples``, and when the file was changed since it was opened.
        """
        with _told(self.info.path):
            _read_into(self.info, self._file, split, span, images, labels)
            if self._size_and_time() != self._state:  # HDF5 reads zeros past the end of a file that was cut off
                raise InputError(f"{self.info.path} was changed while it was read: put it back as it was, then --resume the run")

    def _size_and_time(self) -> tuple[int, int]:
        state = os.fstat(self._file.id.get_vfd_handle())
        return state.st_size, state.st_mtime_ns

    def close(self) -> None:
        """Nothing can be read from now on."""
        self._held.close()


def _read_into(info: DatasetInfo, file: h5py.File, split: str, span: range, images: Images, labels: Labels) -> None:
    rows, stored = slice(span.start, span.stop), file[f"{split}/images"]
    try:
        if len(span):
            stored.read_direct(images.reshape(-1, *stored.shape[1:]), rows)
        labels[...] = file[f"{split}/labels"][rows].astype(np.int64)
    except OSError as error:
        raise InputError(
            f"{info.path}: /{split} cannot be read, examples {span.start} to {span.stop} ({_short(error)}): make the file again"
        ) from error
    wrong = np.flatnonzero((labels < 0) | (labels >= info.classes))
    if wrong.size:
        raise InputError(
            f"{info.path}: /{split}/labels[{span.start + wrong[0]}] is {labels[wrong[0]]}, out of range for {info.classes} classes: "
            f"labels must be 0 to {info.classes - 1} (attribute 'classes' says how many)"
        )


@contextmanager
def _open(path: str | Path, **options: int) -> Iterator[h5py.File]:
    if not os.path.exists(path):  # noqa: PTH110  (Path's raises for a name that is too long)
        raise InputError(f"no such file: {path}: name a prepared image set with --data (data/README.md says how to make one)")
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder: --data takes one HDF5 file (data/README.md says how to make one)")
    if not Path(path).is_file():
        raise InputError(f"{path} is no regular file: --data takes one HDF5 file (data/README.md says how to make one)")
    try:
        with Path(path).open("rb") as probe:  # where a file system hangs, it hangs here: HDF5 would stop all threads with it
            probe.read(1)
        file = h5py.File(path, "r", locking=False, **options)
    except OSError as error:
        if isinstance(error, PermissionError):
            raise InputError(f"{path} may not be read: check its permissions") from error
        raise InputError(f"{path} is not a whole HDF5 file ({_short(error)}): prepare it again (data/README.md says how)") from error
    with _told(path), file:
        yield file


@contextmanager
def _told(path: str | Path) -> Iterator[None]:
    """What h5py raises, as an ``InputError``."""
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(f"{path} is damaged ({_short(error)}): prepare it again (data/README.md says how)") from error


def _check_split(file: h5py.File, path: str | Path, split: str) -> tuple[int, ...]:
    """The shape of the split's images, once it and the labels are as the format says."""
    images, labels = (_dataset(file, path, f"{split}/{key}") for key in ("images", "labels"))
    if images.dtype != np.uint8:
        raise InputError(f"{path}: /{split}/images is {images.dtype}, it must be uint8 (0 to 255)")
    if images.ndim not in (3, 4):
        raise InputError(f"{path}: /{split}/images has shape {images.shape}, it must be (N, height, width) or (N, height, width, channels)")
    if labels.dtype.kind not in "iu":
        raise InputError(f"{path}: /{split}/labels is {labels.dtype}, it must be an integer type")
    if labels.ndim != 1 or labels.shape[0] != images.shape[0]:
        raise InputError(f"{path}: /{split}/labels has shape {labels.shape}, it must be ({images.shape[0]},): one label for each image")
    if images.shape[0] == 0:
        raise InputError(f"{path}: /{split} is empty: it must hold at least one example")
    if 0 in images.shape:
        raise InputError(f"{path}: /{split}/images has shape {images.shape}: height, width and channels must be at least 1")
    return tuple(int(each) for each in images.shape)


def _dataset(file: h5py.File, path: str | Path, name: str) -> h5py.Dataset:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{path}: dataset /{name} is missing: the format needs images and labels in /train and /test (data/README.md)")
    return found


def _text(file: h5py.File, name: str) -> str:
    try:
        value = file.attrs.get(name, "")
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise InputError(f"{file.filename}: attribute '{name}' is no UTF-8 ({error}): write it as UTF-8") from error


def _classes(file: h5py.File, path: str | Path) -> int:
    """Attribute ``classes``, a number or the classes' names; without it, one more than the largest label."""
    if "classes" in file.attrs:
        value = np.asarray(file.attrs["classes"])
    else:
        try:
            value = np.asarray(1 + max(int(file[f"{split}/labels"][:].max()) for split in SPLITS))
        except OSError as error:
            raise InputError(f"{path}: the labels of train or test cannot be read ({_short(error)}): make the file again") from error
    if value.dtype.kind in "iu" and value.size == 1:
        classes = value.item()
    else:
        classes = value.size if value.ndim == 1 and value.dtype.kind in "OSU" else None
    if classes is None or classes < 1:
        raise InputError(f"{path}: attribute 'classes' is {value.tolist()!r}: it must be the number of classes, at least 1, or their names")
    return int(classes)


def _class_names(file: h5py.File, path: str | Path, classes: int) -> tuple[str, ...]:
    """Attribute ``class_names``, else the names in ``classes``, else none."""
    for name in ("class_names", "classes"):
        values = np.asarray(file.attrs.get(name, ()))
        if values.ndim == 1 and values.size and values.dtype.kind in "OSU":
            if values.size != classes:
                raise InputError(f"{path}: attribute '{name}' has {values.size} names for {classes} classes: name each class once")
            return tuple(_utf8(each) for each in values.tolist())
    return ()


def _utf8(text: str | bytes) -> str:
    encoded = text if isinstance(text, bytes) else str(text).encode(errors="replace")
    return encoded.decode(errors="replace")


def _statistic(file: h5py.File, path: str | Path, name: str, channels: int) -> tuple[float, ...] | None:
    if name not in file.attrs:
        return None
    try:
        values = np.asarray(file.attrs[name], dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        values = np.array([math.nan])
    if values.size not in (1, channels) or not np.all(np.isfinite(values)) or (name == "std" and np.any(values < 0)):
        raise InputError(
            f"{path}: attribute '{name}' is {file.attrs[name]!r}: it must be one finite number, or one for each of the {channels} channels "
            "(of the pixels / 255); leave it out to have it computed"
        )
    return tuple(np.broadcast_to(values, (channels,)).tolist())


def by(shape: tuple[int, ...]) -> str:
    """A shape as people write it: 28x28."""
    return "x".join(map(str, shape))


def _short(error: BaseException) -> str:
    text = str(error)
    return text[text.find("(") + 1 : text.rfind(")")] if "(" in text and ")" in text else text.splitlines()[0]

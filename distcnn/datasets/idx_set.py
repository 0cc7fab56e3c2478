"""Four IDX files as an image set, read in pieces, whatever their size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.hdf5 import SPLITS, Images
from distcnn.datasets.idx import PARTS, find_idx, open_idx, usual_name
from distcnn.datasets.layout import some
from distcnn.datasets.writer import Split, chunk_examples, write_dataset
from distcnn.errors import InputError
from distcnn.system.wording import counted, plural

IdxPaths = Mapping[tuple[str, str], Path]
"""The files by split (``train``, ``test``) and part (``images``, ``labels``)."""

MAX_LABELS = 256
"""Labels are bytes."""

LABELS_AT_ONCE = 2**20


def find_set(folder: Path, split: str, part: str) -> Path:
    """The one file in ``folder`` that is named as this part of a set.

    ``InputError`` when there is none, or several.
    """
    paths = find_idx(folder, split, part)
    name = usual_name(split, part)
    stems = {str(path).removesuffix(".gz") for path in paths}
    if not paths:
        raise InputError(
            f"{folder / name}[.gz] is not there: name the folder of the IDX files, or the file with"
            f" --{split}-{part} FILE"
        )
    if len(stems) > 1 and paths[0].name.removesuffix(".gz") != name:
        raise InputError(
            f"{folder} holds several: {', '.join(sorted(path.name for path in paths))}: name one"
            f" with --{split}-{part} FILE"
        )
    return paths[0]


def write_idx_set(
    output: str | Path,
    paths: IdxPaths,
    *,
    name: str,
    source: str,
    classes: int | None,
    first_label: int,
    warn: Callable[[str], None],
) -> dict[str, list[int]]:
    """Write the four files as an image set; return how many images each class has in each split.

    ``first_label`` becomes class 0. ``classes`` None: as many as the largest label makes. ``warn``
    takes lines about classes without images. ``InputError`` for files that are damaged or do not
    fit together.
    """
    if classes is not None and not 1 <= classes <= MAX_LABELS:
        raise InputError(
            f"--classes is {classes}: it must be at least 1 and, as IDX labels are bytes, at most"
            f" {MAX_LABELS}"
        )
    sizes = {
        split: _check_shapes(paths[split, "images"], paths[split, "labels"]) for split in SPLITS
    }
    by_label = {split: _count_labels(paths[split, "labels"]) for split in SPLITS}
    found = np.flatnonzero(by_label["train"] + by_label["test"])
    if found[0] < first_label or first_label < 0:
        raise InputError(
            f"--first-label is {first_label}, but the smallest label is {found[0]}: it must be 0 to"
            f" {found[0]}"
        )
    classes = classes or int(found[-1]) + 1 - first_label
    counts = {
        split: np.append(each, np.zeros(classes, int))[first_label:][:classes]
        for split, each in by_label.items()
    }
    with ExitStack() as held:
        splits = {
            split: Split(sizes[split], _batches(held, paths, split, first_label))
            for split in SPLITS
        }
        write_dataset(output, name=name, source=source, classes=classes, splits=splits)
    _warn_of_missing(counts, first_label, int(found[0]), warn)
    return {split: each.tolist() for split, each in counts.items()}


def _check_shapes(images_path: Path, labels_path: Path) -> int:
    """How many images there are, and a label for each.

    ``InputError`` when the shapes do not fit together.
    """
    with open_idx(images_path) as images, open_idx(labels_path) as labels:
        if (
            len(images.shape) not in (3, 4)
            or labels.shape != images.shape[:1]
            or labels.shape[0] == 0
        ):
            raise InputError(
                f"{images_path} has shape {images.shape} and {labels_path} {labels.shape}: they"
                " must be (N, height, width) or (N, height, width, channels), and (N,), N at"
                " least 1"
            )
        return labels.shape[0]


def _count_labels(path: Path) -> NDArray[np.int64]:
    with open_idx(path) as labels:
        counts = np.zeros(MAX_LABELS, np.int64)
        for piece in labels.pieces(LABELS_AT_ONCE):
            counts += np.bincount(piece, minlength=MAX_LABELS)
        return counts


def _warn_of_missing(
    counts: Mapping[str, NDArray[np.int64]],
    first_label: int,
    smallest: int,
    warn: Callable[[str], None],
) -> None:
    for split, each in counts.items():
        if missing := [str(first_label + index) for index in np.flatnonzero(each == 0)]:
            remedy = (
                f": if {smallest} is the label of the first class, give --first-label {smallest}"
                if smallest > first_label
                else ""
            )
            labels = f"{plural(len(missing), 'label')} {some(missing)}"
            warn(
                f"no {split} images for {len(missing)} of {counted(len(each), 'class')}"
                f" ({labels}){remedy}"
            )


def _batches(
    held: ExitStack, paths: IdxPaths, split: str, first_label: int
) -> Iterator[tuple[Images, NDArray[np.int64]]]:
    """Images and labels side by side, from files that stay open until ``held`` ends."""
    images, labels = (held.enter_context(open_idx(paths[split, part])) for part in PARTS)
    items = chunk_examples(images.item_bytes)
    for batch_images, batch_labels in zip(images.pieces(items), labels.pieces(items), strict=True):
        yield batch_images, batch_labels.astype(np.int64) - first_label

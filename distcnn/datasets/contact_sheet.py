"""A picture of an image set: some training images of each class in a row, with the class's name."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcnn import plotting
from distcnn.datasets.examples import ExampleFile
from distcnn.datasets.hdf5 import DatasetInfo, Images, by
from distcnn.system.wording import counted, printable

COLUMNS, FEWER_COLUMNS = 12, 5
MOST_ROWS, MOST_PANELS = 25, 4
"""Classes in a panel, and panels in the picture; further classes are left out."""
LONGEST_SIDE = 96
GAP = 2
CELL, MOST_ASPECT = 0.42, 3
"""Height of an image in inches; further stretched images are drawn smaller."""
MOST_NAME = 24


def draw_contact_sheet(info: DatasetInfo, output: str | Path) -> None:
    """Draw the first training images of each class into ``output``."""
    shown = min(info.classes, MOST_ROWS * MOST_PANELS)
    panels = -(-shown // MOST_ROWS)
    columns = COLUMNS if panels == 1 else FEWER_COLUMNS
    rows = -(-shown // panels)
    found = first_of_each(info, shown, columns)
    _, height, width = info.image_shape
    wide = min(max(width / height, 1 / MOST_ASPECT), MOST_ASPECT)
    size = (panels * (CELL * columns * wide + 1.6), CELL * rows + 0.7)
    left_out = f", the first {shown} shown" if shown < info.classes else ""
    figure = plotting.new_figure(
        *size,
        f"{printable(info.name)}: {counted(info.examples['train'], 'training image')} of"
        f" {by((height, width))}, {counted(info.classes, 'class')}{left_out}",
    )
    for panel, axes in enumerate(plotting.panels(figure, panels)):
        labels = range(panel * rows, min(shown, (panel + 1) * rows))
        mosaic, centers = _mosaic([found[label] for label in labels], columns, info)
        axes.imshow(mosaic, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        plotting.tidy(axes, frame="")
        axes.set_xticks([])
        axes.set_yticks(centers, [plotting.literal(_name(info, label)) for label in labels])
        axes.tick_params(length=0)
    plotting.save(figure, output, "--preview")


def first_of_each(info: DatasetInfo, classes: int, count: int) -> dict[int, list[Images]]:
    """The first ``count`` training images of each class below ``classes``."""
    found: dict[int, list[Images]] = {label: [] for label in range(classes)}
    step = info.chunk_examples["train"]
    with closing(ExampleFile(info)) as reader:
        for start in range(0, info.examples["train"], step):
            stop = min(start + step, info.examples["train"])
            images, labels = reader.load("train", range(start, stop))
            for image, label in zip(images, labels.tolist(), strict=True):
                if label < classes and len(found[label]) < count:
                    found[label].append(image.copy())
            if all(len(own) == count for own in found.values()):
                break
    return found


def _mosaic(
    rows: list[list[Images]], columns: int, info: DatasetInfo
) -> tuple[NDArray[np.uint8], list[float]]:
    """Images in rows on white, and the middle of each row."""
    channels, *sides = info.image_shape
    step = max(1, math.ceil(max(sides) / LONGEST_SIDE))
    height, width = (-(-side // step) for side in sides)
    depth = 3 if channels >= 3 else 1
    whole = np.full((len(rows) * (height + GAP), columns * (width + GAP), depth), 255, np.uint8)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            top, left = row * (height + GAP), column * (width + GAP)
            small = image[::step, ::step, :depth]
            whole[top : top + height, left : left + width] = small
    centers = [row * (height + GAP) + height / 2 for row in range(len(rows))]
    return (whole if depth == 3 else whole[..., 0]), centers


def _name(info: DatasetInfo, label: int) -> Any:
    name = printable(info.class_names[label]) if info.class_names else str(label)
    return name if len(name) <= MOST_NAME else name[: MOST_NAME - 1] + "…"

"""Image sets that need another file, in all the ways in which they can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from tests.support.image_sets import put, write_as_a_user

Build = Callable[[Path, Path], Path]
"""From a folder and a file ``part`` to an image set that needs that part."""


def itself(folder: Path, part: Path) -> Path:
    (folder / "set.h5").symlink_to(part)
    return folder / "set.h5"


def linked(folder: Path, part: Path) -> Path:
    return write_as_a_user(
        folder / "set.h5", put("train/images", h5py.ExternalLink(part.name, "train/images"))
    )


def linked_group(folder: Path, part: Path) -> Path:
    return write_as_a_user(folder / "set.h5", put("test", h5py.ExternalLink(str(part), "/test")))


def linked_twice(folder: Path, part: Path) -> Path:
    with h5py.File(folder / "between.h5", "w") as file:
        file["there"] = h5py.ExternalLink(part.name, "train")
    return write_as_a_user(
        folder / "set.h5",
        put("elsewhere", h5py.ExternalLink("between.h5", "there")),
        put("train", h5py.SoftLink("/elsewhere")),
    )


def virtual(folder: Path, part: Path) -> Path:
    layout = h5py.VirtualLayout((4, 3, 2), np.uint8)
    layout[:] = h5py.VirtualSource(part.name, "train/images", (4, 3, 2))

    def change(file: h5py.File) -> None:
        del file["train/images"]
        file.create_virtual_dataset("train/images", layout)

    return write_as_a_user(folder / "set.h5", change)


WAYS = [itself, linked, linked_group, linked_twice, virtual]

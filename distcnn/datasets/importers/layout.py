"""The training set, test set and classes in a folder of images, recognised by their names.

Guesses are reported, and ambiguous folders are refused. ``find_layout`` has the rules.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from distcnn.datasets.pictures import NAMES, SUFFIXES
from distcnn.errors import InputError
from distcnn.system.wording import counted, first_few

Warn = Callable[[str], None]
Classes = dict[str, list[Path]]
"""The images of each class, the classes sorted by name."""

ROLES = {
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "tst"),
    "val": ("val", "valid", "validation", "validate", "dev", "eval", "evaluation", "holdout"),
}
"""Names of folders that are not classes, in any case and with any ``ENDING``."""
ENDING = re.compile(r"(set|data|images|imgs|split|folder)$")
IMAGE_FOLDERS = {"images", "image", "imgs", "img"}
"""A class folder may hold its images in such a folder, as Tiny ImageNet's do."""
MOST_NESTED = 50
HIDDEN = frozenset(
    ("__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
)
"""Folders that programs leave behind, besides those whose name begins with a dot."""


@dataclass
class Folder:
    """A folder: the images directly in it and its folders, sorted by name, without hidden ones."""

    path: Path
    images: list[Path] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def role(self) -> str | None:
        """The key of ``ROLES`` that the folder is named for, if any."""
        plain = re.sub(r"[\W_]+", "", self.name.casefold())
        names = {plain, ENDING.sub("", plain)}
        return next((role for role, known in ROLES.items() if names & set(known)), None)

    def only_folder(self) -> Folder | None:
        """The one folder in it with images, if there are no other images."""
        found = [child for child in self.folders if child.all_images()]
        return found[0] if len(found) == 1 and not self.images else None

    def name_of_inner(self) -> str:
        """The name of the one folder in it with images, if there are no other images."""
        inner = self.only_folder()
        return inner.name.casefold() if inner else ""

    def inner_images(self) -> list[Path]:
        """The images in folders below it."""
        return [path for folder in self.folders for path in folder.all_images()]

    def all_images(self) -> list[Path]:
        return self.images + self.inner_images()


def find_layout(
    folder: Path, warn: Warn, validation_split: str | None = "drop"
) -> tuple[Classes, Classes | None]:
    """Find the classes in ``folder``: those to train on and to test on.

    It holds either one folder for each class, or folders named for a training, test or validation
    set (``ROLES``) with class folders in them. Without a test set the validation set takes its
    place; without both, the test set must be split off (None). With both, ``validation_split`` is
    what becomes of the validation set: it is left out ("drop"), or joins "test", else "train".
    ``warn`` is called with a line for each thing that is left out or guessed. ``InputError`` when
    images are not in class folders, or the classes of the sets differ.
    """
    if not os.path.isdir(folder):  # noqa: PTH112  (Path's raises for a name that is too long)
        raise InputError(
            f"no such folder: {folder}: name the folder that holds one folder of images for each"
            " class"
        )
    top = read_images(folder, warn)
    while (inner := top.only_folder()) and not inner.images and not inner.role:
        warn(f"'{inner.name}' is the only folder in {top.path}, so the set is in it")
        top = inner
    flat = [child for child in top.folders if child.role and child.images]
    flat = [child for child in flat if not child.inner_images()]
    sets = [child for child in top.folders if child.role and child not in flat]
    others = [child for child in top.folders if not child.role and child.all_images()]
    if sets:
        return _find_sets(top, sets, flat, others, warn, validation_split)
    if flat and (len(flat) > 1 or not others):
        raise InputError(
            f"images without class folders in {first_few(child.path for child in flat)}: put the"
            " images of each class into a separate folder"
        )
    if flat:
        warn(f"folder '{flat[0].name}' holds images directly, so it is treated as a class")
    return _classes(top, warn), None


def read_images(folder: Path, warn: Warn) -> Folder:
    """The images in ``folder`` and all below it; ``warn`` is called about what is left out."""
    scan = _Scan()
    top = scan.read(folder)
    scan.report(warn)
    return top


def _find_sets(
    top: Folder,
    sets: list[Folder],
    flat: list[Folder],
    others: list[Folder],
    warn: Warn,
    validation_split: str | None,
) -> tuple[Classes, Classes | None]:
    """The classes in the folders ``sets``; ``flat`` hold images without classes, the names of
    ``others`` do not say which set they are.
    """
    train, test, validation = ([child for child in sets if child.role == role] for role in ROLES)
    joining = validation if test and validation_split != "drop" else []
    tested = test or validation
    if len(train) != 1 or len(tested) > 1:
        raise InputError(
            f"{top.path} holds {first_few(child.name for child in sets)}: it must hold one training"
            " folder ('train') and at most one test folder, each with one folder for each class:"
            " rename or remove the others"
        )
    if others and not tested:
        raise InputError(
            f"{top.path} holds '{train[0].name}' and also"
            f" {first_few(child.name for child in others)}: if this is a class, put its images"
            " directly into it; if it is the training set, move the others away"
        )
    left_out = [(child, "it has no class folders") for child in flat]
    left_out += [(child, "it is not named as a set") for child in others]
    left_out += [(child, "there is a test set") for child in validation if test and not joining]
    for child, why in left_out:
        images = counted(len(child.all_images()), "image")
        warn(f"left out: folder '{child.name}' with {images}: {why}")
    _warn_of_strays(top, warn)
    classes = _classes(train[0], warn)
    if not tested:
        warn(
            f"no test set was found: a part of each class in '{train[0].name}' becomes the test set"
            " (--test-fraction)"
        )
        return classes, None
    test_classes = _same_classes(train[0], tested[0], classes, warn)
    if not test:
        warn(f"no test set was found: '{tested[0].name}' is used as the test set")
    for child in joining:
        into = test_classes if validation_split == "test" else classes
        for name, paths in _same_classes(train[0], child, classes, warn).items():
            into[name] = into[name] + paths
        images = counted(len(child.all_images()), "image")
        name = (test if into is test_classes else train)[0].name
        warn(f"'{child.name}' joins '{name}' with {images} (--validation-split)")
    return classes, test_classes


def _same_classes(train: Folder, other: Folder, classes: Classes, warn: Warn) -> Classes:
    """The classes of ``other``. ``InputError`` unless they are those of ``train``."""
    found = _classes(other, warn)
    if classes.keys() != found.keys():
        differing = sorted(classes.keys() ^ found.keys())
        raise InputError(
            f"the classes of '{train.name}' and '{other.name}' in {train.path.parent} differ:"
            f" {first_few(differing)}: both must hold the same class folders, with images in each"
        )
    return found


def _classes(folder: Folder, warn: Warn) -> Classes:
    """The images of each class folder. ``InputError`` when images are not in class folders."""
    classes = {child.name: child.all_images() for child in folder.folders}
    if not any(classes.values()):
        images = counted(len(folder.images), "image")
        found = f"{images} but no class folders"
        raise InputError(
            f"{folder.path} holds {found if folder.images else f'no folders with {NAMES} files'}:"
            " it must hold one folder of images for each class"
        )
    inner_names = {child.name_of_inner() for child in folder.folders if child.all_images()}
    if not any(child.images for child in folder.folders) and not inner_names <= IMAGE_FOLDERS:
        inner = [child.path for child in folder.folders if child.folders]
        raise InputError(
            f"{folder.path} holds images only one level below its class folders, in"
            f" {first_few(inner)}: name that folder, or move its folders up"
        )
    _warn_of_strays(folder, warn)
    if empty := [name for name, paths in classes.items() if not paths]:
        folders = counted(len(empty), "folder")
        warn(f"left out: {folders} without images in {folder.path}: {first_few(empty)}")
    if nested := [child for child in folder.folders if child.inner_images()]:
        images = counted(sum(len(child.inner_images()) for child in nested), "image")
        warn(
            f"{images} in {folder.path} in folders below a class folder, counted as images of that"
            f" class: {first_few(child.name for child in nested)}"
        )
    return {name: paths for name, paths in classes.items() if paths}


def _warn_of_strays(folder: Folder, warn: Warn) -> None:
    if folder.images:
        images = counted(len(folder.images), "image")
        warn(f"left out: {images} directly in {folder.path}, outside any class folder")


class _Scan:
    """Reads folders and notes what it leaves out."""

    def __init__(self) -> None:
        self._hidden: list[str] = []
        self._others: Counter[str] = Counter()
        self._linked: list[Path] = []
        self._read: set[tuple[int, int]] = set()

    def read(self, path: Path, depth: int = 0) -> Folder:
        """The folder and all below it, also through links, except to a folder read before."""
        folder = Folder(path)
        if depth > MOST_NESTED:
            raise InputError(
                f"{path.parents[MOST_NESTED]} holds folders nested more than"
                f" {MOST_NESTED} deep: remove them, or name one of them"
            )
        try:
            self._read.add(_identity(path))
            for entry in sorted(path.iterdir()):
                self._take(folder, entry, depth)
        except OSError as error:
            raise InputError(
                f"{error.filename or path} cannot be read ({error.strerror}): check its permissions"
            ) from error
        return folder

    def _take(self, folder: Folder, path: Path, depth: int) -> None:
        suffix, is_folder = path.suffix.lower(), os.path.isdir(path)  # noqa: PTH112
        if path.name.startswith(".") or (is_folder and path.name in HIDDEN):
            if is_folder or suffix in SUFFIXES:
                self._hidden.append(path.name)
        elif is_folder and path.is_symlink() and _identity(path) in self._read:
            self._linked.append(path)
        elif is_folder:
            folder.folders.append(self.read(path, depth + 1))
        elif suffix in SUFFIXES:
            folder.images.append(path)
        else:
            self._others[suffix or "without ending"] += 1

    def report(self, warn: Warn) -> None:
        kinds = [f"{count:,} {suffix}" for suffix, count in self._others.most_common()]
        for number, noun, what, names in (
            (len(self._hidden), "hidden item", "", dict.fromkeys(self._hidden)),
            (self._others.total(), "file", f" not named as {NAMES}", kinds),
            (len(self._linked), "link", " to a folder that was already read", self._linked),
        ):
            if number:
                warn(f"left out: {counted(number, noun)}{what}: {first_few(names)}")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino

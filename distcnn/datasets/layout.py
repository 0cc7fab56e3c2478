"""What a folder of images holds: its training and test set and their classes, found by names and by
where the images are.

Guesses are told, and what has two readings is refused. ``find_layout`` has the rules.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from distcnn.datasets.pictures import NAMES, SUFFIXES
from distcnn.errors import InputError
from distcnn.system.wording import counted

Warn = Callable[[str], None]
Classes = dict[str, list[Path]]
"""Each class's images, the classes in the order of their names' characters."""

ROLES = {
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "tst"),
    "val": ("val", "valid", "validation", "validate", "dev", "eval", "evaluation", "holdout"),
}
"""What folders are called that are no classes.

Case, separators and an ending such as in ``training_set`` make no difference.
"""

ENDING = re.compile(r"(set|data|images|imgs|split|folder)$")
HIDDEN = frozenset(
    ("__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
)
"""Folders that programs leave behind, besides all whose name begins with a dot."""

MAX_DEPTH = 32
MANY = 5
"""Names that a message lists."""


@dataclass(frozen=True)
class Layout:
    """The images of ``train`` and ``test`` by class.

    ``test`` is None where it is still to be split off ``train``.
    """

    train: Classes
    test: Classes | None


@dataclass
class Folder:
    """A folder without what is hidden: the images directly in it and its folders, each in the order
    of the names.
    """

    path: Path
    images: list[Path] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)

    def all_images(self) -> list[Path]:
        """The images in it and in all folders below."""
        return [*self.images, *(path for each in self.folders for path in each.all_images())]


def find_layout(folder: Path, warn: Warn) -> Layout:
    """Read what ``folder`` holds.

    Either one folder for each class, or folders that are named for a training, a test or a
    validation set (``ROLES``) with class folders in them. Without a test set the validation set
    takes its place; without both, the test set is to be split off. ``warn`` takes a line for each
    thing that is left out or guessed. ``InputError`` where images are not in class folders, or the
    classes of the sets differ.
    """
    if not os.path.isdir(folder):  # noqa: PTH112  (Path's raises for a name that is too long)
        raise InputError(
            f"no such folder: {folder}: name the folder that holds one folder of images for each"
            " class"
        )
    scan = Scan()
    top = scan.read(folder)
    scan.tell(warn)
    roles = {each.path.name: role for each in top.folders if (role := _role(each.path.name))}
    splits = [each for each in top.folders if each.path.name in roles and _may_be_split(each)]
    flat = [each for each in top.folders if each.path.name in roles and each not in splits]
    others = [each for each in top.folders if each.path.name not in roles and each.all_images()]
    if splits:
        return _split_layout(top, splits, flat, others, roles, warn)
    if flat and (len(flat) > 1 or not others):
        raise InputError(
            f"images without class folders in {some(each.path for each in flat)}: put the images of"
            " each class into a folder of its own"
        )
    if flat:
        warn(f"folder '{flat[0].path.name}' holds images directly, so it is taken for a class")
    return Layout(_classes(top, warn), None)


def _split_layout(
    top: Folder,
    splits: list[Folder],
    flat: list[Folder],
    others: list[Folder],
    roles: dict[str, str],
    warn: Warn,
) -> Layout:
    """The layout of folders for whole sets; ``flat`` ones hold images without classes, ``others``
    are named otherwise.
    """
    by_role = {role: [each for each in splits if roles[each.path.name] == role] for role in ROLES}
    train_folder, test_folder = _choose(top, by_role, others)
    unused = by_role["val"] if by_role["test"] else []
    for folders, why in (
        (flat, "it has no class folders"),
        (others, "it is not named as a set"),
        (unused, "there is a test set"),
    ):
        for each in folders:
            warn(
                f"left out: folder '{each.path.name}' with"
                f" {counted(len(each.all_images()), 'image')}: {why}"
            )
    if top.images:
        warn(
            f"left out: {counted(len(top.images), 'image')} directly in {top.path}, outside of any"
            " class folder"
        )
    train = _classes(train_folder, warn)
    if test_folder is None:
        warn(
            f"without a test set, a part of each class in '{train_folder.path.name}' becomes the"
            " test set (--test-fraction)"
        )
        return Layout(train, None)
    test = _classes(test_folder, warn)
    _check_same_classes(train_folder, train, test_folder, test)
    if not by_role["test"]:
        warn(f"without a test set, '{test_folder.path.name}' becomes the test set")
    return Layout(train, test)


def _choose(
    top: Folder, by_role: dict[str, list[Folder]], others: list[Folder]
) -> tuple[Folder, Folder | None]:
    """The folders to train and to test with.

    ``InputError`` when there is none to train with, or a choice is left.
    """
    if len(by_role["train"]) != 1:
        several = some(each.path.name for each in by_role["train"])
        beside = some(each.path.name for role in ROLES for each in by_role[role])
        problem = (
            f"several training folders ({several})"
            if several
            else f"no training folder beside {beside}"
        )
        raise InputError(
            f"{top.path} holds {problem}: it must hold one 'train' folder with one folder for each"
            " class"
        )
    tested = by_role["test"] or by_role["val"]
    if len(tested) > 1:
        raise InputError(
            f"{top.path} holds {some(each.path.name for each in tested)}: rename or remove all but"
            " one, the test set"
        )
    if not tested and others:
        raise InputError(
            f"{top.path} holds '{by_role['train'][0].path.name}' and also"
            f" {some(each.path.name for each in others)}: if it is a class, put its images directly"
            " into it; if it is the training set, move the others away"
        )
    return by_role["train"][0], tested[0] if tested else None


def _classes(folder: Folder, warn: Warn) -> Classes:
    """Each class folder's images.

    ``InputError`` when the images are directly in ``folder``, or one level deeper than they should
    be.
    """
    classes = {each.path.name: each.all_images() for each in folder.folders}
    if not any(classes.values()):
        images = counted(len(folder.images), "image")
        found = (
            f"holds {images} but no class folders"
            if folder.images
            else f"holds no folders with {NAMES} files"
        )
        raise InputError(f"{folder.path} {found}: it must hold one folder of images for each class")
    if not any(each.images for each in folder.folders):
        inner = [each.path for each in folder.folders if each.folders]
        remedy = (
            f"name {inner[0]}, or move its folders up"
            if len(inner) == 1
            else "name one of them, or move the images up"
        )
        raise InputError(
            f"{folder.path} holds images only one level deeper than in class folders, below"
            f" {some(inner)}: {remedy}"
        )
    if folder.images:
        warn(
            f"left out: {counted(len(folder.images), 'image')} directly in {folder.path}, outside"
            " of any class folder"
        )
    return _named_classes(folder, classes, warn)


def _named_classes(folder: Folder, classes: Classes, warn: Warn) -> Classes:
    """The classes that have images; ``warn`` is told of those without, and of images from folders
    below.
    """
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"class folder {name!a} in {folder.path} has a name that is not UTF-8: rename it"
            ) from error
    if empty := [name for name, paths in classes.items() if not paths]:
        warn(
            f"left out: {counted(len(empty), 'folder')} without images in {folder.path}:"
            f" {some(empty)}"
        )
    if nested := [
        each.path.name for each in folder.folders if not each.images and classes[each.path.name]
    ]:
        warn(
            f"classes in {folder.path} whose images are all in folders below the class folder, not"
            f" in it: {some(nested)}"
        )
    elif below := sum(len(paths) for paths in classes.values()) - sum(
        len(each.images) for each in folder.folders
    ):
        warn(
            f"{counted(below, 'image')} in {folder.path} found in folders below a class folder:"
            " taken for that class"
        )
    return {name: paths for name, paths in classes.items() if paths}


def _check_same_classes(
    train_folder: Folder, train: Classes, test_folder: Folder, test: Classes
) -> None:
    differences = [
        f"only '{mine.path.name}' has {some(sorted(names))}"
        for mine, names in (
            (train_folder, train.keys() - test.keys()),
            (test_folder, test.keys() - train.keys()),
        )
        if names
    ]
    if differences:
        raise InputError(
            f"the classes of '{train_folder.path.name}' and '{test_folder.path.name}' in"
            f" {train_folder.path.parent} differ: {'; '.join(differences)}: both must hold the same"
            " class folders, with images in each"
        )


def _may_be_split(folder: Folder) -> bool:
    """Whether a folder holds images in folders of its own, or none at all."""
    return any(each.all_images() for each in folder.folders) or not folder.images


def _role(name: str) -> str | None:
    """Which set a folder is named for, if any."""
    plain = re.sub(r"[\W_]+", "", name.casefold())
    return next(
        (role for role, names in ROLES.items() if {plain, ENDING.sub("", plain)} & set(names)), None
    )


class Scan:
    """Walks folders and remembers what it leaves out."""

    def __init__(self) -> None:
        self._hidden: list[str] = []
        self._others: Counter[str] = Counter()
        self._linked: list[Path] = []
        self._read: set[tuple[int, int]] = set()

    def read(self, path: Path, depth: int = 0) -> Folder:
        """The folder and all below it, through links to folders too, except back to one that was
        read before.
        """
        if depth > MAX_DEPTH:
            raise InputError(f"{path} is more than {MAX_DEPTH} folders deep: move the images up")
        folder = Folder(path)
        try:
            self._read.add(_identity(path))
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
            for entry in entries:
                self._take(folder, entry, depth)
        except OSError as error:
            raise InputError(
                f"{error.filename or path} cannot be read ({error.strerror}): check its permissions"
            ) from error
        return folder

    def _take(self, folder: Folder, entry: os.DirEntry[str], depth: int) -> None:
        path, suffix = (Path(entry.path), os.path.splitext(entry.name)[1].lower())  # noqa: PTH122
        if _is_folder(entry):
            if entry.name.startswith(".") or entry.name in HIDDEN:
                self._hidden.append(entry.name)
            elif entry.is_symlink() and _identity(path) in self._read:
                self._linked.append(path)
            else:
                folder.folders.append(self.read(path, depth + 1))
        elif not entry.name.startswith("."):
            if suffix in SUFFIXES:
                folder.images.append(path)
            else:
                self._others[suffix or "without ending"] += 1
        elif suffix in SUFFIXES:
            self._hidden.append(entry.name)

    def tell(self, warn: Warn) -> None:
        """One line for each kind of thing that was left out."""
        if self._hidden:
            warn(
                f"left out: {counted(len(self._hidden), 'hidden item')}:"
                f" {some(dict.fromkeys(self._hidden))}"
            )
        if self._others:
            kinds = [f"{count:,} {suffix}" for suffix, count in self._others.most_common()]
            warn(
                f"left out: {counted(sum(self._others.values()), 'file')} not named as {NAMES}:"
                f" {some(kinds)}"
            )
        if self._linked:
            warn(
                f"left out: {counted(len(self._linked), 'link')} to a folder that was read already:"
                f" {some(self._linked)}"
            )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; a link that leads nowhere is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def some(names: Iterable[object]) -> str:
    """The first few, and how many more there are."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - MANY} more" if len(texts) > MANY else ""
    return ", ".join(texts[:MANY]) + more

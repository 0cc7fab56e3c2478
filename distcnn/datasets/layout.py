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
HIDDEN = frozenset(
    ("__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
)
"""Folders that programs leave behind, besides those whose name begins with a dot."""
MAX_DEPTH = 32


@dataclass(frozen=True)
class Layout:
    """The images of ``train`` and ``test`` by class; ``test`` None if it must be split off."""

    train: Classes
    test: Classes | None


@dataclass
class Folder:
    """A folder: the images directly in it and its folders, sorted by name, without hidden ones."""

    path: Path
    images: list[Path] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)

    @property
    def role(self) -> str | None:
        """The key of ``ROLES`` that the folder is named for, if any."""
        plain = re.sub(r"[\W_]+", "", self.path.name.casefold())
        names = {plain, ENDING.sub("", plain)}
        return next((role for role, known in ROLES.items() if names & set(known)), None)

    def all_images(self) -> list[Path]:
        """The images in it and in all folders below."""
        below = (path for folder in self.folders for path in folder.all_images())
        return [*self.images, *below]


def find_layout(folder: Path, warn: Warn) -> Layout:
    """Find the classes in ``folder``.

    It holds either one folder for each class, or folders named for a training, test or validation
    set (``ROLES``) with class folders in them. Without a test set the validation set takes its
    place; without both, the test set must be split off.

    Args:
        folder: The folder.
        warn: Called with a line for each thing that is left out or guessed.

    Raises:
        InputError: When images are not in class folders, or the classes of the sets differ.
    """
    if not os.path.isdir(folder):  # noqa: PTH112  (Path's raises for a name that is too long)
        raise InputError(
            f"no such folder: {folder}: name the folder that holds one folder of images for each"
            " class"
        )
    scan = _Scan()
    top = scan.read(folder)
    scan.report(warn)
    sets = [child for child in top.folders if child.role]
    flat = [child for child in sets if child.images and not _has_inner_images(child)]
    others = [child for child in top.folders if not child.role and child.all_images()]
    if len(flat) < len(sets):
        return _find_sets(top, [child for child in sets if child not in flat], flat, others, warn)
    if flat and (len(flat) > 1 or not others):
        raise InputError(
            f"images without class folders in {first_few(child.path for child in flat)}: put the images"
            " of each class into a separate folder"
        )
    if flat:
        warn(f"folder '{flat[0].path.name}' holds images directly, so it is treated as a class")
    return Layout(_classes(top, warn), None)


def _find_sets(
    top: Folder, sets: list[Folder], flat: list[Folder], others: list[Folder], warn: Warn
) -> Layout:
    """The layout from the folders ``sets``; ``flat`` hold images without classes, the names of
    ``others`` do not say which set they are.
    """
    by_role = {role: [child for child in sets if child.role == role] for role in ROLES}
    train_folder, test_folder = _choose(top, by_role, others)
    unused = by_role["val"] if by_role["test"] else []
    left_out = [(child, "it has no class folders") for child in flat]
    left_out += [(child, "it is not named as a set") for child in others]
    left_out += [(child, "there is a test set") for child in unused]
    for child, why in left_out:
        images = counted(len(child.all_images()), "image")
        warn(f"left out: folder '{child.path.name}' with {images}: {why}")
    _warn_of_strays(top, warn)
    train = _classes(train_folder, warn)
    if test_folder is None:
        warn(
            f"there is no test set: a part of each class in '{train_folder.path.name}' becomes the"
            " test set (--test-fraction)"
        )
        return Layout(train, None)
    test = _classes(test_folder, warn)
    pairs = ((train_folder, train.keys() - test.keys()), (test_folder, test.keys() - train.keys()))
    differing = [(child.path.name, first_few(sorted(names))) for child, names in pairs if names]
    if differing:
        differences = "; ".join(f"only '{name}' has {names}" for name, names in differing)
        raise InputError(
            f"the classes of '{train_folder.path.name}' and '{test_folder.path.name}' in"
            f" {top.path} differ: {differences}: both must hold the same class folders,"
            " with images in each"
        )
    if not by_role["test"]:
        warn(f"there is no test set: '{test_folder.path.name}' is used as the test set")
    return Layout(train, test)


def _choose(
    top: Folder, by_role: dict[str, list[Folder]], others: list[Folder]
) -> tuple[Folder, Folder | None]:
    """The training and the test folder. ``InputError`` if there is none or several."""
    training, testing = by_role["train"], by_role["test"] or by_role["val"]
    if len(training) != 1:
        named = first_few(child.path.name for child in training)
        sets = first_few(child.path.name for children in by_role.values() for child in children)
        problem = f"{sets} but no training folder"
        if training:
            problem = f"several training folders ({named})"
        raise InputError(
            f"{top.path} holds {problem}: it must hold one 'train' folder with one folder for each"
            " class"
        )
    if len(testing) > 1:
        raise InputError(
            f"{top.path} holds {first_few(child.path.name for child in testing)}: keep one as the test"
            " set, and rename or remove the others"
        )
    if not testing and others:
        raise InputError(
            f"{top.path} holds '{training[0].path.name}' and also"
            f" {first_few(child.path.name for child in others)}: if this is a class, put its images"
            " directly into it; if it is the training set, move the others away"
        )
    return training[0], testing[0] if testing else None


def _classes(folder: Folder, warn: Warn) -> Classes:
    """The images of each class folder. ``InputError`` when images are not in class folders."""
    classes = {child.path.name: child.all_images() for child in folder.folders}
    if not any(classes.values()):
        images = counted(len(folder.images), "image")
        found = (
            f"{images} but no class folders" if folder.images else f"no folders with {NAMES} files"
        )
        raise InputError(
            f"{folder.path} holds {found}: it must hold one folder of images for each class"
        )
    if not any(child.images for child in folder.folders):
        inner = [child.path for child in folder.folders if child.folders]
        remedy = "name one of these folders, or move the images up"
        if len(inner) == 1:
            remedy = f"name {inner[0]}, or move its folders up"
        raise InputError(
            f"{folder.path} holds images only one level below its class folders, in"
            f" {first_few(inner)}: {remedy}"
        )
    _warn_of_strays(folder, warn)
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"class folder {name!a} in {folder.path} has a name that is not UTF-8: rename it"
            ) from error
    if empty := [name for name, paths in classes.items() if not paths]:
        folders = counted(len(empty), "folder")
        warn(f"left out: {folders} without images in {folder.path}: {first_few(empty)}")
    nested = [child for child in folder.folders if not child.images and child.all_images()]
    below = sum(len(child.all_images()) - len(child.images) for child in folder.folders)
    if nested:
        warn(
            f"classes in {folder.path} whose images are all in folders below the class folder:"
            f" {first_few(child.path.name for child in nested)}"
        )
    elif below:
        warn(
            f"{counted(below, 'image')} in {folder.path} found in folders below a class folder:"
            " counted as images of that class"
        )
    return {name: paths for name, paths in classes.items() if paths}


def _warn_of_strays(folder: Folder, warn: Warn) -> None:
    if folder.images:
        images = counted(len(folder.images), "image")
        warn(f"left out: {images} directly in {folder.path}, outside any class folder")


def _has_inner_images(folder: Folder) -> bool:
    return any(child.all_images() for child in folder.folders)


class _Scan:
    """Reads folders and notes what it leaves out."""

    def __init__(self) -> None:
        self._hidden: list[str] = []
        self._others: Counter[str] = Counter()
        self._linked: list[Path] = []
        self._read: set[tuple[int, int]] = set()

    def read(self, path: Path, depth: int = 0) -> Folder:
        """The folder and all below it, also through links, except to a folder read before."""
        if depth > MAX_DEPTH:
            raise InputError(f"{path} is more than {MAX_DEPTH} folders deep: move the images up")
        folder = Folder(path)
        try:
            self._read.add(_identity(path))
            for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
                self._take(folder, entry, depth)
        except OSError as error:
            raise InputError(
                f"{error.filename or path} cannot be read ({error.strerror}): check its permissions"
            ) from error
        return folder

    def _take(self, folder: Folder, entry: os.DirEntry[str], depth: int) -> None:
        path, suffix = Path(entry.path), os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
        hidden = entry.name.startswith(".")
        if _is_folder(entry):
            if hidden or entry.name in HIDDEN:
                self._hidden.append(entry.name)
            elif entry.is_symlink() and _identity(path) in self._read:
                self._linked.append(path)
            else:
                folder.folders.append(self.read(path, depth + 1))
        elif suffix in SUFFIXES:
            (self._hidden.append(entry.name) if hidden else folder.images.append(path))
        elif not hidden:
            self._others[suffix or "without ending"] += 1

    def report(self, warn: Warn) -> None:
        """A line for each kind of thing that was left out."""
        kinds = [f"{count:,} {suffix}" for suffix, count in self._others.most_common()]
        hidden, others = counted(len(self._hidden), "hidden item"), sum(self._others.values())
        if self._hidden:
            warn(f"left out: {hidden}: {first_few(dict.fromkeys(self._hidden))}")
        if kinds:
            warn(f"left out: {counted(others, 'file')} not named as {NAMES}: {first_few(kinds)}")
        if self._linked:
            links = counted(len(self._linked), "link")
            warn(f"left out: {links} to a folder that was already read: {first_few(self._linked)}")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; a broken link is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino

"""Labels of any form as class numbers from 0: integers, floats, text, or one-hot."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.hdf5 import MOST_CLASSES
from distcnn.datasets.importers.source import Array, Notify, as_text
from distcnn.errors import InputError
from distcnn.system.wording import being, counted, first_few

Codes = dict[str, NDArray[np.int64]]
"""Class numbers by split."""
LEAST_DENSE = 0.5
"""Integer labels keep their gaps if at least this share of the numbers in their range occurs."""
MOST_LABELS_OF_FEW = 100
"""More different labels need at least two examples each."""


def natural(name: str) -> tuple[list[Any], str]:
    """A sort key: numbers in names by value (1, 2, 10), all else by characters."""
    parts: list[Any] = list(re.split(r"([0-9]+)", name))
    stripped = [digits.lstrip("0") for digits in parts[1::2]]
    parts[1::2] = [(len(digits), digits) for digits in stripped]  # by value, however long
    return parts, name


def encode(
    labels: Mapping[str, Array],
    classes: Mapping[int, str],
    class_names: Sequence[str],
    notify: Notify,
) -> tuple[Codes, list[str]]:
    """Class numbers for all ``labels``, and the name of each class (empty if there are none).

    Args:
        labels: By split, in any form.
        classes: The source's name of each label, in the order of the class numbers.
        class_names: The user's names, in that order.
        notify: Called with a line for each conversion.

    Raises:
        InputError: For labels that do not give one class for each image.
    """
    flat = {split: _flat(array, f"the {split} labels", notify) for split, array in labels.items()}
    whole = np.concatenate(list(flat.values()))
    if whole.dtype.kind in "US":
        whole, names = _of_texts([as_text(value) for value in whole.tolist()], notify)
    elif classes:
        whole, names = _of_known(whole, classes)
    else:
        whole, names = _of_numbers(whole, notify)
    found = len(np.unique(whole))
    if found > max(MOST_LABELS_OF_FEW, len(whole) // 2) or found > MOST_CLASSES:
        raise InputError(
            f"the labels have {found:,} different values for {len(whole):,} images: name the right"
            " array or column with --labels NAME"
        )
    count = max(len(names), int(whole.max()) + 1)
    if class_names:
        if len(class_names) < count:
            raise InputError(
                f"--class-names gives {counted(len(class_names), 'name')}, but there are"
                f" {counted(count, 'class')}: give one name for each class"
            )
        if len(set(class_names)) < len(class_names):
            raise InputError("--class-names gives the same name twice: names must differ")
        names = list(class_names)
    stops = np.cumsum([len(array) for array in flat.values()])[:-1]
    return dict(zip(flat, np.split(whole, stops), strict=True)), names


def _flat(labels: Array, name: str, notify: Notify) -> Array:
    """One number or text for each example: (N,)."""
    if labels.dtype.kind == "O":
        labels = np.array([as_text(value) for value in labels.ravel().tolist()]).reshape(
            labels.shape
        )
    if labels.dtype.kind not in "biufUS":
        raise InputError(f"{name} are {labels.dtype}: they must be numbers or text")
    if labels.ndim == 2 and 1 in labels.shape[1:]:
        labels = labels[:, 0]
    if labels.ndim == 1:
        return labels
    if labels.ndim != 2 or labels.dtype.kind not in "biuf":
        raise InputError(f"{name} have shape {labels.shape}: there must be one for each image")
    if not (((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()):
        raise InputError(
            f"{name} have shape {labels.shape} and are not one-hot (one 1 in each row): each image"
            " must belong to one class"
        )
    notify(f"{name} are one-hot: converted to class numbers 0 to {labels.shape[1] - 1}")
    numbers: Array = labels.argmax(axis=1)
    return numbers


def _of_texts(texts: Sequence[str], notify: Notify) -> tuple[NDArray[np.int64], list[str]]:
    """Texts, numbered in natural order."""
    names = sorted(set(texts), key=natural)
    notify(f"labels are text: classes are numbered in natural order ({first_few(names)})")
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[text] for text in texts], np.int64), names


def _of_known(labels: Array, classes: Mapping[int, str]) -> tuple[NDArray[np.int64], list[str]]:
    """Labels that the source names."""
    whole = _whole(labels)
    values = np.array(list(classes), np.int64)
    order = np.argsort(values)
    places = np.minimum(np.searchsorted(values[order], whole), len(values) - 1)
    codes = order[places]
    if (wrong := np.flatnonzero(values[codes] != whole)).size:
        label = int(whole[wrong[0]])
        why = "it is damaged"
        if label == -1:
            why = "these images have no label; name only the files of splits that have labels"
        raise InputError(
            f"{being(wrong.size, 'label')} not among the {counted(len(values), 'class')} that the"
            f" source names, such as {label}: {why}"
        )
    return codes.astype(np.int64), list(classes.values())


def _of_numbers(labels: Array, notify: Notify) -> tuple[NDArray[np.int64], list[str]]:
    """Labels shifted to begin at 0; numbered by value if they have large gaps or signs."""
    whole = _whole(labels)
    values = np.unique(whole)
    low, high = int(values[0]), int(values[-1])
    is_dense = len(values) >= LEAST_DENSE * (high - min(low, 1) + 1)
    if low >= 0 and is_dense and low <= 1:
        if low == 0:
            return whole, []
        notify(f"labels go from 1 to {high}: class numbers are one less")
        return whole - 1, [str(label) for label in range(1, high + 1)]
    names = [str(value) for value in values.tolist()]
    notify(f"labels are {first_few(names)}: classes are numbered from 0")
    return np.searchsorted(values, whole).astype(np.int64), names


def _whole(labels: Array) -> NDArray[np.int64]:
    """Labels as integers. ``InputError`` for fractions and NaN."""
    limit = 2**53
    with np.errstate(invalid="ignore"):
        is_whole = (np.abs(labels.astype(np.float64)) < limit) & (labels == np.rint(labels * 1.0))
    if not is_whole.all():
        index = int(np.flatnonzero(~is_whole)[0])
        raise InputError(
            f"label {index} is {labels[index]}: labels must be text, or whole numbers below 2^53;"
            " name the right array or column with --labels NAME"
        )
    return labels.astype(np.int64)

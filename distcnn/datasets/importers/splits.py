"""Training and test examples of a source: a test split that is cut out by class, a validation split
that joins the training split, and random order for what is sorted by class.

All of it depends on the source and the seed alone, not on NumPy's version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.importers.source import Examples, Notify, Options, Rows, join
from distcnn.errors import InputError
from distcnn.random_streams import FOLDER_ORDER, FOLDER_SPLIT, MAX_SEED, generator
from distcnn.system.wording import first_few

T = TypeVar("T")

DEFAULT_FRACTION = 0.2


def fraction_of(options: Options) -> float:
    """The part of each class that becomes the test split. ``InputError`` if it or the seed is not
    in range.
    """
    fraction = DEFAULT_FRACTION if options.test_fraction is None else options.test_fraction
    if not 0 < fraction < 1:
        raise InputError(f"--test-fraction is {fraction:g}: it must be above 0 and below 1")
    if not 0 <= options.seed <= MAX_SEED:
        raise InputError(f"--seed is {options.seed}: it must be 0 to {MAX_SEED}")
    return fraction


def cut_notice(fraction: float, seed: int) -> str:
    """What to say when a test split is cut out."""
    return (
        f"no test split: {100 * fraction:g} % of each class becomes the test split"
        f" (--test-fraction, --seed {seed})"
    )


def shuffled(count: int, seed: int, purpose: int, index: int) -> Rows:
    """A random order, from the generator's raw words, which no NumPy version changes."""
    return np.argsort(generator(seed, purpose, index).random_raw(count), kind="stable")


def split_off(
    classes: Mapping[str, Sequence[T]], test_fraction: float, seed: int, warn: Notify
) -> tuple[dict[str, list[T]], dict[str, list[T]]]:
    """Divide the examples of each class; the training set keeps at least one."""
    train, test = {}, {}
    for index, (name, items) in enumerate(classes.items()):
        order = shuffled(len(items), seed, FOLDER_SPLIT, index)
        count = min(max(1, round(test_fraction * len(items))), len(items) - 1)
        test[name] = [items[place] for place in order[:count]]
        train[name] = [items[place] for place in order[count:]]
    if single := [name for name, items in test.items() if not items]:
        warn(f"no test image for classes with only one image: {first_few(single)}")
    return train, test


def with_validation(
    examples: Mapping[str, Examples], options: Options, notify: Notify
) -> dict[str, Examples]:
    """Only "train" and perhaps "test": the validation split becomes a part of one of them.

    It joins the training split if there is a test split, and is the test split otherwise.
    """
    found = dict(examples)
    validation = found.pop("val", None)
    if validation is None:
        if options.validation_split:
            raise InputError("--validation-split is given, but the source has no validation split")
        return found
    becomes = options.validation_split or ("train" if "test" in found else "test")
    count = len(validation.labels)
    if becomes == "drop":
        notify(f"the validation split, {count:,} images, is left out")
        return found
    if becomes not in found:
        notify(f"no test split: the validation split, {count:,} images, becomes the test split")
        return found | {becomes: validation}
    notify(
        f"the validation split, {count:,} images, joins the {becomes} split (--validation-split)"
    )
    return found | {becomes: join([found[becomes], validation])}


def cut(
    codes: NDArray[np.int64], names: Sequence[str], options: Options, notify: Notify
) -> dict[str, Rows]:
    """The rows of a training and a test split of examples with class numbers ``codes``.

    A fraction of each class becomes the test split; both are in random order.
    """
    fraction = fraction_of(options)
    by_class = {
        f"{code} {names[code]}" if names else str(code): np.flatnonzero(codes == code).tolist()
        for code in np.unique(codes)
    }
    notify(cut_notice(fraction, options.seed))
    rows = {}
    for index, (split, chosen) in enumerate(
        zip(("train", "test"), split_off(by_class, fraction, options.seed, notify), strict=True)
    ):
        listed = np.array([row for items in chosen.values() for row in items], np.intp)
        if not listed.size:
            raise InputError(
                f"the {split} split would be empty: each class needs at least 2 images"
            )
        rows[split] = listed[shuffled(len(listed), options.seed, FOLDER_ORDER, index)]
    return rows


def order_of(codes: NDArray[np.int64], options: Options, notify: Notify) -> Rows | None:
    """A random order for training examples that are sorted by class; None to keep theirs."""
    if len(codes) < 2 or (np.diff(codes) < 0).any() or codes[0] == codes[-1]:
        return None
    fraction_of(options)
    notify(f"the training images are sorted by class: shuffled (--seed {options.seed})")
    return shuffled(len(codes), options.seed, FOLDER_ORDER, 0)

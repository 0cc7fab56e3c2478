"""Which folders are sets and which are classes: usual names are known, guesses are reported, and
ambiguous folders are refused.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from distcnn.datasets.importers.folders import Listing, list_images
from distcnn.datasets.importers.layout import Classes, find_layout
from distcnn.datasets.importers.source import Options
from distcnn.errors import InputError


def make(folder: Path, *names: str) -> Path:
    """Make empty files; a name that ends with / is an empty folder; {} in a name stands for 0, 1
    and 2.
    """
    for name in names:
        for path in {folder / name.format(number) for number in range(3)}:
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.touch()
    return folder


def find(folder: Path) -> tuple[Classes, Classes | None, str]:
    """The classes to train on and to test on, and all warnings in one text."""
    said: list[str] = []
    train, test = find_layout(folder, said.append)
    assert not any("\n" in line for line in said)
    return train, test, "\n".join(said)


def listing(
    folder: Path, class_order: str = "natural", seed: int = 0, said: list[str] | None = None
) -> Listing:
    warn = (said if said is not None else []).append
    options = Options(
        test_fraction=0.34, seed=seed, class_order=class_order, validation_split="drop"
    )
    return list_images(folder, options, warn)


def counts(classes: Classes | None) -> dict[str, int] | None:
    return classes and {name: len(paths) for name, paths in classes.items()}


# -- folders for whole sets


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *[("train", "test"), ("training", "testing"), ("Train", "Test"), ("TRAIN", "TEST")],
        *[("training_set", "test_set"), ("trainset", "testset")],
        *[("train", "val"), ("train", "valid"), ("Training", "Validation"), ("train", "dev")],
        *[("train-data", "eval"), ("train_images", "val_images")],
    ],
)
def test_sets_are_known_by_their_usual_names(tmp_path: Path, train: str, test: str) -> None:
    make(tmp_path, f"{train}/a/{{}}.png", f"{train}/b/{{}}.jpg", f"{test}/a/x.png")
    trained, tested, said = find(make(tmp_path, f"{test}/b/x.png"))
    assert counts(trained) == {"a": 3, "b": 3}
    assert tested
    assert {name: paths[0].parent.parent.name for name, paths in tested.items()} == {
        "a": test,
        "b": test,
    }
    assert ("no test set" in said) == (not test.lower().startswith("test"))


@pytest.mark.parametrize(
    ("names", "train", "test", "says"),
    [
        (
            ["train/a/{}.png", "Validation/a/{}.png", "test/a/{}.png"],
            *({"a": 3}, {"a": 3}, ["left out: folder 'Validation' with 3 images"]),
        ),
        (
            ["train/a/{}.png", "train/b/{}.png"],
            *({"a": 3, "b": 3}, None, ["no test set", "--test-fraction"]),
        ),
        (
            ["train/a/{}.png", "train/b/{}.png", "test/{}.png"],
            *({"a": 3, "b": 3}, None, ["left out: folder 'test' with 3 images"]),
        ),
        (
            ["train/a/{}.png", "test/a/{}.png", "extra/a/{}.png", "x.png", "train/x.png"],
            {"a": 3},
            {"a": 3},
            ["'extra' with 3 images", "in, outside any class", "train, outside any class"],
        ),
        (
            ["train/a/{}.png", "test/a/{}.png", "train/.git/x.png", "test/__MACOSX/x.png"],
            *({"a": 3}, {"a": 3}, ["left out: 2 hidden items: __MACOSX, .git"]),
        ),
        (
            ["bus/{}.png", "car/{}.png", "train/{}.png"],
            *({"bus": 3, "car": 3, "train": 3}, None, ["'train' holds images directly"]),
        ),
        (
            ["set/set/train/cats/{}.png", "set/set/test/cats/{}.png"],
            *({"cats": 3}, {"cats": 3}, ["'set' is the only folder in"]),
        ),
        (
            ["cats/images/{}.png", "dogs/Images/{}.png", "dogs/notes/x.txt"],
            *({"cats": 3, "dogs": 3}, None, ["6 images in ", "below a class folder"]),
        ),
        (
            ["a/{}.png", "a/more/deeper/{}.png", "b/{}.png", "more/c/{}.png"],
            {"a": 6, "b": 3, "more": 3},
            None,
            ["6 images in ", "below a class folder", ": a, more"],
        ),
        (
            [
                *["a/{}.png", "b/{}.png", ".DS_Store", ".ipynb_checkpoints/x.png", ".git/x.png"],
                *["__MACOSX/a/x.png", "a/.ipynb_checkpoints/x.png", "a/._0.png", "@eaDir/x.png"],
            ],
            {"a": 3, "b": 3},
            None,
            ["left out: 6 hidden", ".ipynb_checkpoints", "__MACOSX"],
        ),
        (
            ["a/{}.png", "a/{}.heic", "b/{}.png", "b/x.txt", "b/README", "c/", "d/{}.svg"],
            {"a": 3, "b": 3},
            None,
            ["8 files", "3 .heic", "3 .svg", "1 .txt", "1 without ending", "c, d"],
        ),
    ],
    ids=[
        *["validation set", "no test set", "test set without classes", "other folders"],
        *[
            "hidden in sets",
            "a class called train",
            "only folder",
            "images",
            "images below classes",
            "hidden",
            "others",
        ],
    ],
)
def test_what_is_guessed_or_left_out_is_reported(
    tmp_path: Path,
    names: list[str],
    train: dict[str, int],
    test: dict[str, int] | None,
    says: list[str],
) -> None:
    trained, tested, said = find(make(tmp_path / "in", *names))
    assert (counts(trained), counts(tested)) == (train, test)
    for each in says:
        assert each in said


@pytest.mark.parametrize(
    ("names", "says"),
    [
        # sets that are missing or ambiguous
        (["test/a/x.png", "val/a/x.png"], ["test, val: it must hold one training folder"]),
        (["test/a/x.png"], ["it must hold one training folder"]),
        (["train/a/x.png", "training/a/x.png", "test/a/x.png"], ["test, train, training"]),
        (["train/a/x.png", "test/a/x.png", "Testing/a/x.png"], ["Testing, test, train", "rename"]),
        (["train/a/x.png", "val/a/x.png", "valid/a/x.png"], ["val, valid"]),
        (["train/x.png", "test/x.png"], ["train", "test", "without class folders"]),
        (["train/x.png", "test/x.png", "extra/x.png"], ["without class folders"]),
        (["train/x.png"], ["without class folders"]),
        (["train/a/x.png", "cats/x.png"], ["'train'", "cats"]),
        (["train/a/x.png", "test/"], ["test"]),
        # images that are not directly in class folders
        (["a/set/cats/{}.png", "b/set/cats/{}.png"], ["one level below", "a, ", "b: name"]),
        (["images/cats/{}.png", "masks/cats/{}.png"], ["one level below", "images", "masks"]),
        (["train/train/cats/{}.png", "test/cats/{}.png"], ["one level below", "train/train"]),
        (["train/cats/{}.png", "test/more/cats/{}.png"], ["one level below", "test/more"]),
        (["{}.png"], ["3 images", "no class folders"]),
        (["a/{}.txt"], ["no folders with PNG"]),
        # classes that differ
        (["train/cats/x.png", "test/cat/x.png"], ["'train' and 'test'", "differ: cat, cats"]),
        (["train/a/x.png", "train/b/x.png", "test/a/x.png"], ["differ: b"]),
        (["train/a/x.png", "valid/a/x.png", "valid/b/x.png"], ["'valid'", "differ: b"]),
        (["train/b/x.png", "test/B/x.png"], ["differ: B, b"]),
        (["train/a/x.png", "train/b/x.png", "test/a/x.png", "test/b/"], ["differ: b"]),
    ],
    ids=lambda each: " ".join(each),
)
def test_other_layouts_are_refused_by_name(
    tmp_path: Path, names: list[str], says: list[str]
) -> None:
    make(tmp_path, *names)
    with pytest.raises(InputError) as raised:
        find_layout(tmp_path, lambda _: None)
    for each in (*says, str(tmp_path)):
        assert each in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "suffix", ["png", "JPG", "jpeg", "jpe", "jfif", "bmp", "gif", "tif", "TIFF", "webp"]
)
def test_all_formats_are_known_by_their_names(tmp_path: Path, suffix: str) -> None:
    assert find(make(tmp_path, f"a/{{}}.{suffix}"))[0::2] == (
        {"a": [tmp_path / f"a/{number}.{suffix}" for number in range(3)]},
        "",
    )


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "{}.png")
    folder = make(tmp_path / "in", "a/{}.png")
    (folder / "b").symlink_to(tmp_path / "elsewhere")
    (folder / "a/again").symlink_to(folder)
    (folder / "b/loop").symlink_to(folder / "b/loop")
    train, _, said = find(folder)
    assert counts(train) == {"a": 3, "b": 3}
    assert "1 link " in said


# -- the order of the classes, and which images are for testing


NAMES = ["1", "2", "10", "B", "a1", "a02", "a10", "b", "x9y8", "x9y10"]


def test_the_class_order_changes_labels_and_nothing_else(tmp_path: Path) -> None:
    make(tmp_path, *(f"{name}/{{}}.png" for name in NAMES))
    one, other = listing(tmp_path), listing(tmp_path, "imagefolder")
    assert (one.class_names, other.class_names) == (NAMES, sorted(NAMES))
    assert one.paths() == other.paths()
    for each in (one, other):
        for files in each.files.values():
            assert all(each.class_names[label] == path.parent.name for path, label in files)


EXPECTED = {0: ("b1 a0", "b0 b2 a1 a2"), 1: ("b2 a2", "b0 a0 b1 a1")}
"""The images for testing and for training, by seed."""


def test_which_images_are_for_testing_depends_on_names_and_seed_alone_and_never_changes(
    tmp_path: Path,
) -> None:
    # Derived from Philox words by our own arithmetic: these are the same with every version of
    # NumPy.
    make(tmp_path / "first", "a/{}.png", "b/{}.png")
    make(tmp_path / "second", "b/{}.png", "a/{}.png")
    for seed, expected in EXPECTED.items():
        for folder in ("first", "second"):
            found = listing(tmp_path / folder, seed=seed)
            names = {
                split: " ".join(f"{path.parent.name}{path.stem}" for path, _ in files)
                for split, files in found.files.items()
            }
            assert (names["test"], names["train"]) == expected


def test_counts_are_by_class_and_split_and_small_classes_are_reported(tmp_path: Path) -> None:
    said: list[str] = []
    make(tmp_path / "in", "a/{}.png", "b/{}.png", "b/{}.jpg", "c/x.png")
    found = listing(tmp_path / "in", said=said)
    counted = {split: Counter(label for _, label in files) for split, files in found.files.items()}
    assert counted == {"train": {0: 2, 1: 4, 2: 1}, "test": {0: 1, 1: 2}}
    assert said == ["no test image for classes with only one image: c"]
    listing(make(tmp_path / "one", "only/{}.png"), said=said)
    assert "'only'" in said[-1]


def test_a_class_name_that_is_not_utf_8_is_found(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    assert listing(make(tmp_path, "a/{}.png", name + "/{}.png")).class_names == ["a", name]

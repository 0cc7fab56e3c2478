"""Which folders are sets and which are classes: usual names are known, guesses are told, and what
has two readings is refused.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distcnn.datasets.folders import Listing, list_images
from distcnn.datasets.layout import Layout, find_layout
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


def find(folder: Path) -> tuple[Layout, str]:
    """The layout, and all warnings in one text."""
    said: list[str] = []
    layout = find_layout(folder, said.append)
    assert not any("\n" in line for line in said)
    return layout, "\n".join(said)


def listing(folder: Path, class_order: str = "natural", seed: int = 0) -> Listing:
    return list_images(
        folder, test_fraction=0.34, seed=seed, class_order=class_order, warn=lambda _: None
    )


def assert_refused(folder: Path, *says: str) -> None:
    with pytest.raises(InputError) as raised:
        find_layout(folder, lambda _: None)
    for each in (*says, str(folder)):
        assert each in str(raised.value)
    assert "\n" not in str(raised.value)


# -- folders for whole sets


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *[
            ("train", "test"),
            ("training", "testing"),
            ("Train", "Test"),
            ("TRAIN", "TEST"),
            ("training_set", "test_set"),
            ("trainset", "testset"),
        ],
        *[
            ("train", "val"),
            ("train", "valid"),
            ("Training", "Validation"),
            ("train-data", "eval"),
            ("train_images", "val_images"),
            ("train", "dev"),
        ],
    ],
)
def test_sets_are_known_by_their_usual_names(tmp_path: Path, train: str, test: str) -> None:
    layout, said = find(
        make(
            tmp_path,
            f"{train}/a/{{}}.png",
            f"{train}/b/{{}}.jpg",
            f"{test}/a/x.png",
            f"{test}/b/x.png",
        )
    )
    assert layout.test is not None
    assert {name: len(paths) for name, paths in layout.train.items()} == {"a": 3, "b": 3}
    assert {name: paths[0].parent.parent.name for name, paths in layout.test.items()} == {
        "a": test,
        "b": test,
    }
    assert ("there is no test set" in said) == (
        test not in ("test", "testing", "Test", "TEST", "test_set", "testset")
    )


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_a_validation_set_beside_a_test_set_is_left_out_and_it_is_said(
    tmp_path: Path, val: str
) -> None:
    layout, said = find(make(tmp_path, "train/a/{}.png", f"{val}/a/{{}}.png", "test/a/{}.png"))
    used = [*layout.train["a"], *(layout.test or {})["a"]]
    assert len(used) == 6
    assert not any(val in path.parts for path in used)
    assert "left out" in said
    assert val in said


def test_a_lone_training_set_is_to_be_split_and_it_is_said(tmp_path: Path) -> None:
    layout, said = find(make(tmp_path, "train/a/{}.png", "train/b/{}.png"))
    assert (list(layout.train), layout.test) == (["a", "b"], None)
    assert "--test-fraction" in said


def test_a_test_set_without_classes_is_left_out_and_it_is_said(tmp_path: Path) -> None:
    layout, said = find(make(tmp_path, "train/a/{}.png", "train/b/{}.png", "test/{}.png"))
    assert layout.test is None
    assert "left out: folder 'test' with 3 images" in said


def test_other_folders_beside_the_sets_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    layout, said = find(
        make(
            tmp_path,
            "train/a/{}.png",
            "test/a/{}.png",
            "extra/a/{}.png",
            "stray.png",
            "train/stray.png",
        )
    )
    assert sum(map(len, layout.train.values())) == 3
    assert "'extra' with 3 images" in said
    assert said.count("outside any class folder") == 2


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["test/a/x.png", "val/a/x.png"], ["no training folder", "test, val"]),
        (["test/a/x.png"], ["no training folder"]),
        (
            ["train/a/x.png", "training/a/x.png", "test/a/x.png"],
            ["several training folders", "train, training"],
        ),
        (
            ["train/a/x.png", "test/a/x.png", "Testing/a/x.png"],
            ["Testing, test", "rename or remove"],
        ),
        (["train/a/x.png", "val/a/x.png", "valid/a/x.png"], ["val, valid"]),
        (["train/x.png", "test/x.png"], ["train", "test", "without class folders"]),
        (["train/x.png", "test/x.png", "extra/x.png"], ["without class folders"]),
        (["train/x.png"], ["without class folders"]),
        (["train/a/x.png", "cats/x.png"], ["'train'", "cats"]),
        (["train/a/x.png", "test/"], ["test"]),
    ],
    ids=" ".join,
)
def test_sets_that_are_missing_or_ambiguous_are_refused(
    tmp_path: Path, names: list[str], says: list[str]
) -> None:
    assert_refused(make(tmp_path, *names), *says)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (["cats", "dogs"], ["cat", "dog"]),
        (["a", "b"], ["a"]),
        (["a"], ["a", "b"]),
        (["a", "b"], ["A", "b"]),
    ],
    ids=["other names", "a class not tested", "a class not trained", "case"],
)
@pytest.mark.parametrize("role", ["test", "valid"])
def test_classes_that_differ_are_refused_by_name(
    tmp_path: Path, train: list[str], test: list[str], role: str
) -> None:
    make(
        tmp_path,
        *(f"train/{name}/x.png" for name in train),
        *(f"{role}/{name}/x.png" for name in test),
    )
    assert_refused(tmp_path, "differ", *(set(train) ^ set(test)), role)


def test_a_class_that_is_empty_in_one_set_is_refused(tmp_path: Path) -> None:
    assert_refused(
        make(tmp_path, "train/a/x.png", "train/b/x.png", "test/a/x.png", "test/b/"), "differ", "b"
    )


# -- class folders


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    layout, said = find(make(tmp_path, "bus/{}.png", "car/{}.png", "train/{}.png"))
    assert list(layout.train) == ["bus", "car", "train"]
    assert "'train'" in said


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["set/cats/{}.png", "set/dogs/{}.png"], ["one level below", "set"]),
        (["set/train/cats/{}.png", "set/test/cats/{}.png"], ["one level below", "set"]),
        (["images/cats/{}.png", "masks/cats/{}.png"], ["one level below", "images", "masks"]),
        (["train/train/cats/{}.png", "test/cats/{}.png"], ["one level below", "train/train"]),
        (["train/cats/{}.png", "test/more/cats/{}.png"], ["one level below", "test/more"]),
        (["{}.png"], ["3 images", "no class folders"]),
        (["a/{}.txt"], ["no folders with PNG"]),
    ],
    ids=lambda each: " ".join(each),
)
def test_images_that_are_not_directly_in_class_folders_are_refused(
    tmp_path: Path, names: list[str], says: list[str]
) -> None:
    assert_refused(make(tmp_path, *names), *says)


def test_images_below_a_class_folder_belong_to_it_and_it_is_said(tmp_path: Path) -> None:
    layout, said = find(make(tmp_path, "a/{}.png", "a/more/deeper/{}.png", "b/{}.png"))
    assert {name: len(paths) for name, paths in layout.train.items()} == {"a": 6, "b": 3}
    assert "3 images" in said


def test_a_class_with_images_only_in_folders_below_is_said_by_name(tmp_path: Path) -> None:
    layout, said = find(make(tmp_path, "cats/{}.png", "more/dogs/{}.png"))
    assert list(layout.train) == ["cats", "more"]
    assert "more" in said


def test_what_is_hidden_is_no_class_and_it_is_said(tmp_path: Path) -> None:
    hidden = (
        ".ipynb_checkpoints/x.png",
        "__MACOSX/a/x.png",
        ".git/x.png",
        "a/.ipynb_checkpoints/x.png",
        "a/._0.png",
        "@eaDir/x.png",
    )
    layout, said = find(make(tmp_path, "a/{}.png", "b/{}.png", ".DS_Store", *hidden))
    assert {name: len(paths) for name, paths in layout.train.items()} == {"a": 3, "b": 3}
    assert "left out: 6 hidden" in said
    assert ".ipynb_checkpoints" in said
    assert "__MACOSX" in said


def test_hidden_folders_inside_of_sets_are_left_out(tmp_path: Path) -> None:
    layout, _ = find(
        make(
            tmp_path,
            "train/a/{}.png",
            "test/a/{}.png",
            "train/.ipynb_checkpoints/x.png",
            "test/__MACOSX/x.png",
        )
    )
    assert (list(layout.train), list(layout.test or [])) == (["a"], ["a"])


@pytest.mark.parametrize(
    "suffix", ["png", "JPG", "jpeg", "jpe", "jfif", "bmp", "gif", "tif", "TIFF", "webp"]
)
def test_all_formats_are_known_by_their_names(tmp_path: Path, suffix: str) -> None:
    layout, said = find(make(tmp_path, f"a/{{}}.{suffix}"))
    assert len(layout.train["a"]) == 3
    assert said == ""


def test_other_files_and_classes_without_images_are_said_with_their_counts(tmp_path: Path) -> None:
    layout, said = find(
        make(
            tmp_path,
            "a/{}.png",
            "a/{}.heic",
            "b/{}.png",
            "b/notes.txt",
            "b/README",
            "c/",
            "d/{}.svg",
        )
    )
    assert list(layout.train) == ["a", "b"]
    for each in ("8 files", "3 .heic", "3 .svg", "1 .txt", "1 without ending", "c, d"):
        assert each in said


def test_a_class_folder_whose_name_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "a/{}.png")
    make(tmp_path, os.fsdecode(b"caf\xe9") + "/x.png")
    assert_refused(tmp_path, "caf", "not UTF-8", "rename")


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "{}.png")
    folder = make(tmp_path / "in", "a/{}.png")
    (folder / "b").symlink_to(tmp_path / "elsewhere")
    (folder / "a/again").symlink_to(folder)
    layout, said = find(folder)
    assert {name: len(paths) for name, paths in layout.train.items()} == {"a": 3, "b": 3}
    assert "1 link " in said


def test_folders_without_end_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "a/" + "deep/" * 50 + "x.png", "a/x.png")
    assert_refused(tmp_path, "folders deep")


def test_a_link_that_leads_nowhere_is_no_folder(tmp_path: Path) -> None:
    make(tmp_path, "a/x.png", "b/x.png")
    (tmp_path / "b/loop").symlink_to(tmp_path / "b/loop")
    layout, _ = find(tmp_path)
    assert list(layout.train) == ["a", "b"]


# -- the order of the classes, and who goes where


NAMES = ["1", "2", "10", "B", "a1", "a02", "a10", "b", "x9y8", "x9y10"]


def test_class_names_are_sorted_naturally_or_as_imagefolder_does(tmp_path: Path) -> None:
    make(tmp_path, *(f"{name}/{{}}.png" for name in NAMES))
    assert listing(tmp_path).class_names == NAMES
    assert listing(tmp_path, "imagefolder").class_names == sorted(NAMES)


def test_the_class_order_changes_labels_and_nothing_else(tmp_path: Path) -> None:
    make(tmp_path, *(f"{name}/{{}}.png" for name in NAMES))
    one, other = listing(tmp_path), listing(tmp_path, "imagefolder")
    for split in ("train", "test"):
        assert [path for path, _ in one.files[split]] == [path for path, _ in other.files[split]]
        for each in (one, other):
            assert [each.class_names[label] for _, label in each.files[split]] == [
                path.parent.name for path, _ in each.files[split]
            ]


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
                split: [f"{path.parent.name}{path.stem}" for path, _ in files]
                for split, files in found.files.items()
            }
            assert (" ".join(names["test"]), " ".join(names["train"])) == expected


def test_counts_are_by_class_and_split(tmp_path: Path) -> None:
    make(tmp_path, "a/{}.png", "b/{}.png", "b/{}.jpg", "c/x.png")
    assert listing(tmp_path).counts() == {"train": [2, 4, 1], "test": [1, 2, 0]}


def test_a_class_with_one_image_is_said_by_name(tmp_path: Path) -> None:
    said: list[str] = []
    list_images(
        make(tmp_path, "a/x.png", "b/{}.png"),
        test_fraction=0.9,
        seed=0,
        class_order="natural",
        warn=said.append,
    )
    assert any("one image" in line and line.endswith("a") for line in said)


def test_a_single_class_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    list_images(
        make(tmp_path, "only/{}.png"),
        test_fraction=0.2,
        seed=0,
        class_order="natural",
        warn=said.append,
    )
    assert any("'only'" in line for line in said)

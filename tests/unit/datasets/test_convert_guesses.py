"""What ``distcnn.convert`` guesses about pixels, labels and splits, and what it asks for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.converting import Converted, convert, refused

RNG = np.random.default_rng(1)
PIXELS = RNG.integers(0, 256, (40, 5, 7)).astype(np.uint8)
PIXELS[0, 0, :2] = 0, 255
LABELS = np.arange(40) % 4


def save(tmp_path: Path, images: Any = PIXELS, labels: Any = LABELS, **more: Any) -> Path:
    path = tmp_path / "set/a.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez(path, images=images, labels=labels, **more)
    return path


def assert_holds(found: Converted, images: NDArray[Any] = PIXELS, labels: Any = LABELS) -> None:
    """Training and test examples together are the given ones, in any order."""
    own = [np.concatenate(parts) for parts in zip(found.train, found.test, strict=True)]
    wanted = images.reshape(len(images), -1)
    pairs = {(image.tobytes(), int(label)) for image, label in zip(*own, strict=True)}
    assert pairs == {(row.tobytes(), int(label)) for row, label in zip(wanted, labels, strict=True)}


# -- pixels


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        ((PIXELS / 255).astype(np.float32), "float32, 0 to 1"),
        ((PIXELS / 255).astype(np.float16), "float16, 0 to 1"),
        (PIXELS / 127.5 - 1, "float64, -1 to 1"),
        (PIXELS.astype(np.float64), "float64, 0 to 255"),
        (PIXELS.astype(np.int64), "int64, 0 to 255"),
        (PIXELS.astype(">u2"), ">u2, 0 to 255"),
    ],
    ids=["0..1", "half", "-1..1", "float", "integer", "big-endian"],
)
def test_pixels_of_other_types_become_the_same_bytes(
    tmp_path: Path, stored: NDArray[Any], says: str
) -> None:
    found = convert(save(tmp_path, stored))
    assert_holds(found)
    assert says in found.said


def test_black_and_white_pixels_are_0_and_255(tmp_path: Path) -> None:
    for stored in (PIXELS > 127, (PIXELS > 127).astype(np.uint8)):
        assert_holds(convert(save(tmp_path, stored)), np.where(PIXELS > 127, 255, 0).astype("u1"))


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        ((PIXELS / 255 - 0.1307) / 0.3081, "perhaps standardised"),
        (PIXELS / 255 * 1.1 - 0.1, "float64, -0.1 to 1"),
        (PIXELS.astype(np.uint16) * 257, "uint16, 0 to 65535"),
        (PIXELS // 15 * 1.0, "float64, 0 to 17"),
    ],
    ids=["standardised", "-0.1..1", "16 bits", "0..17"],
)
def test_other_scales_are_asked_for(tmp_path: Path, stored: NDArray[Any], says: str) -> None:
    path = save(tmp_path, stored)
    said = refused(path)
    assert says in said
    assert "--scale LOW HIGH" in said
    low, high = float(stored.min()), float(stored.max())
    found = convert(path, "--scale", low, high)
    assert found.train[0].max() == 255
    assert "outside --scale" in refused(path, "--scale", low, (low + high) / 2)


def test_a_scale_is_exact(tmp_path: Path) -> None:
    found = convert(save(tmp_path, PIXELS.astype(np.uint16) * 257), "--scale", 0, 65535)
    assert_holds(found)


def test_dark_bytes_are_kept_with_a_remark(tmp_path: Path) -> None:
    found = convert(save(tmp_path, PIXELS // 15))
    assert_holds(found, PIXELS // 15)
    assert "if 17 is white, give the values of black and white with --scale" in found.said


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    stored = PIXELS / 255
    stored[13, 2, 3] = value
    assert "1 value that are not finite" in refused(save(tmp_path, stored))


@pytest.mark.parametrize("stored", [np.full((40, 5, 7), 9, "u1"), np.zeros((40, 5, 7))])
def test_pixels_that_are_all_the_same_are_refused(tmp_path: Path, stored: NDArray[Any]) -> None:
    assert "nothing to learn" in refused(save(tmp_path, stored))


def test_channels_first_are_moved_last(tmp_path: Path) -> None:
    color = RNG.integers(0, 256, (40, 5, 7, 3)).astype(np.uint8)
    found = convert(save(tmp_path, color.transpose(0, 3, 1, 2)))
    assert_holds(found, color)
    assert found.info.image_shape == (3, 5, 7)
    assert "channels first" in found.said
    assert_holds(convert(save(tmp_path, color)), color)
    assert convert(save(tmp_path, color[..., :1])).info.image_shape == (1, 5, 7)


def test_a_layout_that_is_not_clear_is_asked_for(tmp_path: Path) -> None:
    small = RNG.integers(0, 256, (40, 3, 9, 3)).astype(np.uint8)
    path = save(tmp_path, small)
    assert "--layout NHWC" in refused(path)
    assert convert(path, "--layout", "nhwc").info.image_shape == (3, 3, 9)
    assert convert(path, "--layout", "NCHW").info.image_shape == (3, 9, 3)
    many = save(tmp_path, RNG.integers(0, 256, (40, 5, 7, 6)).astype(np.uint8))
    assert "--layout" in refused(many)
    assert convert(many, "--layout", "NHWC").info.image_shape == (6, 5, 7)


def test_rows_and_columns_can_be_swapped(tmp_path: Path) -> None:
    path = save(tmp_path, PIXELS.swapaxes(1, 2))
    assert_holds(convert(path, "--transpose"), PIXELS)


# -- labels


@pytest.mark.parametrize(
    ("labels", "names", "says"),
    [
        (LABELS + 1, ("1", "2", "3", "4"), "labels go from 1 to 4"),
        (LABELS * 10, ("0", "10", "20", "30"), "classes are numbered from 0"),
        (LABELS - 1, ("-1", "0", "1", "2"), "classes are numbered from 0"),
        (LABELS.astype(np.float64), (), ""),
        (LABELS[:, None].astype(np.int8), (), ""),
        (np.eye(4)[LABELS], (), "one-hot"),
        (np.eye(4, dtype=bool)[LABELS], (), "one-hot"),
        (np.array(["n", "o", "p", "q"])[LABELS], ("n", "o", "p", "q"), "labels are text"),
        (np.array([b"2", b"9", b"10", b"30"])[LABELS], ("2", "9", "10", "30"), "labels are text"),
    ],
    ids=["from 1", "gaps", "-1", "float", "column", "one-hot", "bool", "text", "bytes"],
)
def test_labels_become_class_numbers_from_0(
    tmp_path: Path, labels: NDArray[Any], names: tuple[str, ...], says: str
) -> None:
    found = convert(save(tmp_path, labels=labels))
    assert_holds(found)
    assert (found.info.classes, found.info.class_names) == (4, names)
    assert says in found.said


def test_a_missing_class_keeps_its_number(tmp_path: Path) -> None:
    letters = np.array([0, 1, 3, 4])[LABELS]  # sign language has no J
    found = convert(save(tmp_path, labels=letters))
    assert_holds(found, labels=letters)
    assert (found.info.classes, found.info.class_names) == (5, ())


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.eye(4)[LABELS] + np.eye(4)[0], "not one-hot"),
        (LABELS + 0.5, "whole numbers"),
        (np.where(LABELS > 2, np.nan, 1), "whole numbers"),
        (np.array(1j) * LABELS, "must be numbers or text"),
        (LABELS[:39], "one label for each image"),
    ],
    ids=["two classes", "fractions", "nan", "complex", "too few"],
)
def test_labels_that_are_no_classes_are_refused(
    tmp_path: Path, labels: NDArray[Any], says: str
) -> None:
    assert says in refused(save(tmp_path, labels=labels))


def test_an_index_is_not_taken_for_labels(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (300, 4, 4)).astype(np.uint8)
    assert "300 different values" in refused(save(tmp_path, images, np.arange(300)))
    texts = np.array([f"{index}.png" for index in range(300)])
    assert "300 different values" in refused(save(tmp_path, images, texts))


def test_class_names_come_from_a_flag_a_file_or_the_source(tmp_path: Path) -> None:
    path = save(tmp_path)
    assert convert(path, "--class-names", "a, b,c,d").info.class_names == ("a", "b", "c", "d")
    (tmp_path / "names.txt").write_text("é\nb\nc\nd\ne\n")
    found = convert(path, "--class-names", tmp_path / "names.txt")
    assert (found.info.classes, found.info.class_names[0]) == (5, "é")
    assert convert(path, "--class-names", "a\0,b,c,d").info.class_names[0] == r"a\x00"
    assert "2 names, but there are 4 classes" in refused(path, "--class-names", "a,b")
    assert "same name twice" in refused(path, "--class-names", "a,b,c,a")
    assert "no such file" in refused(path, "--class-names", tmp_path / "nowhere")
    named = save(tmp_path, class_names=np.array(["w", "x", "y", "z"]))
    assert convert(named).info.class_names == ("w", "x", "y", "z")
    wrong = save(tmp_path, class_names=np.array(["w", "x", "y"]))
    assert "not among the 3 classes" in refused(wrong)


# -- splits


def test_a_test_split_is_cut_by_class_from_the_seed_alone(tmp_path: Path) -> None:
    path = save(tmp_path)
    found = convert(path, "--test-fraction", "0.3", "--seed", "5")
    assert_holds(found)
    for _, labels in (found.train, found.test):
        assert len(set(np.bincount(labels).tolist())) == 1  # the same share of each class
    assert found.info.examples == {"train": 28, "test": 12}
    assert convert(path, "--test-fraction", "0.3", "--seed", "6").info.sha256 != found.info.sha256
    again = convert(path, "--test-fraction", "0.3", "--seed", "5")
    assert again.info.sha256 == found.info.sha256
    # Philox's raw words, which no version of NumPy changes
    assert hashlib.sha256(found.test[1].tobytes()).hexdigest()[:8] == "a8222601"


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    path = save(tmp_path, PIXELS / 255, np.eye(4)[LABELS])
    first, second = (convert(path, "--name", "x") for _ in range(2))
    contents = [Path(found.info.path).read_bytes() for found in (first, second)]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("fraction", ["0", "1", "-0.5", "nan"])
def test_bad_fractions_are_refused(tmp_path: Path, fraction: str) -> None:
    assert "--test-fraction" in refused(save(tmp_path), f"--test-fraction={fraction}")


def test_a_bad_seed_is_refused(tmp_path: Path) -> None:
    assert "--seed" in refused(save(tmp_path), "--seed", "-1")


def test_training_examples_sorted_by_class_are_shuffled(tmp_path: Path) -> None:
    arrays = {"x_test": PIXELS[:4], "y_test": LABELS[:4]}
    order = np.argsort(LABELS, kind="stable")
    path = tmp_path / "a.npz"
    np.savez(path, x_train=PIXELS[order], y_train=LABELS[order], **arrays)
    found = convert(path)
    assert "sorted by class: shuffled" in found.said
    assert (np.diff(found.train[1]) < 0).any()
    assert sorted(found.train[1].tolist()) == sorted(LABELS.tolist())
    np.savez(path, x_train=PIXELS, y_train=LABELS, **arrays)
    assert convert(path).train[1].tolist() == LABELS.tolist()
    assert "leave it out" in refused(path, "--test-fraction", "0.2")


def test_one_image_in_every_class_is_too_few(tmp_path: Path) -> None:
    path = save(tmp_path, PIXELS[:4], LABELS[:4])
    assert "at least 2 images" in refused(path)


@pytest.mark.parametrize("name", ["picture.png", "picture.svg"])
def test_a_preview_is_drawn(tmp_path: Path, name: str) -> None:
    names = ",".join(f"${index}$ <b>\x1b" for index in range(4))
    convert(save(tmp_path), "--preview", tmp_path / name, "--class-names", names)
    content = (tmp_path / name).read_bytes()
    assert content.startswith(b"\x89PNG") or b"<svg" in content
    assert len(content) > 5000


def test_a_preview_of_many_classes_and_channels(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (400, 4, 130, 2)).astype(np.uint8)
    path = save(tmp_path, images, np.arange(400) % 120)
    convert(path, "--layout", "NHWC", "--preview", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000

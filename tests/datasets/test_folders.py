"""Folders of images: classes by name, one form for all, the same set from the same folder, and bad images refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distcnn.datasets import read_examples, read_info
from distcnn.datasets.folders import write_image_folder
from distcnn.errors import InputError


def save(path: Path, pixels: NDArray[Any], mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def flat(value: int, shape: tuple[int, ...] = (4, 6)) -> NDArray[np.uint8]:
    """An image of one value, by which it is known again."""
    return np.full(shape, value, np.uint8)


def make_classes(folder: Path, classes: Mapping[str, int], suffix: str = ".png", shape: tuple[int, ...] = (4, 6)) -> Path:
    """``classes`` says how many images each has; image i of class number c is flat, 50 * c + i."""
    for number, (name, count) in enumerate(classes.items()):
        for index in range(count):
            save(folder / name / f"{index:03}{suffix}", flat(50 * number + index, shape))
    return folder


def make_set(folder: Path, output: Path, **options: Any) -> dict[str, tuple[NDArray[np.uint8], list[int]]]:
    """Write ``folder`` as ``output`` and read it: images and labels by split."""
    defaults: dict[str, Any] = {"name": "set", "size": None, "grayscale": False, "test_fraction": 0.25, "seed": 0}
    write_image_folder(output, folder, **defaults | options)
    info = read_info(output)
    found = {split: read_examples(info, split, range(count)) for split, count in info.examples.items()}
    return {split: (images, labels.tolist()) for split, (images, labels) in found.items()}


def values(images: NDArray[np.uint8]) -> list[int]:
    """The flat images' values."""
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".jpeg", ".JPG"])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)], ids=["gray", "RGB"])
def test_png_and_jpeg_in_gray_and_color_are_read(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    folder = make_classes(tmp_path / "in", {"a": 8, "b": 8}, suffix, shape)
    found = make_set(folder, tmp_path / "out.h5")
    assert read_info(tmp_path / "out.h5").image_shape == (len(shape) if len(shape) == 3 else 1, 4, 6)
    pairs = [pair for images, labels in found.values() for pair in zip(values(images), labels, strict=True)]
    assert sorted(pairs) == [(50 * label + index, label) for label in (0, 1) for index in range(8)]


def test_pixels_of_a_png_are_kept_as_they_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    save(tmp_path / "in/train/a/1.png", pixels)
    save(tmp_path / "in/test/a/1.png", pixels[::-1])
    found = make_set(tmp_path / "in", tmp_path / "out.h5")
    assert np.array_equal(found["train"][0], pixels[None])
    assert np.array_equal(found["test"][0], pixels[None, ::-1])


def test_classes_are_numbered_by_name_and_named_in_the_file(tmp_path: Path) -> None:
    make_classes(tmp_path / "in", {"zebra": 4, "ant": 4, "Übung": 4})
    found = make_set(tmp_path / "in", tmp_path / "out.h5", name="animals")
    with h5py.File(tmp_path / "out.h5") as file:
        assert list(file.attrs["class_names"]) == ["ant", "zebra", "Übung"]
    info = read_info(tmp_path / "out.h5")
    assert (info.classes, info.name) == (3, "animals")
    assert str(tmp_path / "in") in info.source
    label_of = {0: 1, 1: 0, 2: 2}  # by value // 50: zebra, ant, Übung
    for images, labels in found.values():
        assert labels == [label_of[value // 50] for value in values(images)]


@pytest.mark.parametrize(("test_fraction", "in_test"), [(0.25, 3), (0.5, 6), (0.01, 1), (0.99, 11)])
def test_a_part_of_each_class_becomes_the_test_set(tmp_path: Path, test_fraction: float, in_test: int) -> None:
    folder = make_classes(tmp_path / "in", {"a": 12, "b": 12, "c": 12})
    found = make_set(folder, tmp_path / "out.h5", test_fraction=test_fraction)
    assert np.bincount(found["test"][1]).tolist() == [in_test] * 3
    assert sorted(values(found["train"][0]) + values(found["test"][0])) == [50 * c + i for c in range(3) for i in range(12)]


def test_train_and_test_folders_are_kept_apart(tmp_path: Path) -> None:
    make_classes(tmp_path / "in/train", {"a": 5, "b": 4})
    save(tmp_path / "in/test/b/x.png", flat(200))
    save(tmp_path / "in/test/only-here/y.png", flat(201))
    found = make_set(tmp_path / "in", tmp_path / "out.h5")
    assert sorted(zip(values(found["train"][0]), found["train"][1], strict=True)) == [
        (value, value // 50) for value in (0, 1, 2, 3, 4, 50, 51, 52, 53)
    ]
    assert sorted(zip(values(found["test"][0]), found["test"][1], strict=True)) == [(200, 1), (201, 2)]
    assert read_info(tmp_path / "out.h5").classes == 3


def test_images_in_folders_below_and_files_of_other_kinds(tmp_path: Path) -> None:
    folder = make_classes(tmp_path / "in", {"a": 4, "b": 4})
    save(folder / "a/below/deeper/x.png", flat(99))
    (folder / "a/notes.txt").write_text("no image")
    (folder / "README.md").write_text("no class")
    (folder / "without-images").mkdir()
    found = make_set(folder, tmp_path / "out.h5")
    assert sorted(values(found["train"][0]) + values(found["test"][0])) == [0, 1, 2, 3, 50, 51, 52, 53, 99]
    assert read_info(tmp_path / "out.h5").classes == 2


def test_the_same_folder_gives_the_same_bytes_and_another_seed_another_order(tmp_path: Path) -> None:
    folder = make_classes(tmp_path / "in", {"a": 20, "b": 20})
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        make_set(folder, tmp_path / f"{name}.h5", seed=seed)
    content = {name: (tmp_path / f"{name}.h5").read_bytes() for name in ("first", "again", "other")}
    assert content["first"] == content["again"]
    assert content["first"] != content["other"]


def test_the_order_does_not_depend_on_the_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_classes(tmp_path / "in", {"a": 10, "b": 10})
    in_one_order = make_set(folder, tmp_path / "out.h5")
    for name in ("rglob", "iterdir"):
        listing = getattr(Path, name)
        monkeypatch.setattr(Path, name, lambda *arguments, listing=listing: reversed(list(listing(*arguments))))
    in_the_other = make_set(folder, tmp_path / "out.h5")
    assert values(in_one_order["train"][0]) == values(in_the_other["train"][0])
    assert in_one_order["train"][1] == in_the_other["train"][1]


def test_images_are_shuffled_with_their_labels(tmp_path: Path) -> None:
    found = make_set(make_classes(tmp_path / "in", {"a": 30, "b": 30}), tmp_path / "out.h5")
    images, labels = found["train"]
    assert labels == [value // 50 for value in values(images)]
    assert labels != sorted(labels), "classes that come one after the other leave shards with one class"


def test_more_images_than_a_batch_all_arrive(tmp_path: Path) -> None:
    for index in range(600):
        save(tmp_path / f"in/{'ab'[index % 2]}/{index:03}.png", flat(index % 256, (1, 1)))
    found = make_set(tmp_path / "in", tmp_path / "out.h5", test_fraction=0.1)
    assert len(found["train"][1]) == 540
    assert sorted(values(found["train"][0]) + values(found["test"][0])) == sorted(index % 256 for index in range(600))


# -- one form for all


def test_size_is_height_by_width_and_resizes_all(tmp_path: Path) -> None:
    for index, shape in enumerate([(4, 6), (9, 3), (20, 20), (1, 1)]):
        save(tmp_path / f"in/a/{index}.png", flat(10 * index, shape))
    found = make_set(tmp_path / "in", tmp_path / "out.h5", size=(5, 7))
    assert read_info(tmp_path / "out.h5").image_shape == (1, 5, 7)
    assert sorted(values(found["train"][0]) + values(found["test"][0])) == [0, 10, 20, 30]


def test_grayscale_makes_one_channel_by_luma(tmp_path: Path) -> None:
    for name in ("train", "test"):
        save(tmp_path / "in" / name / "a/red.png", np.tile(np.array([255, 0, 0], np.uint8), (4, 6, 1)))
    found = make_set(tmp_path / "in", tmp_path / "out.h5", grayscale=True)
    assert found["train"][0].shape == (1, 4, 6, 1)
    assert values(found["train"][0]) == [76]  # 0.299 * 255


def test_one_color_image_makes_all_have_three_channels(tmp_path: Path) -> None:
    folder = make_classes(tmp_path / "in", {"a": 5})
    save(folder / "b/color.png", flat(90, (4, 6, 3)))
    found = make_set(folder, tmp_path / "out.h5")
    assert found["train"][0].shape[1:] == (4, 6, 3)
    assert sorted(values(found["train"][0]) + values(found["test"][0])) == [0, 1, 2, 3, 4, 90]


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("P", 3), ("LA", 3), ("RGBA", 3)])
def test_other_kinds_of_png_are_converted(tmp_path: Path, mode: str, channels: int) -> None:
    for index in range(4):
        save(tmp_path / f"in/a/{index}.png", flat(255), mode)
    found = make_set(tmp_path / "in", tmp_path / "out.h5")
    assert found["train"][0].shape == (3, 4, 6, channels)
    assert values(found["train"][0]) == [255] * 3


# -- what is refused


def assert_refused(folder: Path, output: Path, match: str, **options: Any) -> None:
    """It is refused in one line, and there is no output, whole or half made."""
    with pytest.raises(InputError, match=match) as raised:
        make_set(folder, output, **options)
    assert "\n" not in str(raised.value)
    assert list(output.parent.glob("*.h5*")) == list(output.parent.glob(".*")) == []


@pytest.mark.parametrize("layout", ["in/b", "in/test/b"])
def test_images_of_different_sizes_are_refused_with_the_remedy(tmp_path: Path, layout: str) -> None:
    make_classes(tmp_path / ("in/train" if "test" in layout else "in"), {"a": 3})
    save(tmp_path / layout / "odd.png", flat(9, (8, 5)))
    assert_refused(
        tmp_path / "in",
        tmp_path / "out.h5",
        r"\.png is (8x5|4x6) \(height x width\), .*\.png (4x6|8x5): images must be of one size, or give --size HxW",
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("kept", [0, 0.3, 0.6])
def test_a_cut_off_image_is_refused_by_name(tmp_path: Path, suffix: str, kept: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    for name in ("good", "fine", "broken"):
        save(tmp_path / f"in/a/{name}{suffix}", pixels)
    path = tmp_path / f"in/a/broken{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert_refused(tmp_path / "in", tmp_path / "out.h5", rf"broken{suffix} is no image that can be read \(.+\): replace or remove it")


def test_a_png_with_a_damaged_chunk_is_refused_by_name(tmp_path: Path) -> None:
    # Pillow says SyntaxError of it, and only once the pixels before it are read.
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    for name in ("good", "broken"):
        save(tmp_path / f"in/a/{name}.png", pixels)
    path = tmp_path / "in/a/broken.png"
    before, last = path.read_bytes().rsplit(b"IDAT", 1)
    assert b"IDAT" in before
    path.write_bytes(before + b"\0\1\2\3" + last)
    assert_refused(tmp_path / "in", tmp_path / "out.h5", r"broken\.png is no image that can be read \(.+\): replace or remove it")


def test_a_file_that_only_has_the_name_of_an_image_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_classes(tmp_path / "in", {"a": 4})
    (folder / "a/text.png").write_text("no image")
    assert_refused(folder, tmp_path / "out.h5", r"text\.png is no image that can be read")


def test_an_image_that_disappears_while_they_are_read_leaves_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_classes(tmp_path / "in", {"a": 4})
    opened: list[Path] = []
    real = Image.open

    def open_or_lose(path: Path) -> Image.Image:
        opened.append(path)
        if len(opened) == 6:  # all four were looked at; this is the second whose pixels are written
            path.unlink()
        return real(path)

    monkeypatch.setattr(Image, "open", open_or_lose)
    assert_refused(folder, tmp_path / "out.h5", "is no image that can be read")
    assert len(opened) == 6


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert_refused(
        tmp_path / "in", tmp_path / "out.h5", "in holds no folders with PNG or JPEG files: it must hold one folder for each class"
    )
    save(tmp_path / "in/not-in-a-class.png", flat(1))
    (tmp_path / "in/empty-class").mkdir()
    assert_refused(tmp_path / "in", tmp_path / "out.h5", "in holds no folders with PNG or JPEG files")


@pytest.mark.parametrize("empty", ["train", "test"])
def test_an_empty_train_or_test_folder_is_refused_by_name(tmp_path: Path, empty: str) -> None:
    for split in {"train", "test"} - {empty}:
        make_classes(tmp_path / "in" / split, {"a": 3})
    (tmp_path / "in" / empty).mkdir()
    assert_refused(tmp_path / "in", tmp_path / "out.h5", f"in/{empty} holds no folders with PNG or JPEG files")


def test_one_image_in_every_class_is_refused(tmp_path: Path) -> None:
    folder = make_classes(tmp_path / "in", {"a": 1, "b": 1})
    assert_refused(
        folder, tmp_path / "out.h5", "in: no images for the test set: each class needs at least 2 PNG or JPEG files", test_fraction=0.9
    )


def test_one_image_in_one_class_is_for_training(tmp_path: Path) -> None:
    found = make_set(make_classes(tmp_path / "in", {"a": 1, "b": 4}), tmp_path / "out.h5", test_fraction=0.9)
    assert sorted(found["train"][1]) == [0, 1]
    assert found["test"][1] == [1, 1, 1]


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_no_such_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("no folder")
    assert_refused(
        tmp_path / name, tmp_path / "out.h5", rf"no such folder: .*{name}: name the folder that holds one folder of images for each class"
    )


def test_a_png_of_16_bits_is_refused(tmp_path: Path) -> None:
    # Pillow would clip it: an image all white, without a word.
    folder = make_classes(tmp_path / "in", {"a": 4})
    save(folder / "a/deep.png", np.full((4, 6), 1000, np.uint16))
    for grayscale in (False, True):
        assert_refused(folder, tmp_path / "out.h5", r"deep\.png has more than 8 bits a pixel .*: convert it to 8 bits", grayscale=grayscale)


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    assert_refused(make_classes(tmp_path / "in", {"a": 4}), tmp_path / "out.h5", "seed is -1: it must be 0 or more", seed=-1)


def test_an_image_beyond_pillows_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_classes(tmp_path / "in", {"a": 4})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert_refused(folder, tmp_path / "out.h5", r"\.png is no image that can be read \(.*decompression bomb")

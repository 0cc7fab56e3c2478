"""Folders of images: classes by name, one form for all, the same set from the same folder, and bad
images refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distcnn.datasets import pictures, read_examples, read_info
from distcnn.datasets.importers.converting import prepare
from distcnn.datasets.importers.folders import read_folder, warn_of_transparency
from distcnn.datasets.importers.source import Options
from distcnn.errors import InputError


def save(path: Path, image: NDArray[Any] | Image.Image, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if path.suffix == ".webp":
        options["lossless"] = True
    image.save(path, **options)


def save_in_both(folder: Path, image: NDArray[Any] | Image.Image, name: str = "a/x.png") -> None:
    """The image, to train on and to test on."""
    for split in ("train", "test"):
        save(folder / "in" / split / name, image)


def flat(value: int, shape: tuple[int, ...] = (4, 6)) -> NDArray[np.uint8]:
    """An image of one value, by which it is known again."""
    return np.full(shape, value, np.uint8)


def make_classes(
    folder: Path, classes: Mapping[str, int], suffix: str = ".png", shape: tuple[int, ...] = (4, 6)
) -> Path:
    """``classes`` says how many images each has; image i of class number c is flat, 50 * c + i."""
    for number, (name, count) in enumerate(classes.items()):
        for index in range(count):
            save(folder / name / f"{index:03}{suffix}", flat(50 * number + index, shape))
    return folder


def make_set(
    tmp_path: Path, said: list[str] | None = None, output: str = "out.h5", **options: Any
) -> dict[str, tuple[NDArray[np.uint8], list[int]]]:
    """Write the folder ``in`` as ``output`` and read it: images and labels by split.

    ``said`` takes the warnings.
    """
    warn, folder = ([] if said is None else said).append, options.pop("folder", tmp_path / "in")
    name, output_path = options.pop("name", "set"), tmp_path / output
    options = {"test_fraction": 0.25, "validation_split": "drop"} | options
    source = read_folder(folder, Options(**options), warn)
    prepare(source, Options(), warn).write(output_path, name, f"images in {folder}")
    warn_of_transparency(source, warn)
    info = read_info(output_path)
    found = {
        split: read_examples(info, split, range(count)) for split, count in info.examples.items()
    }
    return {split: (images, labels.tolist()) for split, (images, labels) in found.items()}


def values(images: NDArray[np.uint8]) -> list[int]:
    """The flat images' values."""
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


def all_values(found: dict[str, tuple[NDArray[np.uint8], list[int]]]) -> list[int]:
    return sorted(values(found["train"][0]) + values(found["test"][0]))


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".jpeg", ".JPG"])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)], ids=["gray", "RGB"])
def test_png_and_jpeg_in_gray_and_color_are_read(
    tmp_path: Path, suffix: str, shape: tuple[int, ...]
) -> None:
    make_classes(tmp_path / "in", {"a": 8, "b": 8}, suffix, shape)
    found = make_set(tmp_path)
    assert read_info(tmp_path / "out.h5").image_shape == (
        len(shape) if len(shape) == 3 else 1,
        4,
        6,
    )
    pairs = [
        pair
        for images, labels in found.values()
        for pair in zip(values(images), labels, strict=True)
    ]
    assert sorted(pairs) == [(50 * label + index, label) for label in (0, 1) for index in range(8)]


def test_pixels_of_a_png_are_kept_as_they_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    save(tmp_path / "in/train/a/1.png", pixels)
    save(tmp_path / "in/test/a/1.png", pixels[::-1])
    found = make_set(tmp_path)
    assert np.array_equal(found["train"][0], pixels[None])
    assert np.array_equal(found["test"][0], pixels[None, ::-1])


def test_classes_are_numbered_by_name_and_named_in_the_file(tmp_path: Path) -> None:
    make_classes(tmp_path / "in", {"zebra": 4, "ant": 4, "Übung": 4})
    found = make_set(tmp_path, name="animals")
    with h5py.File(tmp_path / "out.h5") as file:
        assert list(file.attrs["class_names"]) == ["ant", "zebra", "Übung"]
    info = read_info(tmp_path / "out.h5")
    assert (info.classes, info.name) == (3, "animals")
    assert str(tmp_path / "in") in info.source
    label_of = {0: 1, 1: 0, 2: 2}  # by value // 50: zebra, ant, Übung
    for images, labels in found.values():
        assert labels == [label_of[value // 50] for value in values(images)]


@pytest.mark.parametrize(("test_fraction", "in_test"), [(0.25, 3), (0.5, 6), (0.01, 1), (0.99, 11)])
def test_a_part_of_each_class_becomes_the_test_set(
    tmp_path: Path, test_fraction: float, in_test: int
) -> None:
    make_classes(tmp_path / "in", {"a": 12, "b": 12, "c": 12})
    found = make_set(tmp_path, test_fraction=test_fraction)
    assert np.bincount(found["test"][1]).tolist() == [in_test] * 3
    assert all_values(found) == [50 * c + i for c in range(3) for i in range(12)]


def test_train_and_test_folders_are_kept_apart(tmp_path: Path) -> None:
    make_classes(tmp_path / "in/train", {"a": 5, "b": 4})
    save(tmp_path / "in/test/a/x.png", flat(200))
    save(tmp_path / "in/test/b/x.png", flat(201))
    found = make_set(tmp_path)
    assert sorted(zip(values(found["train"][0]), found["train"][1], strict=True)) == [
        (value, value // 50) for value in (0, 1, 2, 3, 4, 50, 51, 52, 53)
    ]
    assert sorted(zip(values(found["test"][0]), found["test"][1], strict=True)) == [
        (200, 0),
        (201, 1),
    ]
    assert read_info(tmp_path / "out.h5").classes == 2


def test_the_same_folder_gives_the_same_bytes_and_another_seed_another_order(
    tmp_path: Path,
) -> None:
    make_classes(tmp_path / "in", {"a": 20, "b": 20})
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        make_set(tmp_path, output=f"{name}.h5", seed=seed)
    content = {name: (tmp_path / f"{name}.h5").read_bytes() for name in ("first", "again", "other")}
    assert content["first"] == content["again"]
    assert content["first"] != content["other"]


def test_the_order_does_not_depend_on_the_file_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_classes(tmp_path / "in", {"a": 10, "b": 10})
    in_one_order = make_set(tmp_path)
    for name in ("rglob", "iterdir"):
        listing = getattr(Path, name)
        monkeypatch.setattr(
            Path, name, lambda *arguments, listing=listing: reversed(list(listing(*arguments)))
        )
    in_the_other = make_set(tmp_path)
    assert values(in_one_order["train"][0]) == values(in_the_other["train"][0])
    assert in_one_order["train"][1] == in_the_other["train"][1]


def test_images_are_shuffled_with_their_labels(tmp_path: Path) -> None:
    make_classes(tmp_path / "in", {"a": 30, "b": 30})
    found = make_set(tmp_path)
    images, labels = found["train"]
    assert labels == [value // 50 for value in values(images)]
    assert labels != sorted(labels), (
        "classes that come one after the other leave shards with one class"
    )


def test_more_images_than_a_batch_all_arrive(tmp_path: Path) -> None:
    for index in range(600):
        save(tmp_path / f"in/{'ab'[index % 2]}/{index:03}.png", flat(index % 256, (1, 1)))
    found = make_set(tmp_path, test_fraction=0.1)
    assert len(found["train"][1]) == 540
    assert all_values(found) == sorted(index % 256 for index in range(600))


# -- one form for all


def test_size_is_height_by_width_and_resizes_all(tmp_path: Path) -> None:
    for index, shape in enumerate([(4, 6), (9, 3), (20, 20), (1, 1)]):
        save(tmp_path / f"in/a/{index}.png", flat(10 * index, shape))
    found = make_set(tmp_path, size=(5, 7))
    assert read_info(tmp_path / "out.h5").image_shape == (1, 5, 7)
    assert all_values(found) == [0, 10, 20, 30]


def test_grayscale_makes_one_channel_by_luma(tmp_path: Path) -> None:
    for name, color in (("red", [255, 0, 0]), ("blue", [0, 0, 255])):
        save_in_both(tmp_path, np.tile(np.array(color, np.uint8), (4, 6, 1)), f"a/{name}.png")
    found = make_set(tmp_path, grayscale=True)
    assert found["train"][0].shape == (2, 4, 6, 1)
    assert sorted(values(found["train"][0])) == [29, 76]  # 0.114 * 255 and 0.299 * 255


def test_one_color_image_makes_all_have_three_channels(tmp_path: Path) -> None:
    folder = make_classes(tmp_path / "in", {"a": 5})
    save(folder / "b/color.png", flat(90, (4, 6, 3)))
    found = make_set(tmp_path)
    assert found["train"][0].shape[1:] == (4, 6, 3)
    assert all_values(found) == [0, 1, 2, 3, 4, 90]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".gif", ".webp"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_gray_images_are_one_channel_however_they_are_stored(
    tmp_path: Path, mode: str, suffix: str
) -> None:
    for index in range(4):
        save(
            tmp_path / f"in/a/{index}{suffix}",
            Image.fromarray(flat(255 * (index % 2))).convert(mode),
        )
    found = make_set(tmp_path)
    assert found["train"][0].shape == (3, 4, 6, 1)
    assert all_values(found) == [0, 0, 255, 255]


@pytest.mark.parametrize("mode", ["P", "RGBA"])
def test_one_color_pixel_makes_three_channels_however_it_is_stored(
    tmp_path: Path, mode: str
) -> None:
    folder = make_classes(tmp_path / "in", {"a": 5})
    pixels = flat(90, (4, 6, 3))
    pixels[3, 5] = 255, 0, 0
    save(folder / "b/color.png", Image.fromarray(pixels).convert(mode))
    assert make_set(tmp_path)["train"][0].shape[1:] == (4, 6, 3)


def test_gray_pixels_stored_in_color_stay_three_channels_and_it_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    make_classes(tmp_path / "in", {"a": 5, "b": 5}, shape=(4, 6, 3))
    assert make_set(tmp_path, said)["train"][0].shape[3] == 3
    assert [line for line in said if "--grayscale" in line] == said != []


# -- orientation, transparency, frames


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [None, (4, 6)], ids=["as they are", "resized"])
def test_images_are_turned_upright(
    tmp_path: Path, suffix: str, orientation: int, size: tuple[int, int] | None
) -> None:
    # A bright spot at the top left, and the stored pixels turned and mirrored so that EXIF's
    # orientation brings it back there.
    upright = np.zeros((40, 60), np.uint8)
    upright[:10, :10] = 255
    turned = {
        **{1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1]},
        **{5: upright.T, 6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1)},
    }
    exif = Image.Exif()
    exif[0x112] = orientation
    image = Image.fromarray(np.ascontiguousarray(turned[orientation]))
    for split in ("train", "test"):
        save(tmp_path / "in" / split / f"a/x{suffix}", image, exif=exif)
        save(tmp_path / "in" / split / "b/y.png", upright)
    found = make_set(tmp_path, size=size, grayscale=True)
    for image in found["train"][0]:
        height, width = image.shape[:2]
        assert (height, width) == (size or (40, 60))
        corner = image[: height // 4, : width // 6].mean()
        assert corner > 200
        assert image.sum() < corner * height * width * 0.06


@pytest.mark.parametrize(
    ("ink", "background", "expected"),
    [(0, "white", 255), (255, "black", 0)],
    ids=["black ink", "white ink"],
)
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_ink_on_a_transparent_background_stays_visible_and_it_is_said(
    tmp_path: Path, mode: str, ink: int, background: str, expected: int
) -> None:
    alpha = np.zeros((4, 6), np.uint8)
    alpha[1:3, 2:4] = 255
    said: list[str] = []
    bands = [Image.fromarray(each) for each in [*[flat(ink)] * (len(mode) - 1), alpha]]
    save_in_both(tmp_path, Image.merge(mode, bands))
    found = make_set(tmp_path, said, background=background)
    assert np.array_equal(found["train"][0][0, :, :, 0], np.where(alpha, ink, expected))
    assert any("2 images with transparent pixels" in line and background in line for line in said)


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_color_that_stands_for_transparency_is_transparent_too(tmp_path: Path, mode: str) -> None:
    pixels = flat(255)
    pixels[1, 1:4] = 40
    image = Image.fromarray(pixels).convert(mode)
    image.info["transparency"] = image.getpixel((0, 0))
    save_in_both(tmp_path, image)
    found = make_set(tmp_path, background="black", grayscale=True)
    assert np.array_equal(found["train"][0][0, :, :, 0], np.where(pixels == 255, 0, 40))


def test_images_that_transparency_makes_blank_are_refused(tmp_path: Path) -> None:
    alpha = np.arange(24, dtype=np.uint8).reshape(4, 6)
    save_in_both(tmp_path, Image.merge("LA", [Image.fromarray(flat(255)), Image.fromarray(alpha)]))
    assert_refused(tmp_path, "same value")
    assert make_set(tmp_path, background="black")["train"][0].std() > 0


@pytest.mark.parametrize("suffix", [".png", ".tif", ".gif", ".webp"])
def test_the_first_frame_of_several_is_used_and_it_is_said(tmp_path: Path, suffix: str) -> None:
    said: list[str] = []
    folder = make_classes(tmp_path / "in", {"a": 4})
    frames = [Image.fromarray(flat(value, (4, 6, 3))) for value in (200, 100)]
    path = folder / f"a/several{suffix}"
    save(path, frames[0], save_all=True, append_images=frames[1:])
    found = make_set(tmp_path, said, grayscale=True)
    assert 200 in values(found["train"][0]) + values(found["test"][0])
    assert any(line.startswith("1 image ") and "frames" in line for line in said)


# -- what is refused


def assert_refused(tmp_path: Path, match: str, **options: Any) -> None:
    """It is refused in one line, and there is no output, whole or half made."""
    with pytest.raises(InputError, match=match) as raised:
        make_set(tmp_path, **options)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.glob("*.h5*")) == list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("layout", ["in/b", "in/test/b"])
def test_images_of_different_sizes_are_refused_with_the_remedy(tmp_path: Path, layout: str) -> None:
    for folder in ("in/train", "in/test") if "test" in layout else ("in",):
        make_classes(tmp_path / folder, {"a": 3, "b": 3})
    save(tmp_path / layout / "odd.png", flat(9, (8, 5)))
    assert_refused(
        tmp_path,
        r"\.png is (8x5|4x6) \(height x width\), .*\.png (4x6|8x5): images must have"
        r" the same size, or give --size HxW",
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
    assert_refused(
        tmp_path, rf"broken{suffix} cannot be read as an image \(.+\): replace or remove it"
    )


def test_all_broken_images_are_named_at_once(tmp_path: Path) -> None:
    make_classes(tmp_path / "in", {"a": 4})
    for name in ("x.png", "y.png", "z.png"):
        (tmp_path / "in/a" / name).write_bytes(b"text")
    assert_refused(
        tmp_path, r"cannot be read as an image .* 2 other broken files: .*\.png, .*\.png$"
    )


def test_a_png_with_a_damaged_chunk_is_refused_by_name(tmp_path: Path) -> None:
    # Pillow says SyntaxError of it, and only once the pixels before it are read.
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    for name in ("good", "broken"):
        save(tmp_path / f"in/a/{name}.png", pixels)
    path = tmp_path / "in/a/broken.png"
    before, last = path.read_bytes().rsplit(b"IDAT", 1)
    assert b"IDAT" in before
    path.write_bytes(before + b"\0\1\2\3" + last)
    assert_refused(tmp_path, r"broken\.png cannot be read as an image \(.+\): replace or remove it")


def test_an_image_that_disappears_while_they_are_read_leaves_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_classes(tmp_path / "in", {"a": 4})
    opened: list[Path] = []
    real = pictures.open_named

    def open_or_lose(path: Path) -> BinaryIO:
        opened.append(path)
        if len(opened) == 6:  # all four were looked at; this is the second whose pixels are written
            path.unlink()
        return real(path)

    monkeypatch.setattr(pictures, "open_named", open_or_lose)
    assert_refused(tmp_path, r"\.png cannot be read \(No such file")
    assert len(opened) == 6


def test_an_image_beyond_pillows_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_classes(tmp_path / "in", {"a": 4})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert_refused(tmp_path, r"\.png cannot be read as an image \(.*decompression bomb")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"seed": -1}, "seed is -1: it must be 0 to"),
        ({"seed": 2**64}, "seed is 18446744073709551616: it must be 0 to"),
        ({"folder": Path("nowhere")}, "no such folder: nowhere: name the folder that holds one"),
        ({"folder": Path(__file__)}, "no such folder: .*: name the folder that holds one"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    make_classes(tmp_path / "in", {"a": 4})
    assert_refused(tmp_path, match, **options)


def test_one_image_in_every_class_is_too_few(tmp_path: Path) -> None:
    make_classes(tmp_path / "in", {"a": 1, "b": 1})
    assert_refused(tmp_path, "in: the test set would be empty: each class needs at least 2 images")
    make_classes(tmp_path / "in", {"a": 1, "b": 4})
    found = make_set(tmp_path, test_fraction=0.9)
    assert (sorted(found["train"][1]), found["test"][1]) == ([0, 1], [1, 1, 1])


def test_what_is_no_image_of_8_bits_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_classes(tmp_path / "in", {"a": 4})
    (folder / "a/text.png").write_text("no image")
    assert_refused(tmp_path, r"text\.png cannot be read as an image")
    # Pillow would clip it: an image all white, without a word.
    save(folder / "a/text.png", np.full((4, 6), 1000, np.uint16))
    for grayscale in (False, True):
        match = r"text\.png has more than 8 bits a pixel .*: convert it to 8 bits"
        assert_refused(tmp_path, match, grayscale=grayscale)

"""Reading image sets: files that users make, and everything that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from distcnn.datasets import read_examples, read_info
from distcnn.errors import InputError
from tests.support.image_sets import (
    Change,
    assert_one_line_about,
    assert_refused,
    damage_compressed,
    make_arrays,
    put,
    write_as_a_user,
)


def images(*shape: int) -> list[Change]:
    """Black images of this shape in both splits."""
    return [put(f"{split}/images", np.zeros(shape, np.uint8)) for split in ("train", "test")]


# -- files that users make


def test_a_file_without_attributes_is_an_image_set(tmp_path: Path) -> None:
    info = read_info(write_as_a_user(tmp_path / "mine.h5"))
    assert (info.name, info.source, info.sha256) == ("mine", "", "")
    assert (info.classes, info.image_shape, info.mean, info.std) == (4, (1, 3, 2), None, None)
    images, labels = read_examples(info, "test", range(1, 3))
    assert images.tolist() == np.arange(6, 18).reshape(2, 3, 2, 1).tolist()
    assert labels.tolist() == [1, 2]


def test_without_classes_the_largest_label_of_both_splits_counts(tmp_path: Path) -> None:
    path = write_as_a_user(tmp_path / "a.h5", put("test/labels", np.array([0, 1, 2, 7])))
    assert read_info(path).classes == 8


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", ">i4", "uint64"])
def test_labels_of_any_integer_type_are_read(tmp_path: Path, dtype: str) -> None:
    info = read_info(
        write_as_a_user(tmp_path / "a.h5", put("train/labels", np.arange(4).astype(dtype)))
    )
    labels = read_examples(info, "train", range(4))[1]
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (5, 5),
        (["cat", "dog", "bird", "newt"], 4),
        (np.array([b"cat", b"dog", b"bird", b"newt", b"ox"]), 5),
    ],
    ids=["number", "names", "byte names"],
)
def test_classes_may_be_a_number_or_the_names(tmp_path: Path, classes: Any, expected: int) -> None:
    assert (
        read_info(write_as_a_user(tmp_path / "a.h5", attributes={"classes": classes})).classes
        == expected
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, (0.5, 0.5, 0.5)),
        ([0.5], (0.5, 0.5, 0.5)),
        ([0.1, 0.2, 0.3], (0.1, 0.2, 0.3)),
        (1, (1.0, 1.0, 1.0)),
    ],
    ids=str,
)
def test_mean_and_std_may_be_one_number_or_one_for_each_channel(
    tmp_path: Path, value: Any, expected: tuple[float, ...]
) -> None:
    color = images(4, 3, 2, 3)
    info = read_info(
        write_as_a_user(tmp_path / "a.h5", *color, attributes={"mean": value, "std": value})
    )
    assert (info.mean, info.std) == (expected, expected)


@pytest.mark.parametrize(
    "name",
    ["Bäume", b"B\xc3\xa4ume", np.bytes_(b"B\xc3\xa4ume")],
    ids=["str", "bytes", "fixed-length bytes"],
)
def test_a_name_is_read_in_each_of_hdf5s_kinds_of_text(tmp_path: Path, name: Any) -> None:
    assert read_info(write_as_a_user(tmp_path / "a.h5", attributes={"name": name})).name == "Bäume"


def test_compressed_and_chunked_otherwise_is_read_alike(tmp_path: Path) -> None:
    arrays = make_arrays(train=20)

    def compress(file: h5py.File) -> None:
        for split, (images, labels) in arrays.items():
            del file[split]
            file.create_dataset(
                f"{split}/images", data=images, compression="gzip", chunks=(3, 2, 5)
            )
            file.create_dataset(f"{split}/labels", data=labels, compression="gzip", shuffle=True)

    info = read_info(write_as_a_user(tmp_path / "a.h5", compress))
    assert np.array_equal(
        read_examples(info, "train", range(2, 17))[0][..., 0], arrays["train"][0][2:17]
    )


# -- what is refused


def test_examples_that_cannot_be_read_are_refused_with_their_numbers(tmp_path: Path) -> None:
    info = read_info(damage_compressed(tmp_path / "set.h5", "train/images"))
    with pytest.raises(
        InputError,
        match=(
            r"set\.h5: /train is damaged, examples 1 to 3 cannot be read \(.*\): prepare it"
            r" again"
        ),
    ):
        read_examples(info, "train", range(1, 3))


@pytest.mark.parametrize(
    ("attributes", "says"),
    [({}, " is damaged"), ({"classes": 4}, ": /train is damaged, examples 0 to 4 cannot be read")],
    ids=["no attributes", "classes given"],
)
def test_labels_that_cannot_be_read_are_refused(
    tmp_path: Path, attributes: dict[str, int], says: str
) -> None:
    path = damage_compressed(tmp_path / "set.h5", "train/labels", attributes)
    with pytest.raises(InputError, match=rf"set\.h5{says} \(.+\): prepare it again") as raised:
        read_examples(read_info(path), "train", range(4))
    assert_one_line_about(path, raised)


def test_an_attribute_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = write_as_a_user(tmp_path / "set.h5", attributes={"classes": 4})
    content = path.read_bytes()
    version = (
        content.index(b"classes\0") - 8
    )  # the attribute's header: version, reserved, three sizes, then the name
    assert content[version] == 1
    path.write_bytes(content[:version] + b"\xff" + content[version + 1 :])
    assert_refused(path, r"set\.h5 is damaged \(.+\): prepare it again")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("images", None, r"dataset /{split}/images is missing"),
        ("labels", None, r"dataset /{split}/labels is missing"),
        ("", None, r"dataset /{split}/images is missing"),
        ("", np.zeros(3), r"dataset /{split}/images is missing"),
        ("images/inner", np.zeros(3), r"dataset /{split}/images is missing"),
        ("labels/inner", np.zeros(3), r"dataset /{split}/labels is missing"),
        ("images", h5py.SoftLink("/nowhere"), r"dataset /{split}/images is missing"),
        (
            "images",
            np.zeros((4, 3, 2), np.float32),
            r"/{split}/images is float32, it must be uint8",
        ),
        ("images", np.zeros((4, 3, 2), np.int8), r"/{split}/images is int8, it must be uint8"),
        ("images", ["a", "b", "c", "d"], r"/{split}/images is object, it must be uint8"),
        ("labels", np.zeros(4), r"/{split}/labels is float64, it must be an integer type"),
        ("labels", np.zeros(4, bool), r"/{split}/labels is bool, it must be an integer type"),
        ("labels", ["a", "b", "c", "d"], r"/{split}/labels is object, it must be an integer type"),
        (
            "images",
            np.zeros((4, 6), np.uint8),
            r"/{split}/images has shape \(4, 6\), it must be \(N, height, width\) or",
        ),
        (
            "images",
            np.zeros((4, 3, 2, 1, 1), np.uint8),
            r"/{split}/images has shape \(4, 3, 2, 1, 1\), it must be",
        ),
        ("images", np.uint8(1), r"/{split}/images has shape \(\), it must be"),
        (
            "labels",
            np.zeros((4, 1), np.int64),
            r"/{split}/labels has shape \(4, 1\), it must be \(4,\): one label for each image",
        ),
        ("labels", np.zeros((), np.int64), r"/{split}/labels has shape \(\), it must be \(4,\)"),
        ("labels", np.zeros(3, np.int64), r"/{split}/labels has shape \(3,\), it must be \(4,\)"),
        (
            "images",
            np.zeros((4, 3, 0), np.uint8),
            r"/{split}/images has shape \(4, 3, 0\): height, width and channels must be at least 1",
        ),
    ],
)
def test_a_split_that_is_not_in_the_format_is_refused(
    tmp_path: Path, split: str, name: str, value: Any, says: str
) -> None:
    top = name.split("/")[0]
    path = write_as_a_user(
        tmp_path / "set.h5", put(f"{split}/{top}", None), put(f"{split}/{name}".rstrip("/"), value)
    )
    assert_refused(path, r"set\.h5: " + says.format(split=split))


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("attributes", [{}, {"classes": 4}], ids=["no attributes", "classes given"])
def test_an_empty_split_is_refused(tmp_path: Path, split: str, attributes: dict[str, int]) -> None:
    nothing = [
        put(f"{split}/images", np.zeros((0, 3, 2), np.uint8)),
        put(f"{split}/labels", np.zeros(0, np.int64)),
    ]
    assert_refused(
        write_as_a_user(tmp_path / "set.h5", *nothing, attributes=attributes),
        rf"set\.h5: /{split}/images is empty",
    )


@pytest.mark.parametrize(
    ("shape", "said"), [((2, 3), "2x3"), ((3, 2, 3), "3x2x3"), ((6, 1), "6x1")], ids=str
)
def test_splits_of_different_sizes_are_refused(
    tmp_path: Path, shape: tuple[int, ...], said: str
) -> None:
    path = write_as_a_user(tmp_path / "set.h5", put("test/images", np.zeros((4, *shape), np.uint8)))
    assert_refused(path, rf"set\.h5: /train/images are 3x2 and /test/images {said}")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("label", [4, 100])
def test_a_label_out_of_range_is_refused_with_its_place_in_the_file(
    tmp_path: Path, split: str, label: int
) -> None:
    path = write_as_a_user(
        tmp_path / "set.h5",
        put(f"{split}/labels", np.array([0, 3, 2, label])),
        attributes={"classes": 4},
    )
    info = read_info(path)
    assert read_examples(info, split, range(0, 3))[1].tolist() == [0, 3, 2]
    with pytest.raises(
        InputError,
        match=(
            rf"set\.h5: /{split}/labels\[3\] is {label}, out of range for 4 classes: labels must be"
            r" 0 to 3"
        ),
    ):
        read_examples(info, split, range(2, 4))


@pytest.mark.parametrize(
    "attributes", [{}, {"classes": 4}], ids=["classes counted", "classes given"]
)
def test_a_negative_label_is_refused(tmp_path: Path, attributes: dict[str, int]) -> None:
    info = read_info(
        write_as_a_user(
            tmp_path / "set.h5", put("train/labels", np.array([0, -3, 1, 2])), attributes=attributes
        )
    )
    with pytest.raises(InputError, match=r"/train/labels\[1\] is -3: labels must not be negative"):
        read_examples(info, "train", range(4))


@pytest.mark.parametrize("key", ["mean", "std"])
@pytest.mark.parametrize("value", [[0.1, 0.2], np.nan, [np.inf], "dark", h5py.Empty("f8")], ids=str)
def test_a_bad_mean_or_std_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    path = write_as_a_user(tmp_path / "set.h5", attributes={key: value})
    assert_refused(path, rf"set\.h5: attribute '{key}' is .*finite")


@pytest.mark.parametrize("key", ["mean", "std"])
def test_a_negative_mean_or_std_is_refused(tmp_path: Path, key: str) -> None:
    assert_refused(
        write_as_a_user(tmp_path / "set.h5", attributes={key: -0.5}),
        rf"attribute '{key}' is -0\.5: .* from 0 to 1.*leave it out",
    )


def test_classes_may_be_a_whole_number_of_any_type(tmp_path: Path) -> None:
    # MATLAB and others write a scalar as an array.
    for value in (np.uint8(7), np.array([7]), np.array([[7]], np.uint8), 7.0, np.float32(7)):
        path = write_as_a_user(tmp_path / "set.h5", attributes={"classes": value})
        classes = read_info(path).classes
        assert (classes, type(classes)) == (7, int)


@pytest.mark.parametrize(
    "value",
    [0, -1, 4.5, True, np.nan, "four", h5py.Empty("i8"), np.zeros(0), np.arange(4), [0.5, 1.5]],
    ids=str,
)
def test_a_bad_number_of_classes_is_refused(tmp_path: Path, value: Any) -> None:
    path = write_as_a_user(tmp_path / "set.h5", attributes={"classes": value})
    assert_refused(path, r"set\.h5: attribute 'classes' is .*at least 1")


def test_a_name_in_another_encoding_is_read_with_a_replacement(tmp_path: Path) -> None:
    name = np.bytes_("Bäume".encode("latin-1"))
    path = write_as_a_user(tmp_path / "set.h5", attributes={"name": name})
    assert read_info(path).name == "B\ufffdume"


# -- layout, scale, labels


@pytest.mark.parametrize(
    "shape", [(4, 3, 32, 32), (4, 1, 28, 28), (4, 4, 8, 6), (4, 2, 5, 5)], ids=str
)
def test_channels_first_is_refused_with_the_remedy(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert_refused(
        write_as_a_user(tmp_path / "set.h5", *images(*shape)),
        r"set\.h5: /train/images has shape .*transpose\(0, 2, 3, 1\)",
    )


@pytest.mark.parametrize(
    "shape",
    [(4, 32, 32, 3), (4, 28, 28, 1), (4, 2, 2, 1), (4, 3, 4, 4), (4, 64, 64, 13), (4, 3, 100)],
    ids=str,
)
def test_channels_last_is_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    height, width, *channels = shape[1:]
    assert read_info(write_as_a_user(tmp_path / "set.h5", *images(*shape))).image_shape == (
        *(channels or [1]),
        height,
        width,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("mean", 33.3), ("std", 78.6), ("mean", [0.5, 0.5, 125.0]), ("std", [0.5, 60.0, 0.5])],
    ids=str,
)
def test_statistics_of_unscaled_pixels_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    color = images(4, 3, 2, 3)
    assert_refused(
        write_as_a_user(tmp_path / "set.h5", *color, attributes={name: value}),
        rf"set\.h5: attribute '{name}' is .*: divide it by 255",
    )


@pytest.mark.parametrize("label", [2**62, 2**40, 1000], ids=str)
def test_a_label_far_too_large_is_named(tmp_path: Path, label: int) -> None:
    path = write_as_a_user(tmp_path / "set.h5", put("test/labels", np.array([0, 1, label, 2])))
    assert_refused(path, rf"set\.h5: /test/labels\[2\] is {label}, but 8 examples")


def test_a_label_above_int64_is_named_as_it_is(tmp_path: Path) -> None:
    path = write_as_a_user(
        tmp_path / "set.h5",
        put("train/labels", np.array([0, 2**64 - 1, 2, 3], np.uint64)),
        attributes={"classes": 4},
    )
    with pytest.raises(InputError, match=rf"/train/labels\[1\] is {2**64 - 1}, out of range"):
        read_examples(read_info(path), "train", range(4))

"""The HDF5 format: what is written is read back, what is wrong is refused by name, and a file is whole or not there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from distcnn.datasets import Split, read_examples, read_info, write_dataset
from distcnn.datasets.statistics import mean_and_std, pixel_sums
from distcnn.errors import InputError

Arrays = dict[str, tuple[NDArray[np.uint8], NDArray[np.integer]]]
Change = Callable[[h5py.File], None]

ROOT = Path(__file__).parents[2]


def make_arrays(shape: tuple[int, ...] = (6, 5), train: int = 300, test: int = 7, seed: int = 0) -> Arrays:
    """Random images and labels of 10 classes, by split."""
    rng = np.random.default_rng(seed)
    counts = {"train": train, "test": test}
    return {split: (rng.integers(0, 256, (n, *shape)).astype(np.uint8), rng.integers(0, 10, n)) for split, n in counts.items()}


def as_splits(arrays: Arrays, cuts: tuple[int, ...] = ()) -> dict[str, Split]:
    """What ``write_dataset`` takes, in batches that end at ``cuts``."""
    splits = {}
    for split, (images, labels) in arrays.items():
        inside = [cut for cut in cuts if cut < len(labels)]
        splits[split] = Split(len(labels), list(zip(np.split(images, inside), np.split(labels, inside), strict=True)))
    return splits


def write(path: Path, arrays: Arrays, cuts: tuple[int, ...] = ()) -> Path:
    write_dataset(path, name="a set", source="a test", classes=10, splits=as_splits(arrays, cuts))
    return path


def write_as_a_user(path: Path, *changes: Change, attributes: Mapping[str, Any] | None = None) -> Path:
    """A small valid file of 4 + 4 images of 3x2 pixels by plain h5py, without attributes; then ``changes`` to it."""
    with h5py.File(path, "w") as file:
        for split in ("train", "test"):
            file[f"{split}/images"] = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
            file[f"{split}/labels"] = np.arange(4)
        for change in changes:
            change(file)
        file.attrs.update(attributes or {})
    return path


def put(name: str, value: Any) -> Change:
    """Put ``value`` in the place of what is called ``name``; None takes it away."""

    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value

    return change


def assert_one_line_about(path: Path, raised: pytest.ExceptionInfo[InputError]) -> None:
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


# -- the round trip


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3)], ids=str)
@pytest.mark.parametrize("cuts", [(), (100, 256, 257)], ids=["one batch", "four batches"])
def test_what_is_written_is_read_back(tmp_path: Path, shape: tuple[int, ...], cuts: tuple[int, ...]) -> None:
    arrays = make_arrays(shape)
    info = read_info(write(tmp_path / "set.h5", arrays, cuts))
    assert info.image_shape == ((shape[2] if len(shape) == 3 else 1), 6, 5)
    for split, (images, labels) in arrays.items():
        found_images, found_labels = read_examples(info, split, range(0, len(labels)))
        assert (found_images.dtype, found_labels.dtype) == (np.uint8, np.int64)
        assert np.array_equal(found_images, images.reshape(len(images), 6, 5, -1))
        assert np.array_equal(found_labels, labels)


def test_a_span_of_examples_is_read_by_itself(tmp_path: Path) -> None:
    arrays = make_arrays()
    info = read_info(write(tmp_path / "set.h5", arrays))
    for span in (range(0, 1), range(250, 260), range(299, 300), range(40, 40)):
        images, labels = read_examples(info, "train", span)
        assert np.array_equal(images[..., 0], arrays["train"][0][span.start : span.stop])
        assert np.array_equal(labels, arrays["train"][1][span.start : span.stop])


def test_the_attributes_say_what_the_set_is(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    write_dataset(
        path, name="digits", source="drawn by hand", classes=12, splits=as_splits(make_arrays()), class_names=["zero", "eins", "två"]
    )
    info = read_info(path)
    assert (info.path, info.name, info.source, info.classes) == (str(path), "digits", "drawn by hand", 12)
    assert info.examples == {"train": 300, "test": 7}
    with h5py.File(path) as file:
        assert set(file.attrs) == {"name", "source", "classes", "mean", "std", "sha256", "class_names"}
        assert list(file.attrs["class_names"]) == ["zero", "eins", "två"]
        assert file["train/images"].chunks == (256, 6, 5)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)], ids=str)
def test_mean_and_std_are_of_the_training_pixels_by_channel(tmp_path: Path, shape: tuple[int, ...]) -> None:
    arrays = make_arrays(shape)
    arrays["train"][0][..., 0] //= 3  # channels (or columns) that differ
    info = read_info(write(tmp_path / "set.h5", arrays, (128,)))
    by_channel = arrays["train"][0].reshape(-1, shape[2] if len(shape) == 3 else 1).astype(np.float64) / 255
    assert info.mean == pytest.approx(by_channel.mean(axis=0), abs=1e-14)
    assert info.std == pytest.approx(by_channel.std(axis=0), abs=1e-14)


def test_a_constant_channel_has_std_zero_exactly() -> None:
    pixels = np.stack([np.full(1000, 171), np.tile([0, 255], 500)], axis=1).astype(np.uint8)
    mean, std = mean_and_std(pixel_sums(pixels), len(pixels))
    assert mean == pytest.approx([171 / 255, 0.5], abs=1e-15)
    assert std.tolist() == [0.0, 0.5]


def test_pixel_sums_are_exact_and_add_up() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 3)).astype(np.uint8)
    wide = pixels.astype(object)
    assert pixel_sums(pixels).tolist() == [wide.sum(axis=0).tolist(), (wide**2).sum(axis=0).tolist()]
    assert np.array_equal(pixel_sums(pixels[:300]) + pixel_sums(pixels[300:]), pixel_sums(pixels))


# -- the same content is the same file


def test_the_same_content_gives_the_same_bytes_of_file_at_any_time_and_in_any_batches(tmp_path: Path) -> None:
    first = write(tmp_path / "first.h5", make_arrays()).read_bytes()
    time.sleep(1.1)  # HDF5's times are in seconds
    assert write(tmp_path / "second.h5", make_arrays()).read_bytes() == first
    assert write(tmp_path / "third.h5", make_arrays(), (1, 200, 256)).read_bytes() == first


def test_sha256_is_of_images_and_labels_of_both_splits(tmp_path: Path) -> None:
    arrays = make_arrays()
    parts = [
        hashlib.sha256(part.tobytes()).digest()
        for split in ("train", "test")
        for part in (arrays[split][0], arrays[split][1].astype("<i8"))
    ]
    assert read_info(write(tmp_path / "set.h5", arrays, (77,))).sha256 == hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.dtype(">i4"), np.int64], ids=str)
def test_sha256_does_not_depend_on_the_labels_type(tmp_path: Path, dtype: np.dtype[Any]) -> None:
    arrays = make_arrays()
    other = {split: (images, labels.astype(dtype)) for split, (images, labels) in arrays.items()}
    assert read_info(write(tmp_path / "a.h5", arrays)).sha256 == read_info(write(tmp_path / "b.h5", other)).sha256


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("part", [0, 1], ids=["one pixel", "one label"])
def test_sha256_differs_when_one_thing_differs(tmp_path: Path, split: str, part: int) -> None:
    arrays, changed = make_arrays(), make_arrays()
    changed[split][part].flat[-1] ^= 1
    assert read_info(write(tmp_path / "a.h5", arrays)).sha256 != read_info(write(tmp_path / "b.h5", changed)).sha256


# -- files that users make


def test_a_file_without_attributes_is_an_image_set(tmp_path: Path) -> None:
    info = read_info(write_as_a_user(tmp_path / "mine.h5"))
    assert (info.name, info.source, info.sha256, info.classes, info.image_shape) == ("mine", "", "", 4, (1, 3, 2))
    assert (info.mean, info.std) == (None, None)
    images, labels = read_examples(info, "test", range(1, 3))
    assert images.tolist() == np.arange(6, 18).reshape(2, 3, 2, 1).tolist()
    assert labels.tolist() == [1, 2]


def test_without_classes_the_largest_label_of_both_splits_counts(tmp_path: Path) -> None:
    assert read_info(write_as_a_user(tmp_path / "a.h5", put("test/labels", np.array([0, 1, 2, 7])))).classes == 8


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", ">i4", "uint64"])
def test_labels_of_any_integer_type_are_read(tmp_path: Path, dtype: str) -> None:
    info = read_info(write_as_a_user(tmp_path / "a.h5", put("train/labels", np.arange(4).astype(dtype))))
    labels = read_examples(info, "train", range(4))[1]
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(5, 5), (np.uint8(5), 5), (["cat", "dog", "bird", "newt"], 4), (np.array([b"cat", b"dog", b"bird", b"newt", b"ox"]), 5)],
    ids=["number", "uint8", "names", "byte names"],
)
def test_classes_may_be_a_number_or_the_names(tmp_path: Path, classes: Any, expected: int) -> None:
    assert read_info(write_as_a_user(tmp_path / "a.h5", attributes={"classes": classes})).classes == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, (0.5, 0.5, 0.5)), ([0.5], (0.5, 0.5, 0.5)), ([0.1, 0.2, 0.3], (0.1, 0.2, 0.3)), (1, (1.0, 1.0, 1.0))],
    ids=str,
)
def test_mean_and_std_may_be_one_number_or_one_for_each_channel(tmp_path: Path, value: Any, expected: tuple[float, ...]) -> None:
    color = [put(f"{split}/images", np.zeros((4, 3, 2, 3), np.uint8)) for split in ("train", "test")]
    info = read_info(write_as_a_user(tmp_path / "a.h5", *color, attributes={"mean": value, "std": value}))
    assert (info.mean, info.std) == (expected, expected)


@pytest.mark.parametrize("name", ["Bäume", b"B\xc3\xa4ume", np.bytes_(b"B\xc3\xa4ume")], ids=["str", "bytes", "fixed-length bytes"])
def test_a_name_is_read_in_each_of_hdf5s_kinds_of_text(tmp_path: Path, name: Any) -> None:
    assert read_info(write_as_a_user(tmp_path / "a.h5", attributes={"name": name})).name == "Bäume"


def test_compressed_and_chunked_otherwise_is_read_alike(tmp_path: Path) -> None:
    arrays = make_arrays(train=20)

    def compress(file: h5py.File) -> None:
        for split, (images, labels) in arrays.items():
            del file[split]
            file.create_dataset(f"{split}/images", data=images, compression="gzip", chunks=(3, 2, 5))
            file.create_dataset(f"{split}/labels", data=labels, compression="gzip", shuffle=True)

    info = read_info(write_as_a_user(tmp_path / "a.h5", compress))
    assert np.array_equal(read_examples(info, "train", range(2, 17))[0][..., 0], arrays["train"][0][2:17])


# -- what is refused


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.h5", write_as_a_user(tmp_path / "a.h5") / "below-a-file.h5"):
        with pytest.raises(InputError, match=r"no such file: .*: name a prepared image set with --data") as raised:
            read_info(path)
        assert_one_line_about(path, raised)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder: --data takes one HDF5 file") as raised:
        read_info(tmp_path)
    assert_one_line_about(tmp_path, raised)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no HDF5 at all\n" * 1000, bytes(4096)], ids=["empty", "short", "text", "zeros"])
def test_a_file_of_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "set.h5"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"set\.h5 is not a whole HDF5 file \(.+\): prepare it again") as raised:
        read_info(path)
    assert_one_line_about(path, raised)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "set.h5", make_arrays(train=20))
    content = path.read_bytes()
    for length in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"set\.h5 is not a whole HDF5 file \(.+\): prepare it again") as raised:
            read_info(path)
        assert_one_line_about(path, raised)


def damage_compressed(path: Path, name: str, attributes: Mapping[str, Any] | None = None) -> Path:
    """The file of a user with dataset ``name`` compressed and the bytes of its first chunk altered."""

    def compress(file: h5py.File) -> None:
        value = file[name][:]
        del file[name]
        file.create_dataset(name, data=value, compression="gzip", chunks=value.shape)

    write_as_a_user(path, compress, attributes=attributes)
    with h5py.File(path) as file:
        chunk = file[name].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(content)
    return path


def test_examples_that_cannot_be_read_are_refused_with_their_numbers(tmp_path: Path) -> None:
    info = read_info(damage_compressed(tmp_path / "set.h5", "train/images"))
    with pytest.raises(InputError, match=r"set\.h5: /train cannot be read, examples 1 to 3 \(.*\): make the file again"):
        read_examples(info, "train", range(1, 3))


@pytest.mark.parametrize(
    ("attributes", "says"),
    [({}, "the labels of train or test cannot be read"), ({"classes": 4}, "/train cannot be read, examples 0 to 4")],
    ids=["no attributes", "classes given"],
)
def test_labels_that_cannot_be_read_are_refused(tmp_path: Path, attributes: dict[str, int], says: str) -> None:
    path = damage_compressed(tmp_path / "set.h5", "train/labels", attributes)
    with pytest.raises(InputError, match=rf"set\.h5: {says} \(.+\): make the file again") as raised:
        read_examples(read_info(path), "train", range(4))
    assert_one_line_about(path, raised)


def test_an_attribute_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = write_as_a_user(tmp_path / "set.h5", attributes={"classes": 4})
    content = path.read_bytes()
    version = content.index(b"classes\0") - 8  # the attribute's header: version, reserved, three sizes, then the name
    assert content[version] == 1
    path.write_bytes(content[:version] + b"\xff" + content[version + 1 :])
    with pytest.raises(InputError, match=r"set\.h5 is damaged \(.+\): prepare it again") as raised:
        read_info(path)
    assert_one_line_about(path, raised)


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
        ("images", np.zeros((4, 3, 2), np.float32), r"/{split}/images is float32, it must be uint8"),
        ("images", np.zeros((4, 3, 2), np.int8), r"/{split}/images is int8, it must be uint8"),
        ("images", np.zeros((4, 3, 2), np.uint16), r"/{split}/images is uint16, it must be uint8"),
        ("images", ["a", "b", "c", "d"], r"/{split}/images is object, it must be uint8"),
        ("labels", np.zeros(4), r"/{split}/labels is float64, it must be an integer type"),
        ("labels", np.zeros(4, bool), r"/{split}/labels is bool, it must be an integer type"),
        ("labels", ["a", "b", "c", "d"], r"/{split}/labels is object, it must be an integer type"),
        ("images", np.zeros((4, 6), np.uint8), r"/{split}/images has shape \(4, 6\), it must be \(N, height, width\) or"),
        ("images", np.zeros((4, 3, 2, 1, 1), np.uint8), r"/{split}/images has shape \(4, 3, 2, 1, 1\), it must be"),
        ("images", np.uint8(1), r"/{split}/images has shape \(\), it must be"),
        ("labels", np.zeros((4, 1), np.int64), r"/{split}/labels has shape \(4, 1\), it must be \(4,\): one label for each image"),
        ("labels", np.zeros((), np.int64), r"/{split}/labels has shape \(\), it must be \(4,\)"),
        ("labels", np.zeros(3, np.int64), r"/{split}/labels has shape \(3,\), it must be \(4,\)"),
        ("labels", np.zeros(5, np.int64), r"/{split}/labels has shape \(5,\), it must be \(4,\)"),
        ("images", np.zeros((4, 3, 0), np.uint8), r"/{split}/images has shape \(4, 3, 0\): height, width and channels must be at least 1"),
        ("images", np.zeros((4, 0, 2), np.uint8), r"/{split}/images has shape \(4, 0, 2\): height, width"),
        ("images", np.zeros((4, 3, 2, 0), np.uint8), r"/{split}/images has shape \(4, 3, 2, 0\): height, width"),
    ],
)
def test_a_split_that_is_not_in_the_format_is_refused(tmp_path: Path, split: str, name: str, value: Any, says: str) -> None:
    top = name.split("/")[0]
    path = write_as_a_user(tmp_path / "set.h5", put(f"{split}/{top}", None), put(f"{split}/{name}".rstrip("/"), value))
    with pytest.raises(InputError, match=r"set\.h5: " + says.format(split=split)) as raised:
        read_info(path)
    assert_one_line_about(path, raised)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("attributes", [{}, {"classes": 4}], ids=["no attributes", "classes given"])
def test_an_empty_split_is_refused(tmp_path: Path, split: str, attributes: dict[str, int]) -> None:
    nothing = [put(f"{split}/images", np.zeros((0, 3, 2), np.uint8)), put(f"{split}/labels", np.zeros(0, np.int64))]
    with pytest.raises(InputError, match=rf"set\.h5: /{split} is empty: it must hold at least one example"):
        read_info(write_as_a_user(tmp_path / "set.h5", *nothing, attributes=attributes))


@pytest.mark.parametrize(("shape", "said"), [((2, 3), "2x3"), ((3, 2, 3), "3x2x3"), ((6, 1), "6x1")], ids=str)
def test_splits_of_different_sizes_are_refused(tmp_path: Path, shape: tuple[int, ...], said: str) -> None:
    path = write_as_a_user(tmp_path / "set.h5", put("test/images", np.zeros((4, *shape), np.uint8)))
    with pytest.raises(InputError, match=rf"set\.h5: /train/images are 3x2 and /test/images {said}: they must be of one size"):
        read_info(path)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("label", [4, 100, -1])
def test_a_label_out_of_range_is_refused_with_its_place_in_the_file(tmp_path: Path, split: str, label: int) -> None:
    path = write_as_a_user(tmp_path / "set.h5", put(f"{split}/labels", np.array([0, 3, 2, label])), attributes={"classes": 4})
    info = read_info(path)
    assert read_examples(info, split, range(0, 3))[1].tolist() == [0, 3, 2]
    with pytest.raises(InputError, match=rf"set\.h5: /{split}/labels\[3\] is {label}, out of range for 4 classes: labels must be 0 to 3"):
        read_examples(info, split, range(2, 4))


def test_a_negative_label_is_refused_where_the_classes_are_counted(tmp_path: Path) -> None:
    info = read_info(write_as_a_user(tmp_path / "set.h5", put("train/labels", np.array([-3, 0, 1, 2]))))
    with pytest.raises(InputError, match=r"/train/labels\[0\] is -3, out of range for 4 classes"):
        read_examples(info, "train", range(4))


@pytest.mark.parametrize("key", ["mean", "std"])
@pytest.mark.parametrize("value", [[0.1, 0.2], np.nan, [np.inf], "dark", h5py.Empty("f8")], ids=str)
def test_a_bad_mean_or_std_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    path = write_as_a_user(tmp_path / "set.h5", attributes={key: value})
    with pytest.raises(
        InputError, match=rf"set\.h5: attribute '{key}' is .*: it must be one finite number, or one for each of the 1 channels"
    ) as raised:
        read_info(path)
    assert_one_line_about(path, raised)


def test_only_std_must_not_be_negative(tmp_path: Path) -> None:
    assert read_info(write_as_a_user(tmp_path / "set.h5", attributes={"mean": -0.5})).mean == (-0.5,)
    with pytest.raises(InputError, match=r"attribute 'std' is .*-0\.5"):
        read_info(write_as_a_user(tmp_path / "set.h5", attributes={"std": -0.5}))


@pytest.mark.parametrize("value", [0, -1, 4.0, True, np.nan, "four", h5py.Empty("i8"), np.zeros(0), np.arange(4), [0.5, 1.5]], ids=str)
def test_a_bad_number_of_classes_is_refused(tmp_path: Path, value: Any) -> None:
    path = write_as_a_user(tmp_path / "set.h5", attributes={"classes": value})
    with pytest.raises(InputError, match=r"set\.h5: attribute 'classes' is .*: it must be the number of classes, at least 1") as raised:
        read_info(path)
    assert_one_line_about(path, raised)


def test_classes_in_an_array_of_one_number_are_that_number(tmp_path: Path) -> None:
    # MATLAB and others write a scalar so.
    for value in (np.array([4]), np.array([[4]], np.uint8)):
        assert read_info(write_as_a_user(tmp_path / "set.h5", attributes={"classes": value})).classes == 4


def test_a_name_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = write_as_a_user(tmp_path / "set.h5", attributes={"name": np.bytes_("Bäume".encode("latin-1"))})
    with pytest.raises(InputError, match=r"set\.h5: attribute 'name' is no UTF-8 \(.*0xe4.*\): write it as UTF-8"):
        read_info(path)


def test_a_file_that_another_process_locks_is_read(tmp_path: Path) -> None:
    # Lustre and NFS may refuse locks altogether; here one that is taken stands for that.
    path = write(tmp_path / "set.h5", make_arrays())
    with path.open("rb+") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        assert read_examples(read_info(path), "test", range(7))[1].shape == (7,)


# -- written whole or not at all


def test_missing_folders_are_made(tmp_path: Path) -> None:
    path = write(tmp_path / "new" / "folder" / "set.h5", make_arrays())
    assert [each.name for each in path.parent.iterdir()] == ["set.h5"]


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "set.h5", make_arrays(train=500))
    write(path, make_arrays(train=3))
    assert read_info(path).examples["train"] == 3
    assert list(tmp_path.iterdir()) == [path]


def test_an_output_that_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "regular-file"
    file.write_bytes(b"mine")
    for path in (file / "set.h5", file / "folder" / "set.h5"):
        with pytest.raises(InputError, match=r"set\.h5 cannot be written \(.+\): choose a folder you may write to") as raised:
            write(path, make_arrays())
        assert_one_line_about(path, raised)
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == b"mine"


def test_a_folder_in_the_outputs_place_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "set.h5").mkdir()
    with pytest.raises(InputError, match=r"set\.h5 cannot be written \(Is a directory\)"):
        write(tmp_path / "set.h5", make_arrays())
    assert [each.name for each in tmp_path.rglob("*")] == ["set.h5"]


@pytest.mark.parametrize("output", ["", ".", "/"])
def test_an_output_without_a_name_is_refused(output: str) -> None:
    with pytest.raises(InputError, match="cannot be written: name a file"):
        write_dataset(output, name="", source="", classes=10, splits=as_splits(make_arrays()))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"test": (np.zeros((7, 5, 6), np.uint8), np.zeros(7, np.int64))}, "the training images are 6x5 and the test images 5x6"),
        ({"test": (np.zeros((7, 6, 5, 3), np.uint8), np.zeros(7, np.int64))}, "the training images are 6x5 and the test images 6x5x3"),
        ({"train": (np.zeros((7, 6, 0), np.uint8), np.zeros(7, np.int64))}, "the train images are 6x0: height, width and channels must be"),
        (
            {"train": (np.zeros((2, 6, 5), np.uint8), np.array([3, 10]))},
            "the train labels go from 3 to 10: for 10 classes they must be 0 to 9",
        ),
        (
            {"test": (np.zeros((2, 6, 5), np.uint8), np.array([-1, 9]))},
            "the test labels go from -1 to 9: for 10 classes they must be 0 to 9",
        ),
    ],
    ids=["sizes differ", "channels differ", "no width", "label too large", "label negative"],
)
def test_a_set_that_could_not_be_trained_on_is_not_written(tmp_path: Path, changed: Arrays, says: str) -> None:
    path = write(tmp_path / "set.h5", make_arrays(train=20))
    before = path.read_bytes()
    with pytest.raises(InputError, match=says):
        write(path, make_arrays() | changed)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "error", [RuntimeError("in the middle"), InputError("in the middle"), KeyboardInterrupt("in the middle")], ids=repr
)
@pytest.mark.parametrize("older", [False, True], ids=["no older file", "an older file"])
def test_an_exception_in_the_middle_leaves_the_folder_as_it_was(tmp_path: Path, error: BaseException, older: bool) -> None:
    path, arrays = tmp_path / "set.h5", make_arrays()
    if older:
        write(path, make_arrays(train=20))
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    while_writing: list[str] = []

    def batches() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.integer]]]:
        yield arrays["train"][0][:100], arrays["train"][1][:100]
        while_writing.extend(each.name for each in tmp_path.iterdir())
        raise error

    with pytest.raises(type(error), match="in the middle"):
        write_dataset(path, name="", source="", classes=10, splits=as_splits(arrays) | {"train": Split(300, batches())})
    assert set(while_writing) - {"set.h5"}, "it is written beside, under another name"
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_fewer_examples_than_promised_leave_nothing(tmp_path: Path) -> None:
    arrays = make_arrays()
    with pytest.raises(AssertionError):
        write_dataset(
            tmp_path / "set.h5", name="", source="", classes=10, splits=as_splits(arrays) | {"train": Split(301, [arrays["train"]])}
        )
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from distcnn.datasets import Split, write_dataset
path, ready = Path(sys.argv[1]), Path(sys.argv[2])
images, labels = np.arange(300 * 64).astype(np.uint8).reshape(300, 8, 8), np.arange(300) % 10
ready.touch()
while not (ready.parent / "go").exists():
    time.sleep(0.001)
for _ in range(15):
    batches = [(images[i : i + 50], labels[i : i + 50]) for i in range(0, 300, 50)]
    write_dataset(path, name="n", source="s", classes=10, splits={split: Split(300, batches) for split in ("train", "test")})
"""


def test_processes_that_write_one_path_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path, signals = tmp_path / "out" / "set.h5", tmp_path / "signals"
    signals.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with ExitStack() as stack:
        writers = []
        for number in range(4):
            command = [sys.executable, "-c", WRITER, str(path), str(signals / str(number))]
            writers.append(stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)))
            stack.callback(writers[-1].kill)
        deadline = time.monotonic() + 30
        while len(list(signals.iterdir())) < len(writers) and time.monotonic() < deadline:
            time.sleep(0.01)
        (signals / "go").touch()
        seen = set()
        while any(writer.poll() is None for writer in writers):
            if path.exists():
                seen.add(hashlib.sha256(path.read_bytes()).hexdigest())
        errors = [writer.stderr.read() for writer in writers if writer.stderr]
    assert [writer.returncode for writer in writers] == [0] * 4, errors
    assert len(seen) == 1, "at any moment the file is whole"
    assert [each.name for each in path.parent.iterdir()] == ["set.h5"]
    assert len(read_examples(read_info(path), "train", range(300))[1]) == 300

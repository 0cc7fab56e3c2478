"""Writing image sets: what is written is read back, the same content is the same file, whole or not
at all.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from distcnn.datasets import Split, read_examples, read_info, write_dataset
from distcnn.errors import InputError
from tests.support.image_sets import Arrays, as_splits, assert_one_line_about, make_arrays, write
from tests.support.limits import limited_file_size


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3)], ids=str)
@pytest.mark.parametrize("cuts", [(), (100, 256, 257)], ids=["one batch", "four batches"])
def test_what_is_written_is_read_back(
    tmp_path: Path, shape: tuple[int, ...], cuts: tuple[int, ...]
) -> None:
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
    path, names = tmp_path / "set.h5", ["zero", "eins", "två", *map(str, range(3, 12))]
    write_dataset(
        path,
        name="digits",
        source="drawn by hand",
        classes=12,
        splits=as_splits(make_arrays()),
        class_names=names,
    )
    info = read_info(path)
    assert (info.path, info.name, info.source, info.classes) == (
        str(path),
        "digits",
        "drawn by hand",
        12,
    )
    assert info.examples == {"train": 300, "test": 7}
    with h5py.File(path) as file:
        assert set(file.attrs) == {
            "name",
            "source",
            "classes",
            "mean",
            "std",
            "sha256",
            "blocks_sha256",
            "class_names",
        }
        assert list(file.attrs["class_names"]) == names
        assert file["train/images"].chunks == (256, 6, 5)


def test_names_that_do_not_fit_the_classes_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 names for 10 classes"):
        write_dataset(
            tmp_path / "set.h5",
            name="",
            source="",
            classes=10,
            splits=as_splits(make_arrays()),
            class_names=["a", "b", "c"],
        )
    assert list(tmp_path.iterdir()) == []


def test_the_same_content_gives_the_same_bytes_of_file_at_any_time_and_in_any_batches(
    tmp_path: Path,
) -> None:
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
    assert (
        read_info(write(tmp_path / "set.h5", arrays, (77,))).sha256
        == hashlib.sha256(b"".join(parts)).hexdigest()
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.dtype(">i4"), np.int64], ids=str)
def test_sha256_does_not_depend_on_the_labels_type(tmp_path: Path, dtype: np.dtype[Any]) -> None:
    arrays = make_arrays()
    other = {split: (images, labels.astype(dtype)) for split, (images, labels) in arrays.items()}
    assert (
        read_info(write(tmp_path / "a.h5", arrays)).sha256
        == read_info(write(tmp_path / "b.h5", other)).sha256
    )


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("part", [0, 1], ids=["one pixel", "one label"])
def test_sha256_differs_when_one_thing_differs(tmp_path: Path, split: str, part: int) -> None:
    arrays, changed = make_arrays(), make_arrays()
    changed[split][part].flat[-1] ^= 1
    assert (
        read_info(write(tmp_path / "a.h5", arrays)).sha256
        != read_info(write(tmp_path / "b.h5", changed)).sha256
    )


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
        with pytest.raises(InputError, match=r"set\.h5 cannot be written \(.+\)") as raised:
            write(path, make_arrays())
        assert_one_line_about(path, raised)
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == b"mine"


@pytest.mark.parametrize("limit", [0, 100, 20_000, 200_000, 1_100_000])
def test_a_full_disk_leaves_the_older_file_and_this_process(tmp_path: Path, limit: int) -> None:
    """HDF5 crashes after a write that fails, so there must be none."""
    path = tmp_path / "set.h5"
    path.write_text("older")
    arrays = make_arrays(train=1500, test=30)
    with limited_file_size(limit), pytest.raises(InputError) as caught:
        write(path, arrays)
    assert "cannot be written" in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "older"
    write(path, arrays)
    assert read_info(path).examples == {"train": 1500, "test": 30}


def test_a_folder_in_the_outputs_place_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "set.h5").mkdir()
    with pytest.raises(InputError, match=r"set\.h5 cannot be written \(it is a folder\)"):
        write(tmp_path / "set.h5", make_arrays())
    assert [each.name for each in tmp_path.rglob("*")] == ["set.h5"]


@pytest.mark.parametrize("output", ["", ".", "/"])
def test_an_output_without_a_name_is_refused(output: str) -> None:
    with pytest.raises(InputError, match="cannot be written: name a file"):
        write_dataset(output, name="", source="", classes=10, splits=as_splits(make_arrays()))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"test": (np.zeros((7, 5, 6), np.uint8), np.zeros(7, np.int64))},
            "the training images are 6x5 and the test images 5x6",
        ),
        (
            {"test": (np.zeros((7, 6, 5, 3), np.uint8), np.zeros(7, np.int64))},
            "the training images are 6x5 and the test images 6x5x3",
        ),
        (
            {"train": (np.zeros((7, 6, 0), np.uint8), np.zeros(7, np.int64))},
            "the train images are 6x0: height, width and channels must be",
        ),
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
def test_a_set_that_could_not_be_trained_on_is_not_written(
    tmp_path: Path, changed: Arrays, says: str
) -> None:
    path = write(tmp_path / "set.h5", make_arrays(train=20))
    before = path.read_bytes()
    with pytest.raises(InputError, match=says):
        write(path, make_arrays() | changed)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("in the middle"),
        InputError("in the middle"),
        KeyboardInterrupt("in the middle"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("older", [False, True], ids=["no older file", "an older file"])
def test_an_exception_in_the_middle_leaves_the_folder_as_it_was(
    tmp_path: Path, error: BaseException, older: bool
) -> None:
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
        write_dataset(
            path,
            name="",
            source="",
            classes=10,
            splits=as_splits(arrays) | {"train": Split(300, batches())},
        )
    assert set(while_writing) - {"set.h5"}, "it is written beside, under another name"
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_fewer_examples_than_promised_leave_nothing(tmp_path: Path) -> None:
    arrays = make_arrays()
    with pytest.raises(AssertionError):
        write_dataset(
            tmp_path / "set.h5",
            name="",
            source="",
            classes=10,
            splits=as_splits(arrays) | {"train": Split(301, [arrays["train"]])},
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [3, 20_000])
def test_any_number_of_class_names_is_kept(tmp_path: Path, count: int) -> None:
    names = [f"class {number}" for number in range(count)]
    arrays = make_arrays()
    arrays = {split: (images, labels % 3) for split, (images, labels) in arrays.items()}
    write_dataset(
        tmp_path / "out.h5",
        name="many",
        source="a test",
        classes=count,
        splits=as_splits(arrays),
        class_names=names,
    )
    with h5py.File(tmp_path / "out.h5") as file:
        assert list(file.attrs["class_names"]) == names
    info = read_info(tmp_path / "out.h5")
    assert info.classes == count
    assert np.array_equal(read_examples(info, "train", range(300))[1], arrays["train"][1])


def test_paths_that_are_not_utf_8_become_escapes_in_name_and_source(tmp_path: Path) -> None:
    path = tmp_path / "a\udce9.h5"
    write_dataset(
        path, name="a\udce9", source="b\udcff", classes=10, splits=as_splits(make_arrays())
    )
    info = read_info(path)
    assert (info.name, info.source) == ("a\\udce9", "b\\udcff")


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_training_images_without_any_contrast_are_refused(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    arrays = make_arrays(shape)
    arrays["train"][0][:] = 37
    with pytest.raises(InputError, match="same value in each channel"):
        write(tmp_path / "out.h5", arrays)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "named pipe", "link to a device"])
def test_what_is_not_a_file_is_never_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out.h5"
    if kind == "folder":
        path.mkdir()
    elif kind == "named pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    before = path.lstat()
    with pytest.raises(InputError, match=r"out\.h5 cannot be written"):
        write(path, make_arrays())
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert list(tmp_path.iterdir()) == [path]


def test_links_in_the_place_of_a_temporary_file_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "victim").write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda _: "0")
    (tmp_path / ".out.h5.0.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "out.h5", make_arrays())
    assert (tmp_path / "victim").read_text() == "mine"

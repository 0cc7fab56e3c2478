"""Validation sets: which examples are held out, and where the kept ones are in the file."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcnn import datasets
from distcnn.config import Config
from distcnn.datasets import Dataset, HDF5Dataset
from distcnn.datasets.holdout import HoldOut, choose_rows, hold_out_rows
from distcnn.datasets.streaming import MIB, window_examples
from distcnn.distributed import Communicator, share_of
from distcnn.errors import InputError
from distcnn.training.advice import examples_to_hold_out
from distcnn.training.data import Content, open_data, survey
from tests.conftest import MakeImageSet


def held_out(dataset: Dataset, count: int) -> HoldOut:
    info = dataset.read_info()
    return HoldOut(dataset, info, hold_out_rows(dataset, info, count, 0.0))


# -- which examples


@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(any),
    fraction=st.floats(0.01, 0.99),
)
def test_each_class_of_a_sorted_file_gives_its_share(sizes: list[int], fraction: float) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    count = max(1, round(fraction * len(labels)))
    rows = choose_rows(labels, count)
    assert len(rows) == len(set(rows.tolist())) == count
    assert rows.tolist() == sorted(rows.tolist())
    for number, size in enumerate(sizes):
        share = count * size / len(labels)
        assert abs(np.count_nonzero(labels[rows] == number) - share) <= 1


def test_examples_of_a_class_are_chosen_at_random() -> None:
    rows = choose_rows(np.zeros(10_000, np.int64), 1000)
    assert len(np.unique(np.diff(rows))) > 20  # not every tenth
    assert 430 < np.count_nonzero(rows < 5000) < 570


def test_the_chosen_rows_have_not_changed() -> None:
    # A change here changes every run with --validation.
    assert choose_rows(np.repeat([0, 1, 2], 5), 4).tolist() == [0, 8, 9, 10]


# -- where they are in the file


@given(
    kept=st.lists(st.booleans(), min_size=2, max_size=80).filter(lambda x: any(x) and not all(x))
)
def test_kept_and_held_out_examples_are_the_whole_set_in_order(kept: list[bool]) -> None:
    labels = np.arange(len(kept)) % 3
    images = np.zeros((len(kept), 2, 2), np.uint8)
    whole = datasets.from_arrays(images, labels, images[:1], [0], classes=3)
    view = HoldOut(whole, whole.read_info(), np.flatnonzero(~np.array(kept))).read_info()
    train, validation = (
        view.rows(split, np.arange(view.examples[split])) for split in ("train", "validation")
    )
    np.testing.assert_array_equal(train, np.flatnonzero(kept))
    np.testing.assert_array_equal(validation, np.flatnonzero(~np.array(kept)))
    assert view.whole.examples == whole.read_info().examples
    assert view.rows("test", np.array([0])).tolist() == [0]


@pytest.mark.parametrize("of_arrays", [False, True], ids=["file", "arrays"])
def test_reading_gives_the_rows_of_the_file(image_set: MakeImageSet, of_arrays: bool) -> None:
    path = image_set(train=2000, shape=(9, 8, 3), test=30, classes=2)
    whole: Dataset = HDF5Dataset(path)
    with h5py.File(path) as file:
        arrays = {name: file[name][()] for name in ("train/images", "train/labels", "test/images")}
    if of_arrays:
        whole = datasets.from_arrays(*whole.read("train"), *whole.read("test"))
    view = held_out(whole, 150)
    info = view.read_info()
    assert info.examples == {"train": 1850, "validation": 150, "test": 30}
    reader = view.open(info)
    for split, span in (
        *(("train", range(start, stop)) for start, stop in ((0, 1850), (7, 8), (300, 1500))),
        *(("validation", range(start, stop)) for start, stop in ((0, 150), (149, 150), (3, 90))),
        ("train", range(5, 5)),
    ):
        rows = info.rows(split, np.arange(span.start, span.stop))
        images, labels = reader.load(split, span)
        np.testing.assert_array_equal(images, arrays["train/images"][rows])
        np.testing.assert_array_equal(labels, arrays["train/labels"][rows])
        np.testing.assert_array_equal(reader.read_labels(split, span), labels)
        again = reader.empty(len(span))
        pieces = list(reader.read_in_pieces(split, span, *again))
        assert [index for piece in pieces for index in piece] == list(span)
        np.testing.assert_array_equal(again[0], images)
    np.testing.assert_array_equal(reader.load("test", range(4, 9))[0], arrays["test/images"][4:9])
    reader.close()


def surveyed(dataset: Dataset, memory: float = 0.0, count: int = 50) -> Content:
    config = Config(num_shards=4, microbatch_size=7, data_memory=memory, validation=count)
    view = held_out(dataset, count)
    info = view.read_info()
    return survey(open_data(view, info, config, Communicator(), range(4)), info, 7, Communicator())


def test_the_whole_file_is_surveyed_whatever_is_held_out(image_set: MakeImageSet) -> None:
    path = image_set(train=2000, test=100)
    content = surveyed(HDF5Dataset(path))  # the hash that the file states is that of all examples
    assert content.remarks == []
    assert surveyed(HDF5Dataset(path), memory=4).hashes == content.hashes
    names = [name.split()[0] for name, _ in content.hashes]
    assert (names.count("train"), names.count("validation")) == (4, -(-50 // 7))
    assert surveyed(HDF5Dataset(path), count=51).hashes != content.hashes


@pytest.mark.parametrize("place", ["kept", "held out"])
def test_a_damaged_example_is_found_wherever_it_is(
    place: str, image_set: MakeImageSet, tmp_path: Path
) -> None:
    path = tmp_path / "set.h5"
    path.write_bytes(image_set(train=300, test=30).read_bytes())
    rows = held_out(HDF5Dataset(path), 50).read_info().held_out.tolist()
    row = rows[20] if place == "held out" else next(n for n in range(150, 300) if n not in rows)
    with h5py.File(path, "r+") as file:
        file["train/images"][row] ^= 1
    with pytest.raises(InputError, match="do not match the file's SHA-256"):
        surveyed(HDF5Dataset(path))
    with h5py.File(path, "r+") as file:
        del file.attrs["sha256"], file.attrs["blocks_sha256"]
        file["train/images"][row] = 0
    assert f"/train/images[{row}]" in " ".join(surveyed(HDF5Dataset(path)).remarks)


def test_a_part_knows_where_its_examples_are_in_the_file(image_set: MakeImageSet) -> None:
    view = held_out(HDF5Dataset(image_set()), 40)
    info, config = view.read_info(), Config(num_shards=4, validation=40)
    data = open_data(view, info, config, Communicator(), range(4))
    span = share_of(163, 4, 2)
    expected = np.setdiff1d(np.arange(203), info.held_out)[span.start : span.stop]
    assert data.shards[2].rows(np.arange(len(span))).tolist() == expected.tolist()
    assert data.validation is not None
    assert data.validation.rows(np.array([3])).tolist() == [info.held_out[3]]
    assert data.test.rows(np.array([3])).tolist() == [3]


# -- how many


@pytest.mark.parametrize(
    ("wanted", "examples", "count"),
    [(0.1, 60_000, 6000), (0.25, 203, 51), (75, 203, 75), (2, 203, 2)],
)
def test_fractions_are_rounded_to_whole_examples(wanted: float, examples: int, count: int) -> None:
    assert examples_to_hold_out(Config(validation=wanted), examples) == count


@pytest.mark.parametrize(
    ("wanted", "examples", "text"),
    [
        (203, 203, r"--validation 203 holds out 203 of 203 training examples: .* from 2 to 75"),
        (10**6, 203, "holds out 1,000,000 of 203"),
        (76, 203, "leaves fewer than one global batch of 128: give a number from 2 to 75"),
        (0.001, 203, "--validation 0.001 holds out 0 of 203"),
        (0.5, 128, "holds out 64 of 128 training examples, .*: use fewer --num-shards"),
    ],
)
def test_too_much_or_too_little_is_refused(wanted: float, examples: int, text: str) -> None:
    with pytest.raises(InputError, match=text):
        examples_to_hold_out(Config(validation=wanted), examples)


@pytest.mark.parametrize("wanted", [-0.1, -3, 1.0, 1.5, float("nan"), float("inf"), 1e300])
def test_only_fractions_and_whole_numbers_are_accepted(wanted: float) -> None:
    with pytest.raises(
        InputError, match="a fraction below 1, or a whole number of at least 2 examples"
    ):
        Config(validation=wanted)


def test_windows_leave_room_for_the_validation_set(image_set: MakeImageSet) -> None:
    path = image_set(train=2000, test=300, shape=(28, 28, 3))
    whole = HDF5Dataset(path).read_info()
    info = held_out(HDF5Dataset(path), 200).read_info()
    lengths = [window_examples(each, 2, 8.0) for each in (whole, info)]
    assert 0 < lengths[1] <= lengths[0]
    buffers = 2 * (2 + 2) * lengths[1] * (info.image_bytes + 8)
    assert buffers + 2 * 1800 + 8 * 200 <= 8 * MIB

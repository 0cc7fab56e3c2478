"""Image sets of NumPy arrays: the same examples as a file with the same content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from distcnn import datasets
from distcnn.config import Config
from distcnn.datasets import ArrayDataset, HDF5Dataset, Microbatch
from distcnn.distributed import Communicator
from distcnn.errors import ArgumentError, InputError
from distcnn.training.data import open_data, survey
from tests.conftest import MakeImageSet

IMAGES, LABELS = np.zeros((4, 3, 2), np.uint8), np.array([0, 1, 2, 1])


def arrays_of(path: Path) -> ArrayDataset:
    with h5py.File(path) as file:
        parts = [
            file[f"{split}/{key}"][()]
            for split in ("train", "test")
            for key in ("images", "labels")
        ]
        return datasets.from_arrays(*parts, classes=int(file.attrs["classes"]))


@pytest.mark.parametrize(
    ("shape", "data_memory"),
    [((28, 28), 0), ((28, 28, 3), 0), ((28, 28), 5.5)],
    ids=["gray", "colour", "in windows"],
)
def test_microbatches_and_hashes_are_those_of_a_file(
    image_set: MakeImageSet, shape: tuple[int, ...], data_memory: float
) -> None:
    path = image_set(train=2000, shape=shape)
    config = Config(data=str(path), num_shards=3, microbatch_size=7, data_memory=data_memory)
    found = []
    for dataset in (HDF5Dataset(path), arrays_of(path)):
        info = dataset.read_info()
        data = open_data(dataset, info, config, Communicator(), range(3))
        mean = std = np.full(info.image_shape[0], 0.5)
        microbatch = Microbatch(info.image_shape, 7, mean, std)
        batches = []
        for epoch, step in np.ndindex(2, 50):
            for part in (*data.shards, data.test):
                part.fill(microbatch, epoch, step)
                batches.append((microbatch.images.copy(), microbatch.labels.copy()))
        found.append((info, batches, survey(data, info, 7, Communicator())))
    (file_info, from_file, file_content), (info, from_arrays, content) = found
    for (images, labels), (expected_images, expected_labels) in zip(
        from_arrays, from_file, strict=True
    ):
        np.testing.assert_array_equal(images, expected_images)
        np.testing.assert_array_equal(labels, expected_labels)
    assert content.hashes == file_content.hashes
    assert (info.image_shape, info.examples) == (file_info.image_shape, file_info.examples)
    assert info.chunk_examples == file_info.chunk_examples


def test_statistics_from_pixels_are_those_that_a_file_states(image_set: MakeImageSet) -> None:
    path = image_set()
    dataset, stated = arrays_of(path), datasets.read_info(path)
    info = dataset.read_info()
    config = Config(data="", num_shards=3, microbatch_size=7)
    data = open_data(dataset, info, config, Communicator(), range(3))
    found = survey(data, info, 7, Communicator())
    assert (found.mean, found.std) == (stated.mean, stated.std)


def test_both_kinds_can_be_read_whole(image_set: MakeImageSet) -> None:
    path = image_set()
    for split in ("train", "test"):
        images, labels = datasets.open(path).read(split)
        assert images.shape[1:] == (28, 28, 1)
        same_images, same_labels = arrays_of(path).read(split)
        np.testing.assert_array_equal(images, same_images)
        np.testing.assert_array_equal(labels, same_labels)


def test_what_is_not_given_is_counted_and_named() -> None:
    dataset = ArrayDataset(IMAGES, LABELS, IMAGES[:1], [3], class_names=["a", "b", "c", "d"])
    info = dataset.read_info()
    assert (info.classes, info.classes_counted, info.class_names) == (4, True, ("a", "b", "c", "d"))
    assert repr(dataset) == "ArrayDataset(4 training and 1 test images of 3x2, 4 classes)"
    assert (
        dataset.content_sha256() != ArrayDataset(IMAGES, LABELS, IMAGES[:1], [2]).content_sha256()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": IMAGES / 2}, r"train_images is float64, it must be uint8"),
        ({"test_images": IMAGES[0]}, r"test_images has shape \(3, 2\)"),
        ({"train_labels": LABELS * 0.5}, r"train_labels is float64"),
        ({"test_labels": [0, 1]}, r"test_labels has shape \(2,\), it must be \(4,\)"),
        ({"test_images": IMAGES[:0], "test_labels": LABELS[:0]}, r"test_images is empty"),
        ({"test_images": IMAGES[:, 1:]}, r"train_images are 3x2 and test_images 2x2"),
        ({"train_labels": [-1, 0, 1, 2]}, r"train_labels go from -1 to 2"),
        ({"classes": 2}, r"train_labels go from 0 to 2: .* 0 to 1"),
        ({"classes": 0}, r"classes \(=0\)"),
        ({"train_labels": [0, 1, 2, 5000]}, r"a label is 5000, but 8 examples"),
        ({"class_names": ["a"]}, r"class_names has 1 names for 3 classes"),
    ],
)
def test_other_arrays_are_refused(change: dict[str, Any], message: str) -> None:
    arguments = {
        "train_images": IMAGES,
        "train_labels": LABELS,
        "test_images": IMAGES,
        "test_labels": LABELS,
    }
    with pytest.raises(ArgumentError, match=message):
        ArrayDataset(**(arguments | change))


def test_open_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        datasets.open(tmp_path / "none.h5")


def test_mnist_is_read_where_it_was_prepared(image_set: MakeImageSet) -> None:
    assert datasets.mnist(path=image_set()).path == str(image_set())

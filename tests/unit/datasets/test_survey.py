"""What is said about the examples of an image set, and which hashes of them are compared: the same
whoever reads which part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from distcnn.datasets import DatasetInfo, read_examples, read_info
from distcnn.datasets.survey import Survey, judge
from distcnn.errors import InputError
from tests.support.image_sets import Arrays, make_arrays, write


def surveyed(info: DatasetInfo, parts: int = 1, piece: int = 100) -> list[str]:
    """What is said when ``parts`` ranks each read a part, piece by piece."""
    surveys, test_hashes = [Survey(info) for _ in range(parts)], np.zeros(0, np.uint64)
    for split in ("test", "train"):
        cuts = [round(info.examples[split] * part / parts) for part in range(parts + 1)]
        for survey, start, stop in zip(surveys, cuts, cuts[1:], strict=False):
            for first in range(start, stop, piece):
                survey.add(
                    split,
                    first,
                    *read_examples(info, split, range(first, min(first + piece, stop))),
                )
        if split == "test":
            test_hashes = np.concatenate([survey.test_hashes for survey in surveys])
            for survey in surveys:
                survey.look_for(test_hashes)
    return judge(info, [survey.found for survey in surveys], test_hashes)


def remarks(folder: Path, arrays: Arrays, **attributes: Any) -> list[str]:
    """What is said of a user's file with ``arrays``; each remark names the file."""
    path = folder / "set.h5"
    with h5py.File(path, "w") as file:
        for split, (images, labels) in arrays.items():
            file[f"{split}/images"], file[f"{split}/labels"] = images, labels
        file.attrs.update(attributes)
    said = surveyed(read_info(path))
    assert all(each.startswith(f"{path}: ") and "\n" not in each for each in said)
    return [each.removeprefix(f"{path}: ") for each in said]


def labelled(train: Sequence[int], test: Sequence[int] | None = None) -> Arrays:
    """Random images with these labels, each a hundred times."""
    labels = {
        "train": np.repeat(train, 100),
        "test": np.repeat(train if test is None else test, 100),
    }
    sizes = {split: len(each) for split, each in labels.items()}
    arrays = make_arrays(train=sizes["train"], test=sizes["test"])
    return {split: (images, labels[split]) for split, (images, _) in arrays.items()}


def assert_only(said: list[str], *words: str) -> None:
    """One remark, which has all of ``words``."""
    assert len(said) == 1, said
    assert all(word in said[0] for word in words), said


# -- labels


def test_nothing_is_said_of_a_sound_set(tmp_path: Path) -> None:
    assert remarks(tmp_path, labelled(range(10))) == []
    assert remarks(tmp_path, labelled(range(10)), classes=10, mean=0.5, std=0.25) == []


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            range(1, 11),
            ["labels are 1 to 10", "no image has label 0:", "11 classes are trained", "0 to 9"],
        ),
        (range(1, 27), ["27 classes are trained", "0 to 25"]),
        ([0, 5, 10], ["no image has labels 1, 2, 3, 4, 6 and 3 more", "11 classes", "0 to 2"]),
    ],
    ids=["from 1", "letters", "gaps"],
)
def test_labels_that_nobody_counted_are_named(
    tmp_path: Path, labels: Sequence[int], words: list[str]
) -> None:
    assert_only(remarks(tmp_path, labelled(labels)), *words)


def test_classes_without_images_are_named(tmp_path: Path) -> None:
    assert_only(
        remarks(tmp_path, labelled([0, 1, 3], range(4)), classes=4), "no training image has label 2"
    )
    assert_only(
        remarks(tmp_path, labelled(range(4), [0, 1, 3]), classes=4), "no test image has label 2"
    )
    both = remarks(tmp_path, labelled(range(1, 11)), classes=11)
    assert [each.split(":")[0] for each in both] == [
        "no training image has label 0",
        "no test image has label 0",
    ]
    assert_only(
        remarks(tmp_path, labelled([0, 1], range(4)), classes=4),
        "no training image has labels 2, 3: such images cannot be learned",
    )


def test_one_class_only_is_named(tmp_path: Path) -> None:
    both = remarks(tmp_path, labelled([3]), classes=10)
    assert [each.split(":")[0] for each in both] == [
        "all 100 training images have label 3",
        "all 100 test images have label 3",
    ]


def test_a_class_that_has_nearly_all_is_named(tmp_path: Path) -> None:
    assert_only(
        remarks(tmp_path, labelled([0] * 99 + [1], [0, 1])),
        "99.0% of the training images have label 0",
    )
    assert_only(
        remarks(tmp_path, labelled([0, 1], [0] * 99 + [1])), "99.0% of the test images have label 0"
    )
    assert remarks(tmp_path, labelled([0] * 9 + [1], [0, 1])) == []


# -- pixels


def test_test_images_among_the_training_images_are_counted(tmp_path: Path) -> None:
    arrays = labelled(range(10))
    images = arrays["test"][0].copy()
    images[[5, 20, 700]] = arrays["train"][0][[0, 999, 3]]
    images[21] = images[20]
    changed = {**arrays, "test": (images, arrays["test"][1])}
    assert_only(
        remarks(tmp_path, changed),
        "the training set contains 4 of 1,000 test images",
        "/test/images[5]",
    )
    for parts in (2, 3, 7):
        assert_only(
            surveyed(read_info(tmp_path / "set.h5"), parts),
            "4 of 1,000 test images",
            "/test/images[5]",
        )
    assert_only(
        remarks(tmp_path, {**arrays, "train": arrays["test"]}), "1,000 of 1,000 test images"
    )


def test_an_image_of_zeros_in_both_splits_is_mentioned_once_for_each(tmp_path: Path) -> None:
    arrays = labelled(range(10))
    for images, _ in arrays.values():
        images[17] = 0
    said = remarks(tmp_path, arrays)
    assert [each.split(" (")[0] for each in said] == [
        f"1 {word} image is all zero" for word in ("training", "test")
    ]


@pytest.mark.parametrize("parts", [1, 3])
def test_images_that_are_all_the_same_are_refused_to_train_and_mentioned_to_test(
    tmp_path: Path, parts: int
) -> None:
    arrays = labelled(range(10))
    arrays["test"][0][...] = arrays["test"][0][0]
    assert_only(remarks(tmp_path, arrays), "all 1,000 test images are the same")
    assert_only(
        surveyed(read_info(tmp_path / "set.h5"), parts), "all 1,000 test images are the same"
    )
    arrays["train"][0][...] = arrays["train"][0][0]
    with pytest.raises(InputError, match="all 1,000 training images are the same"):
        remarks(tmp_path, arrays)
    with pytest.raises(InputError, match="all 1,000 training images are the same"):
        surveyed(read_info(tmp_path / "set.h5"), parts)


def test_one_test_image_is_no_test_set_of_one_class(tmp_path: Path) -> None:
    arrays = make_arrays(train=4, test=1)
    said = remarks(
        tmp_path,
        {split: (images, np.arange(len(images)) % 2) for split, (images, _) in arrays.items()},
        classes=2,
    )
    assert_only(said, "no test image has label 1: such images are not tested")


def test_images_of_zeros_are_counted(tmp_path: Path) -> None:
    arrays = labelled(range(10))
    arrays["train"][0][[17, 900]] = 0
    assert_only(remarks(tmp_path, arrays), "2 training images are all zero", "/train/images[17]")
    assert_only(
        surveyed(read_info(tmp_path / "set.h5"), 3), "2 training images", "/train/images[17]"
    )


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("parts", [1, 3])
def test_rows_that_a_writer_did_not_reach_are_refused(
    tmp_path: Path, split: str, parts: int
) -> None:
    arrays = labelled(range(10))
    with h5py.File(tmp_path / "set.h5", "w") as file:
        for name, (images, labels) in arrays.items():
            file[f"{name}/labels"] = labels
            rows = file.create_dataset(
                f"{name}/images", images.shape, np.uint8
            )  # without chunks: room for all at once
            rows[: 700 if name == split else None] = images[: 700 if name == split else None]
    with pytest.raises(InputError, match=rf"/{split}/images\[700:1000\] are all zero"):
        surveyed(read_info(tmp_path / "set.h5"), parts)


def test_training_images_that_are_all_alike_are_refused(tmp_path: Path) -> None:
    arrays = labelled(range(10))
    arrays["train"][0][...] = 200
    with pytest.raises(InputError, match="all 1,000 training images are the same"):
        remarks(tmp_path, arrays)


def test_pixels_from_0_to_1_are_named(tmp_path: Path) -> None:
    arrays = labelled(range(10))
    for images, _ in arrays.values():
        images //= 128
    arrays["test"] = (255 - arrays["test"][0], arrays["test"][1])
    assert_only(remarks(tmp_path, arrays), "no training pixel is above 1")


@pytest.mark.parametrize(
    ("attributes", "word"),
    [({"std": 0.001}, "'std'"), ({"std": 0.0}, "'std'"), ({"mean": 0.9, "std": 0.01}, "'mean'")],
    ids=str,
)
def test_statistics_far_from_the_pixels_are_named(
    tmp_path: Path, attributes: dict[str, float], word: str
) -> None:
    arrays = labelled(range(10))
    for images, _ in arrays.values():
        images //= 16  # dark
    assert_only(
        remarks(tmp_path, arrays, **attributes), f"attribute {word}", "delete the attribute"
    )


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((13, 64, 64), ["13x64 pixels with 64 channels", "transpose"]),
        ((3, 1024), ["3x1024 pixels", "flattened"]),
        ((784, 1), ["784x1"]),
    ],
    ids=str,
)
def test_a_layout_that_may_be_another_is_named(
    tmp_path: Path, shape: tuple[int, ...], words: list[str]
) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        split: (rng.integers(0, 256, (20, *shape)).astype(np.uint8), np.arange(20) % 10)
        for split in ("train", "test")
    }
    assert_only(remarks(tmp_path, arrays), *words)


# -- the file's own hashes


@pytest.mark.parametrize("parts", [1, 3, 8])
@pytest.mark.parametrize("piece", [23, 1000])
def test_a_written_set_matches_its_hash_on_any_number_of_ranks(
    tmp_path: Path, parts: int, piece: int
) -> None:
    info = read_info(write(tmp_path / "set.h5", make_arrays(train=1003, test=77)))
    assert info.blocks_sha256
    assert surveyed(info, parts, piece) == []


def flip_pixel(file: h5py.File) -> None:
    file["train/images"][700, 3, 2] ^= 1


def flip_label(file: h5py.File) -> None:
    file["test/labels"][5] = (file["test/labels"][5] + 1) % 10


def swap_examples(file: h5py.File) -> None:
    for name in ("images", "labels"):
        file[f"train/{name}"][:2] = file[f"train/{name}"][:2][::-1]


def change_text(file: h5py.File) -> None:
    file.attrs["sha256"] = "0" * 64


@pytest.mark.parametrize("change", [flip_pixel, flip_label, swap_examples, change_text])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", ["sha256", "blocks_sha256"])
def test_examples_that_do_not_match_the_files_own_hash_are_refused(
    tmp_path: Path, change: Callable[[h5py.File], None], parts: int, name: str
) -> None:
    path = write(tmp_path / "set.h5", make_arrays(train=1003, test=77))
    with h5py.File(path, "r+") as file:
        change(file)
        if name == "sha256":
            del file.attrs["blocks_sha256"]
    with pytest.raises(
        InputError, match=rf"do not match .* SHA-256 \(attribute '{name}'"
    ) as raised:
        surveyed(read_info(path), parts)
    assert "\n" not in str(raised.value)


def test_an_older_file_that_matches_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "set.h5", make_arrays(train=1003, test=77))
    with h5py.File(path, "r+") as file:
        del file.attrs["blocks_sha256"]
        file.attrs["sha256"] = file.attrs["sha256"].upper()
    assert surveyed(read_info(path)) == []


def test_a_written_set_has_a_checksum_in_each_chunk(tmp_path: Path) -> None:
    path = write(tmp_path / "set.h5", make_arrays(train=1003, test=77))
    for name in ("train/images", "train/labels", "test/images", "test/labels"):
        with h5py.File(path) as file:
            chunk = file[name].id.get_chunk_info(0)
        content = path.read_bytes()
        place = chunk.byte_offset + chunk.size // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        split = name.split("/")[0]
        with pytest.raises(InputError, match=rf"set\.h5: /{split} is damaged"):
            read_examples(read_info(path), split, range(10))
        path.write_bytes(content)


def test_chunks_of_large_images_stay_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        split: (rng.integers(0, 256, (9, 1024, 1024)).astype(np.uint8), np.arange(9))
        for split in ("train", "test")
    }
    info = read_info(write(tmp_path / "set.h5", arrays))
    assert math.prod((info.chunk_examples["train"], info.image_bytes)) <= 2**23

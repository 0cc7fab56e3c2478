"""``distcnn.convert`` on tables: pixels in columns, in one column, with and without a header."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.converting import (
    COLOR,
    GRAY,
    LABELS,
    TEST,
    TRAIN,
    WIDE,
    assert_is,
    convert,
    refused,
)


def rows(images: NDArray[Any], labels: NDArray[Any] | list[Any], last: bool = False) -> Any:
    for image, label in zip(images.reshape(len(images), -1).tolist(), labels, strict=True):
        yield [*image, label] if last else [label, *image]


@pytest.mark.parametrize("last", [False, True], ids=["label first", "label last"])
@pytest.mark.parametrize("header", [False, True], ids=["no header", "header"])
@pytest.mark.parametrize("gzipped", [False, True], ids=["plain", "gzipped"])
def test_csv(tmp_path: Path, last: bool, header: bool, gzipped: bool) -> None:
    for split, chosen in (("train", TRAIN), ("test", TEST)):
        text = io.StringIO()
        writer = csv.writer(text)
        if header:
            pixels = [f"pixel{index}" for index in range(36)]
            writer.writerow([*pixels, "class"] if last else ["label", *pixels])
        images = GRAY.copy()
        images[:, 0, 0] = images[:, -1, -1] = 0  # a corner without ink: no label
        writer.writerows(rows(images[chosen], LABELS[chosen], last))
        content = text.getvalue().encode()
        path = tmp_path / f"set_{split}.csv{'.gz' if gzipped else ''}"
        path.write_bytes(gzip.compress(content) if gzipped else content)
    assert_is(convert(*sorted(tmp_path.glob("set*"))), images)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", " "])
def test_csv_with_text_labels_and_other_delimiters(tmp_path: Path, delimiter: str) -> None:
    names = ["cat 1", "cat 10", "cat 9"]  # in natural order: 1, 9, 10
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerows(rows(GRAY, [names[label] for label in LABELS]))
    found = convert(tmp_path / "a.csv", "--test-fraction", "0.5")
    assert found.info.class_names == ("cat 1", "cat 9", "cat 10")
    everything = np.concatenate([found.train[1], found.test[1]])
    assert np.bincount(everything).tolist() == [4, 4, 4]
    code = dict(zip(range(3), (0, 2, 1), strict=True))
    of_image = {image.tobytes(): code[label] for image, label in zip(GRAY, LABELS, strict=True)}
    for images, labels in (found.train, found.test):
        assert [of_image[image.tobytes()] for image in images] == labels.tolist()


def test_csv_sizes_and_columns_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows(WIDE, LABELS))
    assert "--image-size" in refused(path, "--labels", "first")
    assert convert(path, "--labels", "first", "--image-size", "6x5").info.image_shape == (1, 6, 5)
    assert "--image-size is 5x5" in refused(path, "--labels", "first", "--image-size", "5x5")
    planar = tmp_path / "planar.csv"
    with planar.open("w", newline="") as file:
        csv.writer(file).writerows(rows(COLOR.transpose(0, 3, 1, 2), LABELS))
    assert "--image-size 32x32x3" in refused(planar, "--labels", "first")
    flags = ["--labels", "first", "--image-size", "32x32x3", "--layout", "NCHW"]
    found = convert(planar, *flags)
    assert {image.tobytes() for image in COLOR} == {
        image.tobytes() for images, _ in (found.train, found.test) for image in images
    }


def test_csv_with_an_index_needs_the_label_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    pixels = [f"p{index}" for index in range(36)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "breed", *pixels])
        writer.writerows([100 + i, *row] for i, row in enumerate(rows(GRAY, LABELS)))
    assert "--labels NAME" in refused(path)
    found = convert(path, "--labels", "breed")
    assert np.bincount(np.concatenate([found.train[1], found.test[1]])).tolist() == [4, 4, 4]


def test_csv_with_all_pixels_in_one_column_and_a_column_of_splits(tmp_path: Path) -> None:
    usage = ["Training"] * 8 + ["PublicTest"] * 2 + ["PrivateTest"] * 2
    packed = [" ".join(map(str, image.ravel())) for image in GRAY]
    path = tmp_path / "fer2013.csv"
    for header in (True, False):
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            if header:
                writer.writerow(["emotion", "pixels", "Usage"])
            writer.writerows(zip(LABELS, packed, usage, strict=True))
        assert_is(convert(path), GRAY)
    damaged = path.with_name("damaged.csv")
    damaged.write_text(path.read_text().replace(packed[1], packed[1] + "x"))
    assert "text, not numbers" in refused(damaged)
    text = path.read_text().replace(packed[3], packed[3] + " 7")
    path.write_text(text)
    assert "line 4: 37 pixels instead of 36" in refused(path)
    path.write_text(text.replace("PublicTest", "Public"))
    assert "--labels first" in refused(path)


@pytest.mark.parametrize("header", ["numbers", "pandas"])
def test_a_header_of_numbers_is_not_an_image(tmp_path: Path, header: str) -> None:
    images = GRAY.copy()
    images[:, 0, 0] = images[:, -1, -1] = 0
    path = tmp_path / "a_train.csv"
    names = [str(index) for index in range(37)]
    if header == "pandas":  # it took a row 0, 0, 0 ... 5, 5 ... for names
        names = [
            "0",
            *(f"0.{index}" for index in range(1, 30)),
            "5",
            *(f"5.{i}" for i in range(1, 7)),
        ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows(images, LABELS)])
    (tmp_path / "a_test.csv").write_bytes(path.read_bytes())
    found = convert(path, tmp_path / "a_test.csv")
    assert np.array_equal(found.train[0][..., 0], images)
    assert found.train[1].tolist() == LABELS.tolist()


def test_csv_without_labels_says_so(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    with path.open("w", newline="") as file:
        pixels = [f"pixel{index}" for index in range(36)]
        csv.writer(file).writerows([pixels, *GRAY.reshape(12, -1)])
    assert "neither the first nor the last column looks like labels" in refused(path)

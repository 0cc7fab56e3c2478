"""What the scripts in data/ take and refuse, called in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distcnn.datasets import read_examples, read_info
from distcnn.datasets.commands import idx_command, images_command, mnist_command
from distcnn.errors import InputError
from tests.conftest import as_flags

ToIdx = Callable[[NDArray[np.integer]], bytes]
Command = Callable[[list[str]], int]


def test_from_idx_takes_labels_that_begin_at_one(
    tmp_path: Path, idx_folder: Path, idx: ToIdx, capsys: pytest.CaptureFixture[str]
) -> None:
    (idx_folder / "train-labels-idx1-ubyte.gz").write_bytes(idx(np.array([1, 2, 3, 1, 2])))
    (idx_folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([3, 2, 1])))
    arguments = [str(idx_folder), "--output", str(tmp_path / "out.h5")]
    assert idx_command(arguments) == 0
    assert capsys.readouterr().err.count("give --first-label 1") == 2
    assert read_info(tmp_path / "out.h5").classes == 4
    assert idx_command([*arguments, "--first-label", "1"]) == 0
    assert capsys.readouterr().err == ""
    info = read_info(tmp_path / "out.h5")
    assert (info.classes, read_examples(info, "test", range(3))[1].tolist()) == (3, [2, 1, 0])
    assert idx_command([*arguments, "--first-label", "2"]) == 2
    assert "the smallest label is 1" in capsys.readouterr().err


def test_from_idx_finds_one_set_by_its_names_and_refuses_to_choose_between_two(
    tmp_path: Path, idx_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in list(idx_folder.iterdir()):
        path.rename(path.with_name(f"emnist-letters-{path.name.replace('t10k', 'test')}"))
    arguments = [str(idx_folder), "--output", str(tmp_path / "out.h5")]
    assert idx_command(arguments) == 0
    for path in list(idx_folder.iterdir()):
        path.with_name(path.name.replace("letters", "digits")).write_bytes(path.read_bytes())
    assert idx_command(arguments) == 2
    said = capsys.readouterr().err
    assert "emnist-digits-train-images" in said
    assert "--train-images FILE" in said


def test_from_idx_takes_other_file_names_a_name_and_the_number_of_classes(
    tmp_path: Path, idx_folder: Path
) -> None:
    for key, name in (
        ("train-images", "train-images-idx3-ubyte.gz"),
        ("test-labels", "t10k-labels-idx1-ubyte"),
    ):
        (idx_folder / name).rename(idx_folder / f"my-{key}")
    names = ["--train-images", "my-train-images", "--test-labels", "my-test-labels"]
    assert (
        idx_command(
            [
                str(idx_folder),
                *names,
                *as_flags(name="mine", classes=26, output=tmp_path / "out.h5"),
            ]
        )
        == 0
    )
    info = read_info(tmp_path / "out.h5")
    assert (info.name, info.classes, info.source) == ("mine", 26, f"IDX files in {idx_folder}")
    assert info.examples == {"train": 5, "test": 3}


def test_from_idx_takes_color(tmp_path: Path, idx_folder: Path, idx: ToIdx) -> None:
    (idx_folder / "train-images-idx3-ubyte.gz").write_bytes(idx(np.arange(360).reshape(5, 4, 6, 3)))
    (idx_folder / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((3, 4, 6, 3), np.uint8)))
    assert idx_command([str(idx_folder), "--output", str(tmp_path / "out.h5")]) == 0
    assert read_info(tmp_path / "out.h5").image_shape == (3, 4, 6)


@pytest.mark.parametrize(
    ("images", "labels"),
    [((5, 4, 6), (4,)), ((5, 4, 6), (5, 1)), ((5, 24), (5,)), ((0, 4, 6), (0,))],
    ids=["label missing", "labels 2-d", "images 2-d", "empty"],
)
@pytest.mark.parametrize("split", ["train", "t10k"])
def test_from_idx_refuses_files_that_do_not_fit_together(
    tmp_path: Path,
    idx_folder: Path,
    idx: ToIdx,
    capsys: pytest.CaptureFixture[str],
    split: str,
    images: tuple[int, ...],
    labels: tuple[int, ...],
) -> None:
    suffix = ".gz" if split == "train" else ""
    (idx_folder / f"{split}-images-idx3-ubyte{suffix}").write_bytes(idx(np.zeros(images, np.uint8)))
    (idx_folder / f"{split}-labels-idx1-ubyte{suffix}").write_bytes(idx(np.zeros(labels, np.uint8)))
    assert idx_command([str(idx_folder), "--output", str(tmp_path / "out.h5")]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert f"{split}-images-idx3-ubyte{suffix} has shape {images} and " in said.err
    assert (
        f"{split}-labels-idx1-ubyte{suffix} {labels}: they must be (N, height, width)" in said.err
    )
    assert not list(tmp_path.glob("*out.h5*"))


def test_from_idx_refuses_a_damaged_file(
    tmp_path: Path, idx_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = idx_folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-5])
    assert idx_command([str(idx_folder), "--output", str(tmp_path / "out.h5")]) == 2
    assert "train-images-idx3-ubyte.gz is damaged" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out.h5*"))


@pytest.mark.parametrize(
    ("command", "folder"),
    [(idx_command, "idx_folder"), (images_command, "image_folder")],
    ids=["idx", "images"],
)
def test_an_output_below_a_file_is_refused(
    tmp_path: Path,
    command: Command,
    folder: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("mine")
    assert (
        command([str(request.getfixturevalue(folder)), "--output", str(tmp_path / "file/out.h5")])
        == 2
    )
    assert "out.h5 cannot be written" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--size", "32"],
            "--size: '32' is not a size: give height x width in pixels, such as 32x32",
        ),
        (["--size", "0x32"], "--size: '0x32' is not a size"),
        (["--size", "axb"], "--size: 'axb' is not a size"),
        (["--size", "-3x4"], "--size"),
        (["--test-fraction", "0"], "--test-fraction is 0: it must be above 0 and below 1"),
        (["--test-fraction", "1"], "--test-fraction is 1: it must be"),
        (["--test-fraction", "nan"], "--test-fraction is nan: it must be"),
        (["--test-fraction", "half"], "--test-fraction: invalid float value: 'half'"),
        (["--seed", "x"], "--seed: invalid int value: 'x'"),
    ],
    ids=" ".join,
)
def test_from_images_refuses_bad_flags_by_name(
    tmp_path: Path,
    image_folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    assert (
        images_command([str(image_folder), "--output", str(tmp_path / "out.h5"), *arguments]) == 2
    )
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.glob("*out.h5*"))


def test_ctrl_c_ends_an_import_in_one_line_and_leaves_the_older_file(
    tmp_path: Path,
    image_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "out.h5").write_bytes(b"older")
    monkeypatch.setattr("distcnn.datasets.importers.folders.read_picture", interrupted)
    assert images_command([str(image_folder), "--output", str(tmp_path / "out.h5")]) == 130
    assert capsys.readouterr().err.count("\n") == 1
    assert [each.read_bytes() for each in tmp_path.glob("*out.h5*")] == [b"older"]


@pytest.mark.parametrize("size", ["3x7", "3X7"])
def test_from_images_takes_size_grayscale_fraction_and_seed(
    tmp_path: Path, image_folder: Path, size: str
) -> None:
    Image.new("RGB", (9, 9)).save(image_folder / "a/color.png")
    flags = ["--size", size, "--grayscale", "--test-fraction", "0.5", "--seed"]
    for seed in ("1", "2"):
        assert (
            images_command(
                [str(image_folder), *flags, seed, "--output", str(tmp_path / f"{seed}.h5")]
            )
            == 0
        )
    info = read_info(tmp_path / "1.h5")
    assert (info.image_shape, info.examples) == ((1, 3, 7), {"train": 6, "test": 5})
    assert info.sha256 != read_info(tmp_path / "2.h5").sha256


def test_mnist_prepares_again_only_by_force(tmp_path: Path, mnist_files: dict[str, bytes]) -> None:
    for name, content in mnist_files.items():
        (tmp_path / name).write_bytes(content)
    output = tmp_path / "out.h5"
    arguments = ["--source", str(tmp_path), "--output", str(output)]
    assert mnist_command(arguments) == 0
    os.utime(output, (1, 1))
    assert mnist_command(arguments) == 0
    assert output.stat().st_mtime == 1
    assert mnist_command([*arguments, "--force"]) == 0
    assert output.stat().st_mtime > 1


def test_mnist_by_force_takes_the_folder_that_the_environment_names(
    tmp_path: Path, mnist_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def from_a_mirror(*_: object) -> None:
        raise InputError("a mirror was asked")

    monkeypatch.setattr("distcnn.datasets.prepare_mnist.download_mnist", from_a_mirror)
    monkeypatch.setenv("DISTCNN_MNIST_DIR", str(tmp_path))
    for name, content in mnist_files.items():
        (tmp_path / name).write_bytes(content)
    assert mnist_command(["--force", "--output", str(tmp_path / "out.h5")]) == 0


@pytest.mark.parametrize(
    ("test_shape", "flags", "says"),
    [
        (
            (3, 2, 2),
            [],
            "the training images are 4x6 and the test images 2x2: they must have the same size",
        ),
        ((3, 4, 6), ["--classes", "-3"], "--classes is -3: it must be 1 to"),
        ((3, 4, 6), ["--classes", "0"], "--classes is 0: it must be 1 to"),
        (
            (3, 4, 6),
            ["--classes", "7"],
            "the test labels go from 0 to 7: for 7 classes they must be 0 to 6",
        ),
        ((3, 4, 0), [], "the test images are 4x0: height, width and channels must be at least 1"),
    ],
    ids=["sizes differ", "classes negative", "classes zero", "classes too few", "no width"],
)
def test_from_idx_keeps_the_older_file_when_the_set_is_refused(
    tmp_path: Path,
    idx_folder: Path,
    idx: ToIdx,
    capsys: pytest.CaptureFixture[str],
    test_shape: tuple[int, ...],
    flags: list[str],
    says: str,
) -> None:
    (idx_folder / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros(test_shape, np.uint8)))
    (tmp_path / "out.h5").write_bytes(b"older")
    assert idx_command([str(idx_folder), *flags, "--output", str(tmp_path / "out.h5")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("data/from_idx.py: error: ")
    assert said.count("\n") == 1
    assert says in said
    assert [each.read_bytes() for each in tmp_path.glob("*out.h5*")] == [b"older"]

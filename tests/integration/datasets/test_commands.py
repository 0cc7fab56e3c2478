"""The scripts in data/ as a user runs them: one line of success, or one line of error, exit code 2
and no file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distcnn.datasets import read_examples, read_info, write_dataset
from distcnn.datasets.writer import Split
from tests.conftest import as_flags

ROOT = Path(__file__).parents[3]
TIMEOUT_SECONDS = 60
ToIdx = Callable[[NDArray[np.integer]], bytes]


def run(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python data/SCRIPT arguments`` in the repository's folder, with the package not installed
    and no network to find.
    """
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("DISTCNN_", "PIP_"))
    }
    offline = {
        "DISTCNN_MNIST_MIRRORS": "http://127.0.0.1:1/",
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "no_proxy": "*",
    }
    return subprocess.run(
        [sys.executable, f"data/{script}", *map(str, arguments)],
        cwd=ROOT,
        env=inherited
        | offline
        | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
        | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def assert_refused(done: subprocess.CompletedProcess[str], script: str, *says: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"data/{script}: error: ")
    for each in says:
        assert each in done.stderr


def test_from_idx_makes_a_set_and_says_what_it_is(tmp_path: Path, idx_folder: Path) -> None:
    output = tmp_path / "new/letters.h5"
    done = run("from_idx.py", idx_folder, "--output", output)
    assert done.returncode == 0
    assert done.stdout.endswith(
        f"{output}: letters, 5 training and 3 test images, 1x4x6 (channels x height x width), 8"
        " classes\n"
    )
    info = read_info(output)
    images, labels = read_examples(info, "train", range(5))
    assert images.ravel().tolist() == list(range(120))
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert read_examples(info, "test", range(3))[1].tolist() == [0, 7, 1]


def test_from_idx_refuses_a_bad_folder_in_one_line(tmp_path: Path) -> None:
    done = run("from_idx.py", tmp_path / "nowhere", "--output", tmp_path / "out.h5")
    assert_refused(
        done, "from_idx.py", f"{tmp_path}/nowhere/train-images-idx3-ubyte[.gz] does not exist"
    )
    assert list(tmp_path.iterdir()) == []


def test_from_images_makes_a_set_and_says_what_it_is(tmp_path: Path, image_folder: Path) -> None:
    output = tmp_path / "new/pets.h5"
    done = run(
        "from_images.py",
        image_folder,
        *as_flags(output=output, size="3x2", test_fraction=0.4, name="cats and dogs"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(
        f"{output}: cats and dogs, 6 training and 4 test images, 1x3x2 (channels x height x width),"
        " 2 classes\n"
    )
    assert read_info(output).examples == {"train": 6, "test": 4}


def test_from_images_refuses_a_broken_image_in_one_line(tmp_path: Path, image_folder: Path) -> None:
    (image_folder / "b/3.png").write_bytes((image_folder / "b/3.png").read_bytes()[:40])
    done = run("from_images.py", image_folder, "--output", tmp_path / "out.h5")
    assert_refused(done, "from_images.py", f"{image_folder}/b/3.png cannot be read as an image")
    assert not list(tmp_path.glob("*out.h5*"))


def test_mnist_says_what_is_there_and_leaves_it(tmp_path: Path) -> None:
    output = tmp_path / "mnist.h5"
    split = Split(
        1200, [(np.arange(7200).reshape(1200, 2, 3).astype(np.uint8), np.zeros(1200, np.int64))]
    )
    write_dataset(
        output, name="mnist", source="a test", classes=10, splits={"train": split, "test": split}
    )
    before = output.stat().st_mtime_ns
    done = run("mnist.py", "--output", output)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout
        == f"{output}: mnist, 1,200 training and 1,200 test images, 1x2x3 (channels x height x"
        " width), 10 classes\n"
    )
    assert output.stat().st_mtime_ns == before


def test_mnist_refuses_a_folder_of_other_files_in_one_line(
    tmp_path: Path, idx_folder: Path
) -> None:
    done = run("mnist.py", "--source", idx_folder, "--output", tmp_path / "out.h5")
    assert_refused(
        done,
        "mnist.py",
        f"{idx_folder}/train-images-idx3-ubyte.gz",
        "truncated or altered",
        "data/from_idx.py",
    )
    assert done.stdout == ""
    assert not list(tmp_path.glob("*out.h5*"))


def test_mnist_refuses_in_one_line_when_there_is_no_way_to_it(tmp_path: Path) -> None:
    done = run("mnist.py", "--output", tmp_path / "out.h5")
    assert_refused(done, "mnist.py", "MNIST cannot be downloaded", "DISTCNN_MNIST_DIR")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["mnist.py", "from_idx.py", "from_images.py"])
def test_help_names_the_script_as_it_is_called(script: str) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: python data/{script} ")
    assert "--output FILE" in done.stdout


def test_from_images_prints_every_class_with_its_counts_and_what_it_left_out(
    tmp_path: Path, image_folder: Path
) -> None:
    for index, name in enumerate(["10", "9", "evil\x1b[31m\nname"]):
        for number in range(4):
            path = image_folder / name / f"{number}.bmp"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((4, 6), 50 * index + number, np.uint8)).save(path)
    (image_folder / "a/photo.heic").touch()
    (image_folder / ".ipynb_checkpoints").mkdir()
    done = run(
        "from_images.py", image_folder, "--output", tmp_path / "out.h5", PYTHONIOENCODING="ascii"
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:7]]
    assert rows == [
        ["0", "9", "3", "1"],
        ["1", "10", "3", "1"],
        ["2", "a", "4", "1"],
        ["3", "b", "4", "1"],
        [*"4", *rows[4][1:2], "3", "1"],
    ]
    assert "\x1b" not in done.stdout
    assert "--class-order" in done.stdout
    assert [
        ".heic" in line or ".ipynb_checkpoints" in line for line in done.stderr.splitlines()
    ] == [True, True]

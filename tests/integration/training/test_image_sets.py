"""Image sets in training: what is refused or reported at the start, on all ranks at once, and slow
reading that is not a stall.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from distcnn.errors import InputError
from distcnn.training import data as training_data
from tests.conftest import SERIAL, Launcher, MakeImageSet, as_flags, launcher_of, mpi_launcher, slow
from tests.support.training_fixtures import prepare, train

EXIT_INPUT = 2
QUICK = ["--model", "tutorial", "--max-steps", "2"]
WINDOWS = ["--data-memory", "3"]


@pytest.fixture
def own(image_set: MakeImageSet, tmp_path: Path) -> Path:
    return Path(shutil.copy(image_set(train=1003, test=77), tmp_path / "set.h5"))


def as_of_old(path: Path) -> None:
    """As version 0.1.0 wrote it: without checksums in the chunks and without ``blocks_sha256``."""
    with h5py.File(path, "r+") as file:
        del file.attrs["blocks_sha256"]
        for name in ("train/images", "train/labels", "test/images", "test/labels"):
            values = file[name][:]
            del file[name]
            file[name] = values


def flip_pixel(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["train/images"][700, 3, 2] ^= 1


def lie(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["sha256"] = "0" * 64


# -- the file's own hash


@pytest.mark.parametrize("memory", [0.0, 3.0], ids=["in memory", "in windows"])
@pytest.mark.parametrize("old", [False, True], ids=["with blocks", "of old"])
@pytest.mark.parametrize("change", [None, flip_pixel, lie])
def test_a_set_that_does_not_match_its_hash_is_refused(
    own: Path, memory: float, old: bool, change: Callable[[Path], None] | None
) -> None:
    if old:
        as_of_old(own)
    if not change:
        assert prepare(own, data_memory=memory).evaluation().examples == 77
        return
    change(own)
    with pytest.raises(InputError, match=r"set\.h5: the examples do not match the file's SHA-256"):
        prepare(own, data_memory=memory)


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("old", "flags"), [(False, WINDOWS), *slow((True, WINDOWS), (False, []), (True, []))]
)
def test_any_number_of_ranks_compares_the_hash(
    own: Path, old: bool, flags: list[str], tmp_path: Path
) -> None:
    if old:
        as_of_old(own)
    results = [
        mpi_launcher().train(ranks, tmp_path / str(ranks), "--data", str(own), *QUICK, *flags)
        for ranks in (1, 3)
    ]
    assert results[0]["dataset"] == results[1]["dataset"]
    flip_pixel(own)
    start = [*as_flags(data=own), *QUICK, *flags, *as_flags(output=tmp_path / "run")]
    for launcher, ranks in ((SERIAL, 1), (mpi_launcher(), 3)):
        done = train(launcher, ranks, *start)
        assert done.returncode == EXIT_INPUT
        assert done.stderr.count("do not match the file's SHA-256") == 1
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()


def test_the_result_records_what_was_read(own: Path, tmp_path: Path) -> None:
    with h5py.File(own) as file:
        stored = file.attrs["sha256"]
    SERIAL.train(1, tmp_path / "run", "--data", str(own), *QUICK)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["dataset"]["sha256"] == stored


# -- what is mentioned


@pytest.mark.mpi
@pytest.mark.parametrize(("ranks", "flags"), [(1, []), (3, WINDOWS), *slow((3, []), (1, WINDOWS))])
def test_suspicious_content_is_reported_once(
    own: Path, ranks: int, flags: list[str], tmp_path: Path
) -> None:
    with h5py.File(own, "r+") as file:
        for name in ("sha256", "blocks_sha256", "classes"):
            del file.attrs[name]
        for split in ("train", "test"):
            file[f"{split}/labels"][...] += 1
        file["test/images"][10:20] = file["train/images"][-10:]
    launcher = launcher_of(ranks)
    done = train(
        launcher, ranks, *as_flags(data=own), *QUICK, *flags, *as_flags(output=tmp_path / "run")
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith(f"warning: {own}")]
    assert len(said) == 2, done.stdout
    assert "no image has label 0" in said[0]
    assert "the training set contains 10 of 77 test images" in said[1]


# -- memory


def test_a_set_larger_than_the_host_is_refused_before_it_is_read(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_data, "most_memory", lambda: 2**19)
    with pytest.raises(
        InputError, match=r"set\.h5: host .* GiB of the image set in memory.*--data-memory"
    ):
        prepare(own)
    assert prepare(own, data_memory=3.0).evaluation().examples == 77
    monkeypatch.setattr(training_data, "most_memory", lambda: None)  # not Linux
    assert prepare(own).evaluation().examples == 77


LIMITED = """
import resource, sys
from pathlib import Path
from distcnn.train import main
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20, -1))
sys.exit(main(sys.argv[1:]))
"""


def test_no_memory_left_is_one_line(tmp_path: Path) -> None:
    path, images = tmp_path / "set.h5", np.zeros((200_000, 28, 28), np.uint8)
    images[:, 0, 0] = 1
    with h5py.File(path, "w") as file:
        for split in ("train", "test"):
            file.create_dataset(
                f"{split}/images", data=images, chunks=(10_000, 28, 28), compression="lzf"
            )
            file[f"{split}/labels"] = np.arange(200_000) % 10
    flags = ["--data", str(path), "--model", "mlp", "--output", str(tmp_path / "run")]
    done = SERIAL.run(
        1, "-c", LIMITED, *flags, MALLOC_ARENA_MAX="1"
    )  # else each thread reserves 64 MiB of addresses
    assert (done.returncode, done.stderr.count("\n")) == (EXIT_INPUT, 1), done.stderr
    assert "--data-memory" in done.stderr


# -- slow reading

SLOW = """
import sys, time
from distcnn.datasets.examples import ExampleFile
from distcnn.train import main

read = ExampleFile.read

def slowly(self, split, span, images, labels):
    time.sleep(0.4 if split == "train" else 0.0)
    read(self, split, span, images, labels)

ExampleFile.read = slowly
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--data-memory", "100"]], ids=["in memory", "in windows"])
def test_slow_reading_is_not_a_stall(
    image_set: MakeImageSet, flags: list[str], tmp_path: Path
) -> None:
    data = image_set(train=16_000, test=10)  # 12 MiB: 12 pieces, 5 s
    start = as_flags(data=data, output=tmp_path / "run", num_shards=1, stall_timeout=2)
    done = SERIAL.run(1, "-c", SLOW, *start, *QUICK, *flags)
    assert done.returncode == 0, done.stderr


# -- a set in several files


def split_up(path: Path, folder: Path) -> None:
    """Move the training images to files of their own in ``folder``, where HDF5 finds them through
    HDF5_VDS_PREFIX.
    """
    folder.mkdir()
    with h5py.File(path, "r+") as file:
        images = file["train/images"][:]
        del file["train/images"]
        layout = h5py.VirtualLayout(images.shape, np.uint8)
        for start in range(0, len(images), 200):
            part = images[start : start + 200]
            with h5py.File(folder / f"{start}.h5", "w") as made:
                made["images"] = part
            layout[start : start + len(part)] = h5py.VirtualSource(
                f"{start}.h5", "images", part.shape
            )
        file.create_virtual_dataset("train/images", layout)


def test_a_set_in_parts_gives_the_bits_of_one_file(
    image_set: MakeImageSet, own: Path, tmp_path: Path
) -> None:
    split_up(own, tmp_path / "parts")
    whole = SERIAL.train(
        1, tmp_path / "whole", "--data", str(image_set(train=1003, test=77)), *QUICK
    )
    parts = SERIAL.train(
        1, tmp_path / "run", "--data", str(own), *QUICK, HDF5_VDS_PREFIX=str(tmp_path / "parts")
    )
    assert parts["params_sha256"] == whole["params_sha256"]
    assert parts["dataset"]["content_sha256"] == whole["dataset"]["content_sha256"]


@pytest.mark.mpi
def test_a_part_that_one_rank_does_not_see_ends_all(own: Path, tmp_path: Path) -> None:
    split_up(own, tmp_path / "parts")
    launcher = mpi_launcher()
    flags = ["--data", str(own), *QUICK, "--output", str(tmp_path / "run")]
    hidden = (
        f'[ "$PMI_RANK" = 1 ] && unset HDF5_VDS_PREFIX; exec {launcher.python} -m distcnn.train'
        f" {' '.join(flags)}"
    )
    done = Launcher("a shell", "sh", launcher.mpirun).run(
        3, "-c", hidden, HDF5_VDS_PREFIX=str(tmp_path / "parts")
    )
    assert done.returncode == EXIT_INPUT, done.stderr
    assert (
        done.stderr.count(
            "/train/images[0:200] is stored in 0.h5, which is missing, or not visible here"
        )
        == 1
    )
    assert "(on rank 1)" in done.stderr
    assert not (tmp_path / "run").exists()

"""The doctor finds image sets and folders that cannot be used."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest

from distcnn.datasets import opening, read_info
from distcnn.datasets.opening import is_locked
from distcnn.distributed import Communicator
from distcnn.doctor import files
from distcnn.doctor.findings import Finding, Ranks, attempt
from tests.conftest import Launcher, MakeImageSet
from tests.support.examined import doctor


@pytest.fixture
def own(image_set: MakeImageSet, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "set.h5"
    shutil.copy(image_set(), path)
    return path


def data_findings(path: Path) -> list[Finding]:
    """What the check of the image set finds in this process."""
    options = argparse.Namespace(data=str(path))
    return Ranks({0: "here"}).merge({0: attempt(files.data, Communicator(), options)})


def test_a_file_that_is_written(serial: Launcher, own: Path) -> None:
    with h5py.File(own, "r+", locking=True):
        seen = doctor(serial, 1, "--data", str(own))
    seen.only_bad("data")
    assert f"{own} is locked by another process" in seen.of("data", "bad")
    assert "wait until it is written" in seen.of("data", "bad")


def test_a_writer_that_left_it_open(serial: Launcher, own: Path) -> None:
    """HDF5 marks such files itself."""
    with (
        h5py.File(own.with_name("marked.h5"), "w", libver="latest") as file,
        h5py.File(own) as source,
    ):
        for name in ("train", "test"):
            source.copy(name, file)
        file.flush()
        shutil.copy(file.filename, own.with_name("left.h5"))
    seen = doctor(serial, 1, "--data", str(own.with_name("left.h5")))
    seen.only_bad("data")
    assert "open for writing in another process" in seen.of("data", "bad")
    assert "h5clear" in seen.of("data", "bad")


def test_a_named_pipe_is_called_one_and_not_a_slow_file_system(
    serial: Launcher, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "set.h5")
    seen = doctor(serial, 1, "--data", str(tmp_path / "set.h5"))
    seen.only_bad("data")
    assert "is not a regular file" in seen.of("data", "bad")


@pytest.mark.parametrize(
    ("size", "says"),
    [(20_000, "truncated file"), (100, "is not a complete HDF5 file"), (0, "is empty")],
)
def test_a_file_that_was_cut_off(serial: Launcher, own: Path, size: int, says: str) -> None:
    own.write_bytes(own.read_bytes()[:size])
    seen = doctor(serial, 1, "--data", str(own))
    seen.only_bad("data")
    assert says in seen.of("data", "bad")


def test_a_bit_that_changed(serial: Launcher, own: Path) -> None:
    with h5py.File(own) as file:
        offset = file["train/images"].id.get_chunk_info(0).byte_offset
    content = bytearray(own.read_bytes())
    content[offset + 5000] ^= 1
    own.write_bytes(content)
    seen = doctor(serial, 1, "--data", str(own))
    seen.only_bad("data")
    assert "damaged" in seen.of("data", "bad")


def test_an_image_set_is_judged_as_training_judges_it(serial: Launcher, own: Path) -> None:
    with h5py.File(own, "r+") as file:
        for name in ("sha256", "blocks_sha256"):
            del file.attrs[name]
        file["test/images"][:10] = file["train/images"][:10]
        file.attrs["classes"] = 11
    remarks = files.judge_content(read_info(own), only_labels=False)
    assert len(remarks) == 3
    seen = doctor(serial, 1, "--data", str(own))
    seen.only_bad()
    assert all(remark in seen.of("data", "warning") for remark in remarks)
    done = serial.run(
        1,
        "-m",
        "distcnn.train",
        "--data",
        str(own),
        "--max-steps",
        "1",
        "--model",
        "tutorial",
        "--output",
        f"{own}.run",
    )
    assert done.returncode == 0, done.stderr
    assert all(f"warning: {remark}" in done.stdout.splitlines() for remark in remarks)


def test_it_says_when_it_checked_the_labels_only(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def text() -> str:
        return " ".join(each.text for each in data_findings(own))

    assert "only its labels were checked" not in text()
    monkeypatch.setattr(files, "LARGE_BYTES", 1000)
    assert "only its labels were checked" in text()


def test_a_hash_that_does_not_match_is_bad_here_too(serial: Launcher, own: Path) -> None:
    with h5py.File(own, "r+") as file:
        file["train/labels"][3] = (file["train/labels"][3] + 1) % 10
    seen = doctor(serial, 1, "--data", str(own))
    seen.only_bad("data")
    assert "SHA-256" in seen.of("data", "bad")


def test_a_set_larger_than_the_host_is_reported(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "most_memory", lambda: 1000)
    found = data_findings(own)
    assert any(each.state == "warning" and "--data-memory" in each.remedy for each in found)


@pytest.mark.parametrize("name", ["/proc/nothing/runs", "{file}", "{file}/runs"])
def test_an_output_that_is_not_a_folder(serial: Launcher, own: Path, name: str) -> None:
    seen = doctor(serial, 1, "--output", name.format(file=own))
    seen.only_bad("output")
    assert "--output" in seen.of("output", "bad")


def test_an_output_that_holds_a_run(serial: Launcher, tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    seen = doctor(serial, 1, "--output", str(tmp_path))
    seen.only_bad()
    assert "--resume" in seen.of("output", "warning")
    assert [each.name for each in tmp_path.iterdir()] == ["config.toml"]


def test_lock_states(own: Path) -> None:
    with own.open("rb") as reader:
        assert not is_locked(reader)
        with own.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            assert not is_locked(reader)  # a reader's
            fcntl.flock(file, fcntl.LOCK_EX)
            assert is_locked(reader)
        assert not is_locked(reader)


def test_a_file_system_that_hangs(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    released = threading.Event()
    monkeypatch.setattr(files, "SECONDS", 0.1)
    monkeypatch.setattr(opening, "is_locked", lambda file: not released.wait(10))
    [found] = data_findings(own)
    released.set()
    assert "took more than 0.1 s" in found.text

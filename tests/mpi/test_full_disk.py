"""A disk (a small tmpfs) that fills up during a run, and an output that cannot be written to: the
run continues.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from distcnn.checkpoints import CheckpointStore
from tests.conftest import ROOT, SERIAL, MakeImageSet, as_flags
from tests.support.running import STAGED, Running, reference_hash, running

RUN = ["--output", "{disk}/run", "--checkpoint-every", "1", "--keep", "99", "--check-every", "1"]


@dataclass(frozen=True)
class Disk:
    """A file system of 2 MB at ``path``, visible only to processes under ``prefix``; from here it
    is at ``seen``.
    """

    path: Path
    seen: Path
    prefix: list[str]

    @property
    def run(self) -> Path:
        return self.seen / "run"

    @property
    def checkpoints(self) -> CheckpointStore:
        return CheckpointStore(self.run / "checkpoints")

    def fill(self) -> None:
        """Fill it completely."""
        with (self.seen / "ballast").open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 10):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC  # noqa: PT017  (how a full disk is met)

    def make_room(self) -> None:
        (self.seen / "ballast").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """In a mount namespace that ends with the process that holds it."""
    path = tmp_path / "disk"
    path.mkdir()
    script = 'mount -t tmpfs -o size=2m none "$1" && echo mounted && exec sleep 600'
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert holder.stdout
    assert holder.stderr
    try:
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip(f"no private mount here: {holder.stderr.read().decode().strip()}")
        enter = ["nsenter", "--mount", "--wd", "--target", str(holder.pid)]
        yield Disk(path, Path(f"/proc/{holder.pid}/root{path}"), enter)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        holder.stderr.close()


def start(disk: Disk, *arguments: str, pace: str = "0.03") -> Any:
    return running(
        SERIAL,
        1,
        *(each.format(disk=disk.path) for each in arguments),
        prefix=disk.prefix,
        STAGED_PACE=pace,
    )


def fill_after_first_checkpoint(run: Running, disk: Disk) -> list[int]:
    """Fill the disk; return the steps with a checkpoint once the run has reported it."""
    run.wait_for(lambda: disk.checkpoints.steps(), "a checkpoint")
    disk.fill()
    run.wait_for_text("not written (No space left on device)")
    return disk.checkpoints.steps()


def check_whole(disk: Disk, steps: list[int]) -> None:
    assert disk.checkpoints.steps() == steps
    assert [disk.checkpoints.load(step).attributes["step"] for step in steps] == steps


def check_records(run: Path) -> None:
    """Every line is complete and occurs once."""
    lines = {
        name: [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]
        for name in ("metrics", "receipt")
    }
    assert [line["step"] for line in lines["metrics"] if line["kind"] == "step"] == list(
        range(1, 15)
    )
    assert [line["step"] for line in lines["metrics"] if line["kind"] == "epoch"] == [7, 14]
    starts = [line["kind"] for line in lines["receipt"] if line["kind"] in ("start", "resume")]
    assert starts[0] == "start"
    rest = [
        (line["kind"], line["step"])
        for line in lines["receipt"]
        if line["kind"] not in ("start", "resume")
    ]
    weights = [("weights", step) for step in range(1, 15)]
    assert rest == [*weights[:7], ("epoch", 7), *weights[7:], ("epoch", 14), ("end", 14)]


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while(disk: Disk, image_set: MakeImageSet) -> None:
    with start(disk, *STAGED, "--data", str(image_set()), *RUN) as run:
        before = fill_after_first_checkpoint(run, disk)
        run.wait_for_text(
            "receipt.jsonl cannot be written (No space left on device): its content is kept in"
            " memory; training continues"
        )
        check_whole(disk, before)
        assert not [each.name for each in disk.run.rglob("*.tmp")]
        disk.make_room()
        ended = run.end(20)
    assert ended.code == 0, ended.stderr
    assert disk.checkpoints.steps()[-1] == 14
    check_whole(disk, disk.checkpoints.steps())
    check_records(disk.run)
    assert json.loads((disk.run / "result.json").read_text())["params_sha256"] == reference_hash(
        image_set()
    )


@pytest.mark.slow
def test_a_disk_that_stays_full_to_the_end(disk: Disk, image_set: MakeImageSet) -> None:
    with start(disk, *STAGED, "--data", str(image_set()), *RUN) as run:
        before = fill_after_first_checkpoint(run, disk)
        ended = run.end(20)
    assert ended.code == 2
    assert (
        f"distcnn.train: error: the results cannot be written to {disk.path}/run (No space left on"
        " device): free some space, " in ended.stderr
    )
    assert f"--resume {disk.path}/run" in ended.stderr
    check_whole(disk, before)
    assert not [each.name for each in disk.run.rglob("*.tmp")]
    disk.make_room()
    with start(
        disk, "-m", "distcnn.train", *as_flags(resume="{disk}/run", trust_model=True), pace="0"
    ) as run:
        ended = run.end(20)
    assert ended.code == 0, ended.stderr
    check_records(disk.run)
    assert f"weights {reference_hash(image_set())}\n" in ended.stdout


def test_a_disk_that_is_full_when_a_signal_comes(disk: Disk, image_set: MakeImageSet) -> None:
    with start(disk, *STAGED, "--data", str(image_set()), *RUN) as run:
        before = fill_after_first_checkpoint(run, disk)
        run.process.terminate()
        ended = run.end(20)
    assert ended.code == 85
    assert f"the latest checkpoint is of step {before[-1]}\n" in ended.stderr
    check_whole(disk, before)


def test_output_to_a_full_device(image_set: MakeImageSet, tmp_path: Path) -> None:
    flags = ["--data", str(image_set()), "--output", str(tmp_path / "run")]
    for stream in ("stdout", "stderr"):
        path = tmp_path / stream
        flags[-1] = str(path)
        with (
            Path("/dev/full").open("wb") as full,
            running(SERIAL, 1, *STAGED, *flags, **{stream: full}) as run,
        ):
            ended = run.end(20)
        assert ended.code == 0, ended.stderr
        assert ended.stderr.count(
            "standard output cannot be written (No space left on device)"
        ) == (stream == "stdout")
        assert json.loads((path / "result.json").read_text())["params_sha256"] == reference_hash(
            image_set()
        )


def test_output_to_a_pipe_whose_reader_leaves(image_set: MakeImageSet, tmp_path: Path) -> None:
    flags = ["--data", str(image_set()), "--output", str(tmp_path / "run")]
    reader, writer = os.pipe()
    with running(SERIAL, 1, *STAGED, *flags, stdout=writer, STAGED_PACE="0.02") as run:
        os.close(writer)
        with os.fdopen(reader) as lines:
            assert any(line.startswith("model ") for line in lines)
            time.sleep(0.1)
        ended = run.end(20)
    assert ended.code == 0, ended.stderr
    assert (
        ended.stderr
        == "warning: standard output cannot be written (Broken pipe): continuing without it\n"
    )
    assert json.loads((tmp_path / "run" / "result.json").read_text())[
        "params_sha256"
    ] == reference_hash(image_set())

"""Writing in the background: training continues meanwhile, one write at a time, and errors are
reported.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from distcnn.checkpoints import Checkpoint, CheckpointStore, CheckpointWriter
from tests.support.full_disk import full_disk

SECONDS = 30.0
"""After which a test that waits for another thread gives up."""


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint({"step": step}, {}, {"weights/a": np.full(3, step, np.float32)})


UNWRITABLE = Checkpoint({"step": 4}, {}, {"weights/a": np.array([object()])})
"""HDF5 has no such type: a defect, not a full disk."""


@dataclass(frozen=True)
class SlowStore(CheckpointStore):
    """A real store on a slow disk: each write lasts until the test ends it."""

    begun: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    may_end: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def save(self, step: int, checkpoint: Checkpoint) -> Path:
        self.begun.append(step)
        assert self.may_end.acquire(timeout=SECONDS)
        path = super().save(step, checkpoint)
        self.ended.append(step)
        return path


@dataclass(frozen=True)
class CrowdedStore(CheckpointStore):
    """A real store on a disk with room for a given number of checkpoints."""

    room_for: int = 1

    def save(self, step: int, checkpoint: Checkpoint) -> Path:
        if len(self.steps()) == self.room_for:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().save(step, checkpoint)


class Harness:
    """A writer on a store, and what it reported."""

    def __init__(self, store: CheckpointStore, keep: int = 3) -> None:
        self.store, self.reports = store, list[str]()
        self.writer = CheckpointWriter(lambda: store, keep, self.reports.append)

    def write(self, *steps: int, best_step: int | None = None) -> None:
        """Write checkpoints of these steps, each completely."""
        for step in steps:
            self.writer.submit(step, checkpoint(step), best_step)
            self.writer.wait()


@pytest.fixture
def slow(tmp_path: Path) -> SlowStore:
    return SlowStore(tmp_path / "checkpoints")


def until_begun(store: SlowStore, count: int) -> None:
    deadline = time.monotonic() + SECONDS
    while len(store.begun) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def until_over() -> None:
    """Wait for the current write, without collecting its result."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join(SECONDS)


# -- in the background


def test_what_is_submitted_is_on_the_disk_after_waiting(store: CheckpointStore) -> None:
    harness = Harness(store)
    assert harness.writer.last_step == -1
    harness.write(2)
    found = store.load(2)
    assert (found.attributes, found.arrays["weights/a"].tolist()) == ({"step": 2}, [2, 2, 2])
    assert (harness.writer.last_step, harness.reports) == (2, [])


def test_the_caller_continues_while_it_is_written(slow: SlowStore) -> None:
    harness = Harness(slow)
    harness.writer.submit(2, checkpoint(2), None)
    until_begun(slow, 1)
    assert (slow.ended, slow.steps(), harness.writer.last_step) == ([], [], -1)
    slow.may_end.release()
    harness.writer.wait()
    assert (slow.ended, slow.steps(), harness.writer.last_step) == ([2], [2], 2)


def test_one_at_a_time_the_next_waits_for_the_one_before(slow: SlowStore) -> None:
    harness = Harness(slow)
    harness.writer.submit(2, checkpoint(2), None)
    until_begun(slow, 1)
    second = threading.Thread(
        target=harness.writer.submit, args=(4, checkpoint(4), None), daemon=True
    )
    second.start()
    second.join(0.1)
    assert second.is_alive()
    assert (slow.begun, slow.ended) == ([2], [])
    slow.may_end.release()
    second.join(SECONDS)
    assert not second.is_alive()
    until_begun(slow, 2)
    assert (slow.begun, slow.ended, harness.writer.last_step) == ([2, 4], [2], 2)
    slow.may_end.release()
    harness.writer.wait()
    assert (slow.ended, harness.writer.last_step) == ([2, 4], 4)


def test_an_unfinished_write_does_not_keep_the_process_alive(slow: SlowStore) -> None:
    Harness(slow).writer.submit(2, checkpoint(2), None)
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "checkpoint"] == [
        True
    ]
    slow.may_end.release()


def test_waiting_with_nothing_under_way_does_nothing(store: CheckpointStore) -> None:
    harness = Harness(store)
    harness.writer.wait()
    assert (harness.reports, harness.writer.last_step, store.folder.exists()) == ([], -1, False)


# -- which are kept


def test_the_last_few_and_the_best_are_kept(store: CheckpointStore) -> None:
    harness = Harness(store, keep=2)
    harness.write(2, 4)
    harness.write(6, 8, 10, best_step=4)
    assert store.steps() == [4, 8, 10]
    harness.write(12, best_step=12)
    assert store.steps() == [10, 12]


def test_a_damaged_one_of_a_later_step_that_cannot_be_set_aside_costs_nothing(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    Harness(store).write(2, 4, 6)
    for step in (4, 6):
        store.path_of(step).write_bytes(b"damaged")
    with monkeypatch.context() as refusing:
        refusing.setattr(Path, "rename", refuse)
        reports: list[str] = []
        found = store.newest(reports.append)
    assert found is not None
    assert found.attributes["step"] == 2
    assert all(" is damaged: " in report and "kept as" not in report for report in reports[:2])
    assert reports[2:] == [f"using the checkpoint before it: {store.path_of(2)}"]
    Harness(store, keep=1).write(3)
    assert store.steps() == [3, 4, 6]
    assert store.load(3).attributes["step"] == 3


def refuse(path: Path, target: Path) -> NoReturn:
    raise PermissionError(errno.EACCES, "Permission denied")


# -- what goes wrong


def test_a_full_disk_is_reported_and_the_next_write_works(store: CheckpointStore) -> None:
    harness = Harness(store)
    harness.write(2)
    with full_disk():
        harness.write(4)
    assert len(harness.reports) == 1
    assert harness.reports[0].startswith(
        "warning: checkpoint of step 4 not written (No space left on device): "
    )
    assert f"the last complete one is {store.path_of(2)}" in harness.reports[0]
    assert harness.reports[0].endswith("; training continues")
    assert (harness.writer.last_step, store.steps()) == (2, [2])
    harness.write(6)
    assert (len(harness.reports), harness.writer.last_step, store.steps()) == (1, 6, [2, 6])


def test_the_first_one_not_written_is_said_to_leave_none(store: CheckpointStore) -> None:
    harness = Harness(store)
    store.folder.write_text("a file in the folder's place")
    harness.write(2)
    assert "not written (File exists)" in harness.reports[0]
    assert "no checkpoint exists yet" in harness.reports[0]
    assert harness.writer.last_step == -1
    store.folder.unlink()
    harness.write(4)
    assert (len(harness.reports), store.steps(), harness.writer.last_step) == (1, [4], 4)


def test_a_disk_with_room_for_two_checkpoints_gets_newer_ones(store: CheckpointStore) -> None:
    crowded = CrowdedStore(store.folder, room_for=2)
    harness = Harness(crowded, keep=3)
    harness.write(2, 4, 6, 8, 10)
    assert (harness.reports, harness.writer.last_step, store.steps()) == ([], 10, [8, 10])
    harness.write(
        12, best_step=8
    )  # the best stays, and the newest until a newer one is there: there is no room
    assert "checkpoint of step 12 not written" in harness.reports[0]
    assert (harness.writer.last_step, store.steps()) == (10, [8, 10])


def test_a_full_disk_never_costs_the_newest_or_the_best(store: CheckpointStore) -> None:
    Harness(store).write(2, 4, 6)
    resumed = Harness(store, keep=3)
    with full_disk():
        resumed.write(8, best_step=2)
    assert f"the last complete one is {store.path_of(6)}" in resumed.reports[0]
    assert store.steps() == [2, 6]


def test_other_trouble_with_a_disk_deletes_nothing(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    Harness(store).write(2, 4, 6)
    with monkeypatch.context() as refusing:
        refusing.setattr(Path, "replace", refuse)
        Harness(store, keep=1).write(8)
    assert store.steps() == [2, 4, 6]


WAYS: dict[str, Callable[[CheckpointWriter], None]] = {
    "wait": CheckpointWriter.wait,
    "submit": lambda writer: writer.submit(6, checkpoint(6), None),
}
"""In which the caller hears of the write before."""


@pytest.mark.parametrize("way", WAYS)
def test_a_full_disk_is_reported_once(store: CheckpointStore, way: str) -> None:
    harness = Harness(store)
    store.folder.mkdir()
    with full_disk():
        harness.writer.submit(4, checkpoint(4), None)
        until_over()
    WAYS[way](harness.writer)
    assert len(harness.reports) == 1
    harness.write(8)
    assert (len(harness.reports), store.path_of(8).exists()) == (1, True)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_the_disks_fault_is_raised_once(store: CheckpointStore, way: str) -> None:
    harness = Harness(store)
    harness.write(2)
    harness.writer.submit(4, UNWRITABLE, None)
    with pytest.raises(TypeError, match="no native HDF5 equivalent"):
        WAYS[way](harness.writer)
    assert (harness.reports, harness.writer.last_step, store.steps()) == ([], 2, [2])
    harness.write(8)
    assert (harness.reports, harness.writer.last_step, store.steps()) == ([], 8, [2, 8])

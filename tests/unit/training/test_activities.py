"""A stall report names each activity of the main thread correctly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distcnn import train
from distcnn.datasets import HDF5Dataset
from distcnn.datasets.examples import ExampleFile
from distcnn.fault_tolerance.heartbeat import heartbeat
from distcnn.training import consistency, loop, records, resume, session, setup
from distcnn.training.run_directory import RunDirectory
from tests.conftest import MakeImageSet, as_flags
from tests.support.training_fixtures import Run, prepare

WORK = [
    (resume, "existing_run", "reading the run directory"),
    (resume, "find_resume_point", "reading the run directory"),
    (HDF5Dataset, "read_info", "opening the image set"),
    (setup, "build_model", "building the network"),
    (setup, "survey", "reading and hashing the image set"),
    (consistency, "fingerprint", "comparing settings and software of the ranks"),
    (session, "restore_checkpoint", "restoring the checkpoint"),
    (session, "open_directory", "creating the run directory"),
    (loop, "close_epoch", "checking that the epoch used every example once"),
    (records, "compare_replicas", "hashing and comparing the weights"),
    (RunDirectory, "add_metrics", "writing metrics and receipt"),
    (RunDirectory, "finish", "writing weights and results"),
]
"""Where it is called from, the function, and the activity meanwhile."""


def test_everything_that_may_stall_has_its_name(
    image_set: MakeImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, set[str]] = {name: set() for _, name, _ in WORK}

    def noted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            seen[name].add(heartbeat.read().text().partition(", ")[2] or heartbeat.read().text())
            return work(*arguments, **keywords)

        return call

    for owner, name, _ in WORK:
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name)))
    flags = as_flags(model="tutorial", data=image_set(), microbatch_size=8, checkpoint_every=2)
    run = tmp_path / "run"
    assert train.main([*flags, "--epochs", "1", "--output", str(run)]) == 0
    assert train.main(["--resume", str(run), "--epochs", "2"]) == 0
    assert seen == {name: {activity} for _, name, activity in WORK}


@pytest.fixture
def run_in_windows(image_set: MakeImageSet) -> Run:
    """A run that reads windows when it needs them, not earlier."""
    return prepare(image_set(train=1003, test=400), data_memory=2.5)


@pytest.mark.parametrize("testing", [False, True])
def test_waiting_for_a_window_is_distinguished_from_computing(
    run_in_windows: Run, monkeypatch: pytest.MonkeyPatch, testing: bool
) -> None:
    reading, go_on, read = threading.Event(), threading.Event(), ExampleFile.read

    def slow(*arguments: Any) -> None:
        reading.set()
        assert go_on.wait(20)
        read(*arguments)

    run = run_in_windows
    monkeypatch.setattr(ExampleFile, "read", slow)
    work = run.evaluation if testing else lambda: run.training_step(0, 0, 0, 0.01)

    def watched() -> None:
        with heartbeat.listening():
            work()

    thread = threading.Thread(target=watched)
    thread.start()
    assert reading.wait(20)
    end = time.monotonic() + 20
    while (
        "waiting for a data window" not in (text := heartbeat.read().text())
        and time.monotonic() < end
    ):
        time.sleep(0.01)
    go_on.set()
    thread.join(20)
    doing = "evaluating block 0 of the test set" if testing else "forward and backward of shard 0"
    assert text.endswith(f"{doing}: waiting for a data window")
    assert "waiting for a data window" not in heartbeat.read().text()

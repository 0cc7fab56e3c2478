"""The split names every part, adds up, changes no bit and leaves nothing behind."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from distcnn.benchmark.session import Session, Steps
from distcnn.benchmark.time_split import OTHERS, REST, Instruments, StepTimes, average
from distcnn.distributed import SerialCommunicator, Sums
from distcnn.distributed.async_allreduce import ThreadedSums
from distcnn.training.parts import part_name
from distcnn.training.setup import Run
from tests.support.benchmark_fixtures import MakeRun


def left_behind(run: Run) -> list[str]:
    """Attributes of objects that hide a method of their class: what instruments put in."""
    step = run.step
    layers = [layer for lane in step.timing.lanes for layer in lane.network.layers]
    objects = [
        *layers,
        *step.shards,
        step.reduction,
        step.reduction.tally,
        step.timing,
        step.optimizer,
    ]
    return [
        name for each in objects for name in vars(each) if callable(getattr(type(each), name, None))
    ]


def measured(run: Run, steps: int = 4) -> list[StepTimes]:
    instruments, following = Instruments(run.step), Steps(run)
    with instruments.entered():
        assert left_behind(run)
        return [instruments.take(following.take) for _ in range(steps)]


def test_every_layer_and_part_is_named_and_they_sum_to_the_step(make_run: MakeRun) -> None:
    run = make_run(model="lenet")
    split = average(measured(run))
    # The input gradient of what lies before the first parameters is never computed; in lenet
    # nothing does.
    pooled = {"relu1", "relu2"}  # the poolings before them do their work
    layers = [
        part_name(layer, way)
        for layer in run.network.layer_names
        if layer not in pooled
        for way in ("forward", "backward")
    ]
    assert set(split.parts) == {*layers, *OTHERS, REST} - {"waiting"}
    assert sum(split.parts.values()) == pytest.approx(split.step)
    assert min(split.parts.values()) >= 0
    assert split.parts[REST] < 0.5 * split.step
    assert 0 < split.products["conv2 backward"] < split.parts["conv2 backward"]
    assert set(split.products) == {
        part_name(layer, way)
        for layer in ("conv1", "conv2", "dense1", "dense2")
        for way in ("forward", "backward")
    }


def test_time_goes_to_the_part_that_took_it(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(model="tutorial")
    slow, naps = (
        next(kernel for name, kernel, *_ in run.network.instrumented() if name == "flatten1"),
        0.02,
    )

    def forward(*arguments: Any) -> Any:
        time.sleep(naps)
        return type(slow).forward(slow, *arguments)  # type: ignore[attr-defined]

    monkeypatch.setattr(slow, "forward", forward)
    (times,) = measured(run, 1)
    assert times.parts["flatten1 forward"] >= 3 * naps  # of three shards
    assert max(times.parts, key=times.parts.__getitem__) == "flatten1 forward"


@pytest.mark.parametrize("overlap", ["off", "on"])
@pytest.mark.parametrize("reduction", ["exact", "fast"])
def test_no_bit_changes_and_nothing_stays(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, overlap: str, reduction: str
) -> None:
    def background_sums(self: SerialCommunicator) -> Sums:
        return ThreadedSums(self.allreduce_sum)

    monkeypatch.setattr(SerialCommunicator, "background_sums", background_sums)
    plain, instrumented = (
        make_run(model="lenet", overlap=overlap, reduction=reduction) for _ in range(2)
    )
    assert (plain.step.overlap is not None) == (overlap == "on")
    loss, matmul = instrumented.step.loss, np.matmul
    session = Session(
        instrumented, 2, 0
    )  # 3 steps to warm up, one recorded; a turn: 2 as they are, 2 with instruments
    session.turn(None)
    following = Steps(plain)
    for _ in range(3 + 1 + 2 + 2):
        following.take()
    assert instrumented.network.values.tobytes() == plain.network.values.tobytes()
    assert left_behind(instrumented) == []
    assert (instrumented.step.loss, np.matmul) == (loss, matmul)
    assert session.measured.split.parts["conv2 backward"] > 0


def test_the_average_is_of_the_middle_half() -> None:
    steps = [StepTimes(step, {"loss": step / 2}, {}, 0.0) for step in (100.0, 1.0, 2.0, 4.0)]
    split = average(steps)
    assert split.step == 3.0
    assert split.parts == {"loss": 1.5}

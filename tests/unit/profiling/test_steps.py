"""The stopwatches in a step: they change no bit, leave nothing behind, and stop where there is no
more room.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from distcnn.distributed import SerialCommunicator, Sums
from distcnn.distributed.async_allreduce import ThreadedSums
from distcnn.profiling import traced
from distcnn.profiling.recorder import MOST_OF_STEPS, Parts, Recorder, share_of
from distcnn.profiling.steps import StepTrace
from distcnn.training import loop
from distcnn.training.checkpointing import NoSaving
from distcnn.training.run_directory import NoRunDirectory
from distcnn.training.setup import Run
from tests.conftest import MakeImageSet
from tests.support.training_fixtures import loop_of, prepare


def trace_of(run: Run, window: range, most: int = 10**6) -> StepTrace:
    return StepTrace(run.step, window, Parts(), Recorder(most), Recorder(most), "sum")


def take(run: Run, *steps: int) -> None:
    for step in steps:
        run.step(step, 0, step, 0.1)


def methods_hidden(run: Run) -> list[str]:
    """Attributes of objects that hide a method of their class: what stopwatches are."""
    step = run.step
    layers = [layer for lane in step.timing.lanes for layer in lane.network.layers]
    objects = [
        *layers,
        *step.shards,
        step,
        step.reduction,
        step.timing,
        step.optimizer,
        step.ledger,
    ]
    hidden = [
        name for each in objects for name in vars(each) if callable(getattr(type(each), name, None))
    ]
    return [
        name for name in hidden if name != "stop_request"
    ]  # a field of the step, which has a default


@pytest.mark.parametrize("overlap", ["off", "on"])
@pytest.mark.parametrize("reduction", ["exact", "fast"])
def test_no_bit_changes_and_nothing_stays(
    image_set: MakeImageSet, monkeypatch: pytest.MonkeyPatch, overlap: str, reduction: str
) -> None:
    def background_sums(self: SerialCommunicator) -> Sums:
        return ThreadedSums(self.allreduce_sum)

    monkeypatch.setattr(SerialCommunicator, "background_sums", background_sums)
    plain, run = (
        prepare(image_set(), model="lenet", num_shards=3, overlap=overlap, reduction=reduction)
        for _ in range(2)
    )
    loss, summing = run.step.loss, run.step.timing.sums.allreduce_sum  # type: ignore[attr-defined]
    trace = trace_of(run, range(1, 3))
    with trace.entered():
        take(run, 0)
        assert methods_hidden(run) == ["take"]
        take(run, 1)
        assert "forward_blocks" in methods_hidden(run)
        trace.pause()
        assert methods_hidden(run) == ["take"]
        take(run, 2, 3)
        assert methods_hidden(run) == ["take"]
    take(plain, 0, 1, 2, 3)
    assert run.network.values.tobytes() == plain.network.values.tobytes()
    assert (methods_hidden(run), run.step.loss, run.step.timing.sums.allreduce_sum) == (
        [],
        loss,
        summing,
    )  # type: ignore[attr-defined]
    assert trace.recorded == range(1, 3)


def test_no_step_is_begun_that_may_find_no_room(image_set: MakeImageSet) -> None:
    run = prepare(image_set(), num_shards=3)
    endless = trace_of(run, range(sys.maxsize))
    with endless.entered():
        take(run, 0, 1)
    slices_a_step = len(endless._main.kept) // 2
    bounded = trace_of(run, range(sys.maxsize), most=3 * slices_a_step + 1)
    with bounded.entered():
        take(run, *range(6))
        assert methods_hidden(run) == ["take"]
    assert bounded.recorded == range(3)
    assert len(bounded._main.kept) == 3 * slices_a_step
    assert bounded._main.refused
    assert not endless._main.refused


def test_all_ranks_together_have_a_bound_too() -> None:
    assert share_of(MOST_OF_STEPS, 1) == 100_000
    assert share_of(MOST_OF_STEPS, 1000) == 1000


def test_a_trace_that_cannot_be_written_is_reported_and_everything_is_put_back(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    run, said = prepare(image_set(), num_shards=3, trace=2), list[str]()
    before = run.evaluation.take, loop.close_epoch, loop.compare_replicas
    saving: Any = NoSaving()
    with traced(run, 0, NoRunDirectory(), saving, tmp_path / "gone", said.append):
        loop_of(run).go_to(2)
        assert run.evaluation.take != before[0]
    (line,) = said
    assert (
        line == f"warning: {tmp_path}/gone/trace-000000000.json cannot be written (No such file or"
        " directory): there is no trace"
    )
    assert (run.evaluation.take, loop.close_epoch, loop.compare_replicas) == before
    assert methods_hidden(run) == []

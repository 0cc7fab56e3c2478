"""The timeline keeps the requested steps as long as there is room."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from distcnn.profiling import recorder
from distcnn.profiling.recorder import Timeline, intervals_of
from distcnn.profiling.tracing import traced
from distcnn.spans import ALLREDUCE, EVALUATION, FORWARD, STEP, WRITE_CHECKPOINT, Span, listening
from tests.conftest import MakeImageSet
from tests.support.training_fixtures import loop_of, prepare

INNER = Span(FORWARD, layer="conv1")


def run_spans(steps: range) -> None:
    """Steps of three spans each, each followed by an evaluation."""
    for step in steps:
        with Span(STEP, step=step):
            for _ in range(2):
                with INNER:
                    pass
        with Span(EVALUATION), INNER:
            pass


def names(recorded: Timeline) -> list[str]:
    return [interval.span.name for interval in intervals_of(recorded.events)]


def test_steps_of_the_window_are_kept_in_full_and_otherwise_outermost_spans() -> None:
    recorded = Timeline(range(1, 3), world_size=1)
    with listening(recorded):
        run_spans(range(4))
    step = [STEP, FORWARD, FORWARD, EVALUATION]
    assert names(recorded) == [EVALUATION, *step, *step, EVALUATION]
    assert recorded.recorded == range(1, 3)
    assert not recorded.is_full


def test_nothing_begins_when_the_room_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MOST_SLICES", 5)
    recorded = Timeline(range(sys.maxsize), world_size=1)
    with listening(recorded):
        run_spans(range(5))
    assert recorded.recorded == range(2)
    assert names(recorded) == [STEP, FORWARD, FORWARD, EVALUATION, STEP, FORWARD, FORWARD]
    assert recorded.is_full


def test_ranks_share_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MOST_SLICES_OF_ALL_RANKS", 8)
    recorded = Timeline(range(sys.maxsize), world_size=2)
    with listening(recorded):
        run_spans(range(5))
    assert recorded.recorded == range(1)


def test_other_threads_are_recorded_under_their_names() -> None:
    recorded = Timeline(range(1), world_size=1)

    def work() -> None:
        with Span(WRITE_CHECKPOINT), INNER:
            pass
        with Span(ALLREDUCE, nbytes=8):  # outside of a recorded step
            pass

    with listening(recorded):
        thread = threading.Thread(target=work, name="checkpoint")
        thread.start()
        thread.join()
    assert names(recorded) == [WRITE_CHECKPOINT]
    assert list(recorded.thread_names.values()) == ["main", "checkpoint"]


def test_a_trace_that_cannot_be_written_is_reported(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    run, said = prepare(image_set(), num_shards=3, trace=2), list[str]()
    with traced(run, 0, lambda: tmp_path / "gone", said.append):
        loop_of(run).go_to(2)
    (line,) = said
    assert line.startswith("warning: ")
    assert f"{tmp_path}/gone/trace-000000000.json cannot be written" in line

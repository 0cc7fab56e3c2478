"""The heartbeat: what a process records about itself while it works, waits, fails and makes
progress.
"""

from __future__ import annotations

import threading

import pytest

from distcnn import spans
from distcnn.fault_tolerance.heartbeat import STACK_BYTES, TEXTS, Heartbeat
from distcnn.spans import Span, touch


def test_what_was_begun_last_is_read() -> None:
    heartbeat = Heartbeat()
    assert heartbeat.read().text() == "starting"
    with heartbeat.listening(), Span("step", step=7), Span("shard", shard=3):
        beat = heartbeat.read()
    assert (beat.step, beat.activity, beat.stack) == (7, "forward and backward of shard 3", "")
    assert 0 <= beat.seconds < 10
    assert beat.text() == "step 7, forward and backward of shard 3"


def test_nothing_is_noted_when_it_does_not_listen() -> None:
    heartbeat = Heartbeat()
    with heartbeat.listening(), heartbeat.listening():
        pass
    with Span("step", step=7), Span("update"):
        assert heartbeat.read().text() == "starting"


def test_the_step_holds_until_another_one_begins() -> None:
    heartbeat = Heartbeat()
    with heartbeat.listening():
        with Span("step", step=4), Span("update"):
            pass
        with Span("checkpoint"):
            assert heartbeat.read().text() == "step 4, saving a checkpoint"


@pytest.mark.parametrize("name", TEXTS)
def test_every_activity_has_a_text(name: str) -> None:
    heartbeat = Heartbeat()
    with heartbeat.listening(), Span(name, shard=4, block=5):
        text = heartbeat.read().text()
    assert text != "starting"
    assert not set("{}") & set(text)


def test_every_activity_is_a_span() -> None:
    assert TEXTS.keys() <= {value for value in vars(spans).values() if isinstance(value, str)}


def test_after_an_inner_activity_the_outer_one_continues() -> None:
    heartbeat = Heartbeat()
    with heartbeat.listening(), Span("shard", shard=3):
        with Span("forward", layer="conv1"), Span("wait for window"):
            assert "shard 3: waiting for a data window" in heartbeat.read().text()
        assert heartbeat.read().text() == "forward and backward of shard 3"


def test_what_failed_is_still_reported_after_the_exception() -> None:
    heartbeat = Heartbeat()
    with heartbeat.listening():
        with pytest.raises(ZeroDivisionError), Span("step", step=2), Span("shard", shard=3):
            1 / 0  # noqa: B018
        assert heartbeat.read().text() == "step 2, forward and backward of shard 3"
        with Span("checkpoint"):
            assert heartbeat.read().text() == "step 2, saving a checkpoint"


def test_waiting_for_others_is_noted_and_forgotten() -> None:
    heartbeat = Heartbeat()
    with heartbeat.listening(), Span("step", step=3), Span("reduce"):
        with Span("collective"):
            assert heartbeat.read().waiting
            waiting = heartbeat.read().text()
        assert waiting == "step 3, waiting for all ranks: sum of the gradients"
        assert heartbeat.read().text() == "step 3, sum of the gradients"


def test_progress_counts_on_any_thread_and_changes_no_text() -> None:
    heartbeat = Heartbeat()

    def work() -> None:
        touch()
        with Span("shard", shard=9), Span("collective"):
            pass

    with heartbeat.listening(), Span("survey data"):
        beats, text = heartbeat.beats, heartbeat.read().text()
        touch()
        assert heartbeat.beats > beats
        beats = heartbeat.beats
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert heartbeat.beats > beats
        assert heartbeat.read().text() == text


def test_layers_are_not_activities() -> None:
    heartbeat = Heartbeat()
    with heartbeat.listening(), Span("shard", shard=1):
        beats = heartbeat.beats
        with Span("forward", layer="conv1"):
            pass
        assert heartbeat.beats == beats


def test_a_stack_is_kept_and_a_shorter_one_replaces_it() -> None:
    heartbeat = Heartbeat()
    for stack in ("a long stäck\n" * 3, "short", ""):
        heartbeat.note_stack(stack)
        assert heartbeat.read().stack == stack
        assert 0 <= heartbeat.read().stack_seconds < 10


def test_of_a_stack_that_is_too_long_the_inner_end_is_kept() -> None:
    heartbeat = Heartbeat()
    heartbeat.note_stack("x" * STACK_BYTES + "inner end")
    assert heartbeat.read().stack == "x" * (STACK_BYTES - 9) + "inner end"

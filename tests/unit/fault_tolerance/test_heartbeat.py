"""The pulse: what a process notes of itself, read by itself and by others, also when it is stopped
or gone.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import pytest

from distcnn.distributed import SerialCommunicator
from distcnn.fault_tolerance.heartbeat import STACK_BYTES, TEXTS, Activity, Pulse
from distcnn.fault_tolerance.heartbeat import pulse as own_pulse
from distcnn.fault_tolerance.watched_communicator import WatchedCommunicator


def test_what_was_noted_last_is_read() -> None:
    pulse, before = Pulse(), time.monotonic()
    pulse.beat(Activity.COMPUTING_SHARD, 7, 3)
    beat = pulse.read()
    assert (beat.step, beat.activity, beat.detail, beat.stack) == (
        7,
        Activity.COMPUTING_SHARD,
        3,
        "",
    )
    assert before <= beat.since <= time.monotonic()
    assert beat.text() == "step 7, forward and backward of shard 3"


def test_the_step_holds_until_another_one_begins() -> None:
    pulse = Pulse()
    assert pulse.read().step == -1
    assert pulse.read().text() == "starting"
    pulse.beat(Activity.UPDATING, 4)
    pulse.beat(Activity.SAVING)
    assert pulse.read().text() == f"step 4, {TEXTS[Activity.SAVING]}"
    assert pulse.beats == 3  # the first is that of its making


@pytest.mark.parametrize("activity", Activity)
def test_every_activity_has_a_text(activity: Activity) -> None:
    pulse = Pulse()
    pulse.beat(activity, 1, 42)
    beat = pulse.read()
    assert beat.text().startswith("step 1, ")
    assert not set("{}") & set(beat.text())
    assert not beat.waiting


def test_waiting_is_noted_and_forgotten() -> None:
    pulse = Pulse()
    pulse.beat(Activity.SUMMING, 3)
    pulse.wait(True)
    assert pulse.read().waiting
    assert pulse.read().text() == "step 3, waiting for all ranks: sum of the gradients"
    pulse.wait(False)
    assert pulse.read().text() == "step 3, sum of the gradients"
    pulse.wait(True)
    pulse.beat(Activity.UPDATING)
    assert not pulse.read().waiting
    assert pulse.beats == 6


def test_a_communicator_that_is_watched_notes_each_wait() -> None:
    class Looking(SerialCommunicator):
        """Sees what is noted while a collective runs."""

        seen: ClassVar[list[str]] = []

        def allgather(self, item: Any) -> list[Any]:
            self.seen.append(own_pulse.read().text())
            return [item]

        broadcast = allreduce_sum = allgather

        def barrier(self) -> None:
            self.allgather(None)

    world = WatchedCommunicator(Looking())
    own_pulse.beat(Activity.COMPARING, 8)
    before = own_pulse.beats
    for collective in (
        world.allgather,
        world.broadcast,
        world.allreduce_sum,
        lambda _: world.barrier(),
    ):
        collective(None)
        assert not own_pulse.read().waiting
    assert Looking.seen == ["step 8, waiting for all ranks: hashing and comparing the weights"] * 4
    assert own_pulse.beats == before + 8


def test_a_stack_is_kept_and_a_shorter_one_replaces_it() -> None:
    pulse = Pulse()
    for stack in ("a long stäck\n" * 3, "short", ""):
        pulse.note_stack(stack)
        assert pulse.read().stack == stack
        assert pulse.read().stack_time <= time.monotonic()


def test_of_a_stack_that_is_too_long_the_inner_end_is_kept() -> None:
    pulse = Pulse()
    pulse.note_stack("x" * STACK_BYTES + "inner end")
    assert pulse.read().stack == "x" * (STACK_BYTES - 9) + "inner end"

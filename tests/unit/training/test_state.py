"""The state between two steps: it survives JSON bit for bit, and its means are those of what was
added.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcnn.distributed import Totals
from distcnn.training.state import Meter, State

FLOATS = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)
COUNTS = st.integers(0, 2**60)
METERS = st.builds(Meter, FLOATS, COUNTS, COUNTS, FLOATS)
STATES = st.builds(
    State,
    step=COUNTS,
    epoch_end_pending=st.booleans(),
    world_size=st.integers(1, 10**6),
    whole=METERS,
    epoch=METERS,
    interval=METERS,
    test=st.none() | st.builds(Totals, FLOATS, COUNTS, COUNTS, COUNTS, COUNTS),
    best_step=st.none() | COUNTS,
    best_correct=st.integers(-1, 2**60),
)


def bits(value: Any) -> Any:
    """The same with each float as its eight bytes (all NaNs as one, because JSON has only one)."""
    if isinstance(value, dict):
        return {key: bits(each) for key, each in value.items()}
    return (
        ("nan" if value != value else struct.pack("<d", value))
        if isinstance(value, float)
        else (type(value), value)
    )


@given(state=STATES)
def test_json_gives_the_same_state_bit_for_bit(state: State) -> None:
    again = State.from_json(json.loads(json.dumps(state.to_json())))
    assert bits(dataclasses.asdict(again)) == bits(dataclasses.asdict(state))
    assert (type(again.whole), type(again.epoch), type(again.interval)) == (Meter, Meter, Meter)
    assert isinstance(again.test, Totals) == isinstance(state.test, Totals)


def test_checkpoints_keep_their_name_of_the_pending_end_of_an_epoch() -> None:
    values = State(epoch_end_pending=True).to_json()
    assert (values["epoch_is_open"], "epoch_end_pending" in values) == (True, False)
    assert State.from_json(values).epoch_end_pending


def test_the_plain_values_are_a_copy() -> None:
    state = State()
    values = state.to_json()
    state.whole.add(Totals(1.0, 1, 2, 0), 1.0)
    assert values["whole"]["examples"] == 0
    assert State().whole is not State().whole


def test_a_meter_gives_mean_and_speed_of_what_was_added() -> None:
    meter = Meter()
    assert (meter.loss, meter.images_per_second) == (0.0, 0.0)
    meter.add(Totals(loss_sum=6.0, correct=1, examples=4, failures=0), seconds=0.5)
    meter.add(Totals(loss_sum=3.0, correct=2, examples=2, failures=0), seconds=1.0)
    assert (meter.loss, meter.correct, meter.images_per_second) == (9.0 / 6, 3, 6 / 1.5)


@pytest.mark.parametrize(
    ("rights", "best"),
    [((5, 7, 6), (2, 7)), ((5, 7, 7), (2, 7)), ((0, 0, 0), (1, 0)), ((1, 2, 3), (3, 3))],
)
def test_the_best_test_is_the_first_with_the_most_right_answers(
    rights: tuple[int, ...], best: tuple[int, int]
) -> None:
    state = State()
    for state.step, correct in enumerate(rights, start=1):
        state.note_test(Totals(1.0, correct, 10, 0))
    assert (state.best_step, state.best_correct) == best
    assert state.test is not None
    assert state.test.correct == rights[-1]

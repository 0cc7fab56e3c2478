"""The picture of a trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distcnn.profiling.plot import COLOURS, colour_of, levels, span_of_steps
from distcnn.report.__main__ import main


def slice_of(name: str, begin: float, end: float, rank: int = 0, **args: int) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "pid": rank,
        "tid": 7 + rank,
        "ts": begin,
        "dur": end - begin,
        "args": args,
    }


EVENTS = [
    *(
        {"ph": "M", "name": "thread_name", "pid": rank, "tid": 7 + rank, "args": {"name": "main"}}
        for rank in range(2)
    ),
    *(
        slice_of("step", 100 * step, 100 * step + 90 + rank, rank, step=step)
        for step in range(4)
        for rank in range(2)
    ),
    slice_of("conv1 forward", 110, 150),
    slice_of("maxpool1 forward", 120, 130),
    slice_of("loss", 150, 160),
]


def test_slices_within_slices_are_deeper() -> None:
    assert [(place, each["name"]) for place, each in levels(EVENTS[-3:])] == [
        ((0, 7, 0), "conv1 forward"),
        ((0, 7, 1), "maxpool1 forward"),
        ((0, 7, 0), "loss"),
    ]


def test_two_steps_in_the_middle_are_shown_or_those_that_are_named() -> None:
    assert span_of_steps(EVENTS, None) == (100, 291)
    assert span_of_steps(EVENTS, 3) == (300, 391)


@pytest.mark.parametrize(
    ("name", "colour"),
    [
        ("conv1 backward", "backward"),
        ("local sum", "local sum"),
        ("allreduce", "reduce"),
        ("waiting", "wait"),
        ("ledger", "other"),
    ],
)
def test_a_slice_has_the_colour_of_its_kind(name: str, colour: str) -> None:
    assert colour_of(name) == COLOURS[colour]


def test_the_report_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"traceEvents": EVENTS}))
    assert main(["--trace", str(tmp_path / "t.json"), "--step", "1"]) == 0
    assert capsys.readouterr().out == f"picture in {tmp_path}/trace.png\n"
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "step", "message"),
    [
        ("nothing", "1", "t.json is damaged"),
        ("[]", "1", "name a trace-*.json"),
        (json.dumps({"traceEvents": []}), "1", "no step is recorded in it"),
        (json.dumps({"traceEvents": EVENTS}), "9", "--step 9: the trace has steps 0 to 3"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    content: str, step: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.json").write_text(content)
    assert main(["--trace", str(tmp_path / "t.json"), "--step", step]) == 2
    assert message in capsys.readouterr().err

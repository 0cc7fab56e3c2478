"""A picture of a few steps of a trace, for a page or a talk; to look into one there is Perfetto."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distcnn import plotting
from distcnn.errors import InputError
from distcnn.plotting import Axes
from distcnn.system.files import read_bytes

Event = dict[str, Any]

COLOURS = {
    "data": "#4c9f70",
    "forward": "#1f5fa8",
    "loss": "#7a5195",
    "backward": "#e08a3c",
    "sum": "#2a9d9d",
    "reduce": "#5b616b",
    "waiting": "#d1495b",
    "optimizer": "#8c6d46",
    "other": "#c9ced6",
}
"""By the end of a slice's name."""

ALIASES = {"bucket": "reduce", "allreduce": "reduce", "sums": "waiting"}
STEPS_SHOWN = 2
WIDTH, LINE_HEIGHT, FRAME_HEIGHT = 14.0, 0.32, 1.3
"""In inches; a thread has a line for each depth of slices within slices."""
LETTER_WIDTH = 0.0037
"""Of the picture's. A slice too narrow for its name stands without."""


def read_events(path: Path) -> list[Event]:
    """The events of a trace. ``InputError`` when it is none of ours."""
    try:
        content = json.loads(read_bytes(path, follow=True))
        return [each for each in content["traceEvents"] if each["ph"] in ("X", "M")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--trace: {path} is no trace that can be read ({error}): name a trace-*.json of a run"
            " directory"
        ) from error


def draw_trace(path: Path, first_step: int | None, output: Path) -> None:
    """Draw the steps from ``first_step`` on (by default the middle ones), a line for each thread.

    ``InputError`` when that cannot be.
    """
    events = read_events(path)
    begin, end = span_of_steps(events, first_step)
    names = {
        (each["pid"], each["tid"]): each["args"]["name"]
        for each in events
        if each["name"] == "thread_name"
    }
    lines = lines_of(
        [
            each
            for each in events
            if each["ph"] == "X" and each["name"] != "step" and begin <= each["ts"] < end
        ]
    )
    order = sorted({place for place, _ in lines})
    figure = plotting.new_figure(WIDTH, FRAME_HEIGHT + LINE_HEIGHT * len(order))
    (axes,) = plotting.panels(figure, 1)
    for place, event in lines:
        _draw_slice(axes, event, order.index(place), begin, end)
    for each in events:
        if each["name"] == "step" and begin <= each["ts"] < end and each["pid"] == 0:
            left = (each["ts"] - begin) / 1000
            axes.axvline(left, color="black", linewidth=0.8, linestyle=":")
            axes.annotate(
                f"step {each['args']['step']}",
                (left, -0.5),
                (3, 3),
                textcoords="offset points",
                fontsize=9,
            )
    firsts = [(line, pid, tid) for line, (pid, tid, depth) in enumerate(order) if depth == 0]
    axes.set_yticks(
        [line for line, _, _ in firsts], [f"rank {pid} {names[pid, tid]}" for _, pid, tid in firsts]
    )
    axes.set(ylim=(len(order) - 0.4, -1.2), xlim=(0, (end - begin) / 1000), xlabel="ms")
    axes.tick_params(axis="y", length=0)
    plotting.tidy(axes, frame="bottom")
    plotting.legend(figure, COLOURS, columns=len(COLOURS))
    plotting.save(figure, output)


def lines_of(slices: Sequence[Event]) -> list[tuple[tuple[int, int, int], Event]]:
    """Of each slice its (rank, thread, depth); the slices of a thread are in order of their begin,
    an outer one before those within.
    """
    ends: dict[tuple[int, int], list[float]] = {}
    lines = []
    for each in slices:
        place = each["pid"], each["tid"]
        open_ends = [end for end in ends.get(place, []) if end > each["ts"]]
        lines.append(((*place, len(open_ends)), each))
        ends[place] = [*open_ends, each["ts"] + each["dur"]]
    return lines


def span_of_steps(events: Sequence[Event], first_step: int | None) -> tuple[float, float]:
    """Begin and end of what is shown, in microseconds.

    ``InputError`` where the trace does not have the step.
    """
    steps = [each for each in events if each["name"] == "step"]
    numbers = sorted({each["args"]["step"] for each in steps})
    if not numbers:
        raise InputError("--trace: no step is recorded in it: trace others with --trace-from")
    first = numbers[(len(numbers) - 1) // 2] if first_step is None else first_step
    if first not in numbers:
        raise InputError(f"--step {first}: the trace has the steps {numbers[0]} to {numbers[-1]}")
    shown = [each for each in steps if first <= each["args"]["step"] < first + STEPS_SHOWN]
    return min(each["ts"] for each in shown), max(each["ts"] + each["dur"] for each in shown)


def colour_of(name: str) -> str:
    """That of what the last word of a slice's name says."""
    last = name.split()[-1]
    return COLOURS.get(ALIASES.get(last, last), COLOURS["other"])


def _draw_slice(axes: Axes, event: Event, line: int, begin: float, end: float) -> None:
    left, width = (event["ts"] - begin) / 1000, event["dur"] / 1000
    axes.barh(
        line,
        width,
        left=left,
        height=0.9,
        color=colour_of(event["name"]),
        edgecolor="white",
        linewidth=0.2,
    )
    if event["dur"] > LETTER_WIDTH * len(event["name"]) * (end - begin):
        axes.text(
            left + width / 2,
            line,
            event["name"],
            ha="center",
            va="center",
            fontsize=6,
            color="white",
            clip_on=True,
        )

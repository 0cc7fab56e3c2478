"""A picture of a few steps of a trace, for a page or a talk; to explore one, use Perfetto."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from distcnn import plotting
from distcnn.errors import InputError
from distcnn.plotting import Axes
from distcnn.profiling.tracing import TraceEvent
from distcnn.spans import SHARD, STEP
from distcnn.system.files import read_bytes, reading

COLOURS = {
    "read data": "#4c9f70",
    "forward": "#1f5fa8",
    "loss": "#7a5195",
    "backward": "#e08a3c",
    "local sum": "#2a9d9d",
    "reduce": "#5b616b",
    "wait": "#d1495b",
    "update": "#8c6d46",
    "other": "#c9ced6",
}
"""By a word in a slice's name."""

STEPS_SHOWN = 2
WIDTH, LINE_HEIGHT, FRAME_HEIGHT = 14.0, 0.32, 1.3
"""In inches; a thread has a line for each level of nested slices."""
LETTER_WIDTH = 0.0037
"""As a fraction of the picture's width; a slice too narrow for its name has none."""


def draw_trace(path: Path, first_step: int | None, output: Path) -> None:
    """Draw two steps of the trace in ``path``, from ``first_step`` or else in the middle."""
    events = read_events(path)
    begin, end = span_of_steps(events, first_step)
    shown = [event for event in events if event["ph"] == "X" and begin <= event["ts"] < end]
    lines = list(levels(event for event in shown if event["name"] not in (STEP, SHARD)))
    order = sorted({line for line, _ in lines})
    figure = plotting.new_figure(WIDTH, FRAME_HEIGHT + LINE_HEIGHT * len(order))
    (axes,) = plotting.panels(figure, 1)
    for line, event in lines:
        _draw_slice(axes, event, order.index(line), begin, end)
    for event in shown:
        if event["name"] == STEP and event["pid"] == 0:
            left = (event["ts"] - begin) / 1000
            axes.axvline(left, color="black", linewidth=0.8, linestyle=":")
            axes.text(left, -0.6, f" step {event['args']['step']}", fontsize=plotting.SMALL)
    names = {
        (event["pid"], event["tid"]): f"rank {event['pid']} {event['args']['name']}"
        for event in events
        if event["name"] == "thread_name"
    }
    firsts = {row: names[line[:2]] for row, line in enumerate(order) if line[2] == 0}
    axes.set_yticks(list(firsts), list(firsts.values()))
    axes.set(ylim=(len(order) - 0.4, -1.2), xlim=(0, (end - begin) / 1000), xlabel="ms")
    axes.tick_params(axis="y", length=0)
    plotting.tidy(axes, frame="bottom")
    plotting.legend(figure, COLOURS, columns=len(COLOURS))
    plotting.save(figure, output)


def read_events(path: Path) -> list[TraceEvent]:
    remedy = "name a trace-*.json of a run directory"
    with reading(f"--trace: {path}", ValueError, KeyError, TypeError, remedy=remedy):
        content = json.loads(read_bytes(path, follow=True))
        return [event for event in content["traceEvents"] if event["ph"] in ("X", "M")]


def levels(slices: Iterable[TraceEvent]) -> Iterator[tuple[tuple[int, int, int], TraceEvent]]:
    """Each slice with its rank, thread and level. Slices of a thread are in order of beginning."""
    ends: dict[tuple[int, int], list[float]] = {}
    for event in slices:
        thread = event["pid"], event["tid"]
        open_ends = [end for end in ends.get(thread, []) if end > event["ts"]]
        yield (*thread, len(open_ends)), event
        ends[thread] = [*open_ends, event["ts"] + event["dur"]]


def span_of_steps(events: Sequence[TraceEvent], first_step: int | None) -> tuple[float, float]:
    """Begin and end of the steps to draw, in microseconds."""
    steps = [event for event in events if event["name"] == STEP]
    numbers = sorted({event["args"]["step"] for event in steps})
    if not numbers:
        raise InputError("--trace: no step is recorded in it: trace others with --trace-from")
    first = numbers[(len(numbers) - 1) // 2] if first_step is None else first_step
    if first not in numbers:
        raise InputError(f"--step {first}: the trace has steps {numbers[0]} to {numbers[-1]}")
    shown = [event for event in steps if first <= event["args"]["step"] < first + STEPS_SHOWN]
    return min(event["ts"] for event in shown), max(event["ts"] + event["dur"] for event in shown)


def colour_of(name: str) -> str:
    return next((colour for word, colour in COLOURS.items() if word in name), COLOURS["other"])


def _draw_slice(axes: Axes, event: TraceEvent, row: int, begin: float, end: float) -> None:
    left, width, name = (event["ts"] - begin) / 1000, event["dur"] / 1000, event["name"]
    colour = colour_of(name)
    axes.barh(row, width, left=left, height=0.9, color=colour, edgecolor="white", linewidth=0.2)
    if event["dur"] > LETTER_WIDTH * len(name) * (end - begin):
        style = {"ha": "center", "va": "center", "fontsize": 6, "color": "white"}
        axes.text(left + width / 2, row, name, clip_on=True, **style)

"""Charts as SVG inside the page, in its colours, each with its numbers as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from distcnn import plotting
from distcnn.plotting import Axes
from distcnn.report.records import Curve, RunRecords
from distcnn.system.wording import printable
from distcnn.training.line_files import SPEED

INK, FAINT, PAPER = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0a000{index}" for index in range(9))
"""Stand for the page's colours, which depend on its theme; the last of the series is gray."""
CSS = {INK: "var(--muted)", FAINT: "var(--line)", PAPER: "var(--paper)"}
CSS |= {colour: f"var(--series-{index})" for index, colour in enumerate(SERIES)}
WIDTH, HEIGHT = 5.0, 2.8
"""Inches of 72 pixels: as wide as a phone."""
FONT = 10.5
MOST_POINTS, FEW_POINTS = 400, 12
MOST_ROWS = 40
LEAST_ON_LOG = 1e-30
"""Losses beyond this or its inverse have a linear axis."""

KINDS = {"training": 0, "validation": 2, "test": 1}
"""What a curve is about, and its colour where there is one run."""
DASHES = {"training": "", "validation": "6 3", "test": "2 2"}
MARKERS = {"training": "o", "validation": "s", "test": "^"}
CURVES = {
    "Loss": ("loss", "validation_loss", "test_loss"),
    "Accuracy": ("train_accuracy", "validation_accuracy", "test_accuracy"),
    "Learning rate": ("learning_rate",),
    "Speed": (SPEED,),
}
"""By a chart's title, its curves, in the order of ``KINDS``."""
FORMATS = {"Loss": ".4g", "Accuracy": ".2%", "Learning rate": ".4g", "Speed": ",.0f"}
UNITS = {"Speed": "images per second, all ranks together"}


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its heading. ``text_columns``: so is the second."""

    caption: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    text_columns: bool = False


@dataclass(frozen=True)
class Key:
    """An entry of a legend; ``dash`` as in SVG, ``marker`` as in matplotlib."""

    name: str
    colour: str
    dash: str = ""
    marker: str = ""
    width: float = 3


@dataclass(frozen=True)
class Chart:
    """A chart: its title, the picture, what it shows in words, and its numbers."""

    title: str
    svg: Markup
    text: str
    table: Table
    keys: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Line:
    """A curve to draw, of the run with this number."""

    name: str
    run: int
    kind: str
    curve: Curve


def curve_charts(runs: Sequence[RunRecords]) -> list[Chart]:
    """The charts of what was recorded: loss, accuracy, learning rate and speed over steps."""
    found = ((title, _lines(runs, names)) for title, names in CURVES.items())
    return [_curves(title, lines, len(runs) > 1) for title, lines in found if lines]


def legend(runs: Sequence[RunRecords]) -> list[Key]:
    """What colours and dashes mean: with one run kinds of curves, else runs and kinds."""
    drawn = {line.kind for names in CURVES.values() for line in _lines(runs, names)}
    kinds = [kind for kind in KINDS if kind in drawn]
    many = len(runs) > 1
    of_kinds = [
        Key(kind, "var(--muted)" if many else _css(KINDS[kind]), DASHES[kind], MARKERS[kind])
        for kind in kinds
    ]
    of_runs = [
        Key(run.label, _css(number), width=1 if _is_thin(number) else 4)
        for number, run in enumerate(runs)
        if many
    ]
    return [*of_runs, *of_kinds]


def bar_chart(
    title: str,
    text: str,
    rows: Mapping[str, Mapping[str, float]],
    of_what: str,
    unit: str,
    form: str,
    name: str,
) -> Chart:
    """Parts of a whole, side by side in one bar for each row; ``form`` writes a number, and
    ``name`` tells the chart from all others of the page.
    """
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    colours = {part: number for number, part in enumerate(parts)}
    figure = plotting.new_figure(WIDTH, 0.75 + 0.36 * len(rows))
    (axes,) = plotting.panels(figure, 1)
    for place, row in enumerate(rows.values()):
        left = 0.0
        for part, value in row.items():
            colour = SERIES[colours[part] % len(SERIES)]
            axes.barh(place, value, left=left, height=0.7, color=colour, edgecolor=PAPER)
            left += value
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [_short(name) for name in rows])
    _style(axes, "x", unit)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    cells = [
        (name, *(format(row.get(part, 0), form) for part in parts)) for name, row in rows.items()
    ]
    keys = tuple(Key(part, _css(number)) for part, number in colours.items())
    table = Table(f"{title}, {unit}", (of_what, *parts), cells)
    return Chart(title, _svg(figure, name), text, table, keys)


def _lines(runs: Sequence[RunRecords], names: Sequence[str]) -> list[Line]:
    """What was recorded of each run under ``names``, one for each kind of curve."""
    kinds = dict(zip(KINDS, names, strict=False))
    lines = []
    for number, run in enumerate(runs):
        for kind, name in kinds.items():
            words = [run.label] * (len(runs) > 1) + [kind] * (len(kinds) > 1)
            if curve := run.history[name]:
                lines.append(Line(" ".join(words), number, kind, curve))
    return lines


def _curves(title: str, lines: Sequence[Line], many: bool) -> Chart:
    figure = plotting.new_figure(WIDTH, HEIGHT)
    (axes,) = plotting.panels(figure, 1)
    for line in lines:
        steps, values = zip(*_thinned(line.curve), strict=True)
        colour = SERIES[(line.run if many else KINDS[line.kind]) % len(SERIES)]
        dashes = [float(length) / 1.6 for length in DASHES[line.kind].split()]
        style: dict[str, Any] = {"dashes": dashes} if dashes else {}
        if line.kind != "training" or len(steps) <= FEW_POINTS:
            style |= {"marker": MARKERS[line.kind], "markersize": 4}
        width = 0.7 if _is_thin(line.run) else 1.6
        axes.plot(steps, values, color=colour, linewidth=width, **style)
    everything = [value for line in lines for _, value in line.curve]
    form = FORMATS[title]
    shown = f"{title}, {UNITS[title]}" if title in UNITS else title
    if title == "Loss" and LEAST_ON_LOG < min(everything) <= max(everything) < 1 / LEAST_ON_LOG:
        plotting.log_ticks(axes, "g")
        shown += " (log)"
    else:
        axes.yaxis.set_major_formatter(lambda value, _: _tick(value, title))
    if title == "Speed":
        axes.set_ylim(0, 1.1 * max(max(everything), 1e-30))
    axes.set_xlim(0, 1.03 * max(line.curve[-1][0] for line in lines) or 1)
    _style(axes, "both", "step")
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=6, min_n_ticks=1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    told = [
        f"{line.name} from {format(line.curve[0][1], form)} at step {line.curve[0][0]:,} to"
        f" {format(line.curve[-1][1], form)} at step {line.curve[-1][0]:,}".strip()
        for line in lines
    ]
    text = f"{title} over steps: {'; '.join(told)}."
    return Chart(
        shown, _svg(figure, title.lower().replace(" ", "-")), text, _numbers(title, lines, form)
    )


def _tick(value: float, title: str) -> str:
    if title == "Accuracy":
        return f"{100 * value:.4g}%"
    return f"{value:,.0f}" if title == "Speed" else f"{value:g}"


def _style(axes: Axes, grid: str, label: str) -> None:
    """The look of all charts: the page's colours, light lines, no frame but the axes."""
    plotting.tidy(axes)
    axes.grid(axis=grid, color=FAINT, linewidth=0.7)
    axes.tick_params(colors=INK, labelcolor=INK, labelsize=FONT, length=3, color=FAINT)
    axes.set_xlabel(label, color=INK, fontsize=FONT)
    for spine in axes.spines.values():
        spine.set_edgecolor(FAINT)


def _svg(figure: plotting.Figure, name: str) -> Markup:
    return Markup(plotting.svg(figure, name, CSS))  # matplotlib has escaped every text in it


def _thinned(curve: Curve) -> Curve:
    """At most about ``MOST_POINTS`` of the points: the least and the largest of each stretch."""
    stretch = -(-2 * len(curve) // MOST_POINTS)
    if stretch <= 2:
        return curve
    kept = []
    for start in range(0, len(curve), stretch):
        part = curve[start : start + stretch]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(ends)
    return sorted({*kept, curve[0], curve[-1]})


def _numbers(title: str, lines: Sequence[Line], form: str) -> Table:
    """The curves as numbers: all steps of tests, and others evenly up to ``MOST_ROWS``."""
    steps = sorted({step for line in lines for step, _ in line.curve})
    caption = f"{title} by step"
    if len(steps) > MOST_ROWS:
        caption += f": {MOST_ROWS} of {len(steps):,} recorded steps, all are in metrics.jsonl"
        steps = [steps[index * (len(steps) - 1) // (MOST_ROWS - 1)] for index in range(MOST_ROWS)]
    values = [dict(line.curve) for line in lines]
    rows = [
        (f"{step:,}", *(format(of[step], form) if step in of else "" for of in values))
        for step in steps
    ]
    return Table(caption, ("step", *(line.name or title.lower() for line in lines)), rows)


def _is_thin(run: int) -> bool:
    """Whether the run's line is thin: the colours of earlier runs come again."""
    return run >= len(SERIES)


def _css(number: int) -> str:
    return CSS[SERIES[number % len(SERIES)]]


def _short(name: str) -> str:
    text = printable(name)
    return plotting.literal(text if len(text) <= 28 else f"...{text[-25:]}")

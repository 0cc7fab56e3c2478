"""Pictures of a sweep and of a prediction: speed and efficiency over the ranks, and where the time
of a step goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distcnn import plotting
from distcnn.plotting import Axes
from distcnn.scaling.points import STRONG, WEAK
from distcnn.scaling.prediction.predict import Projection
from distcnn.scaling.result import GROUPS
from distcnn.scaling.summary import Summary

COLOURS = {STRONG: plotting.BLUE, WEAK: plotting.ORANGE}
GROUP_COLOURS = {
    "compute": plotting.BLUE,
    "local_sum": plotting.LIGHT_BLUE,
    "communication": plotting.ORANGE,
    "waiting": plotting.LIGHT_ORANGE,
    "data": plotting.GREY,
}
GROUP_TITLES = {
    "compute": "computing",
    "communication": "communication",
    "waiting": "waiting for the slowest",
    "data": "data",
}
MEASURED, MARKERS = "#222222", {STRONG: "o", WEAK: "s"}
"""Of measured points in the picture of a prediction."""
PANEL_WIDTH, PANEL_HEIGHT = 4.9, 4.3
MOST_HORIZONTAL = 9
"""More labels than this are turned."""
MOST_BAR_PANELS = 4
WIDE = 30
"""Speeds that differ by more get fewer ticks."""


@dataclass(frozen=True)
class Curve:
    """Values over ranks; ``low`` and ``high`` draw error bars, ``style`` is matplotlib's."""

    label: str
    colour: str
    ranks: Sequence[int]
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    style: str = "o-"


@dataclass(frozen=True)
class Bar:
    """A step: the fraction of each group, and its length."""

    ranks: int
    shares: Mapping[str, float]
    step_seconds: float


@dataclass(frozen=True)
class Content:
    """All that is drawn; ``bars`` by the title of their panel."""

    title: str
    reduction: str
    speed: list[Curve]
    efficiency: list[Curve]
    bars: dict[str, list[Bar]]


def content_of(summary: Summary, title: str) -> Content:
    """Return what there is to draw of a sweep."""
    content = Content(title, summary.reduction, [], [], {})
    for mode, colour in COLOURS.items():
        points = [
            (row.point.ranks, row.measured)
            for row in summary.rows
            if row.point.mode == mode and row.measured
        ]
        if points:
            ranks = [count for count, _ in points]
            speeds = [one.images_per_second for _, one in points]
            low, high = [one.slowest for _, one in points], [one.fastest for _, one in points]
            ideal = [speeds[0] * count / ranks[0] for count in ranks]
            efficiency = [one.efficiency for _, one in points]
            content.speed.append(Curve(mode, colour, ranks, speeds, low, high))
            content.speed.append(Curve(f"{mode}, ideal", colour, ranks, ideal, style="--"))
            content.efficiency.append(Curve(mode, colour, ranks, efficiency))
            content.bars[mode] = [Bar(count, one.shares, one.step_seconds) for count, one in points]
    return content


def predicted_content(projection: Projection, summary: Summary) -> Content:
    """Return what there is to draw of a prediction: lines are predicted, marks measured."""
    calibration = projection.calibration
    ranks = " and ".join(map(str, calibration.ranks))
    title = (
        f"{calibration.model}, {calibration.reduction} sum: predicted (lines) from {ranks} ranks;"
        " measured (marks)"
    )
    content = Content(title, calibration.reduction, [], [], {})
    has_modes = len({series.mode for series in projection.series}) > 1
    for number, series in enumerate(projection.series):
        label = f"{series.mode}, {series.name}" if has_modes else series.name
        colour = plotting.LINES[number % len(plotting.LINES)]
        counts = [one.point.ranks for one in series.predictions]
        speeds = [one.images_per_second for one in series.predictions]
        efficiency = [series.efficiency(one) for one in series.predictions]
        content.speed.append(Curve(label, colour, counts, speeds, style="--"))
        content.efficiency.append(Curve(label, colour, counts, efficiency, style="--"))
        if len(content.bars) < MOST_BAR_PANELS:
            content.bars[label] = [
                Bar(one.point.ranks, one.shares, one.step_seconds) for one in series.predictions
            ]
    measured = content_of(summary, title)
    for curves, found in (
        (content.speed, measured.speed),
        (content.efficiency, measured.efficiency),
    ):
        for curve in found:
            if curve.label in MARKERS:
                label, style = f"{curve.label}, measured", MARKERS[curve.label]
                curves.append(Curve(label, MEASURED, curve.ranks, curve.values, style=style))
    return content


def draw(content: Content) -> bytes:
    """Return the picture as a PNG. Needs at least one curve.

    Raises:
        InputError: matplotlib is not installed.
    """
    count = 2 + len(content.bars)
    columns = count if count <= 3 else 2
    lines = -(-count // columns)
    width, height = PANEL_WIDTH * columns, PANEL_HEIGHT * lines + 0.7
    figure = plotting.new_figure(width, height, content.title)
    speed, efficiency, *others = plotting.panels(figure, count, columns)
    _draw_speed(speed, content.speed)
    _draw_efficiency(efficiency, content.efficiency)
    for axes, (mode, bars) in zip(others, content.bars.items(), strict=True):
        _draw_bars(axes, mode, bars)
    titles = {**GROUP_TITLES, "local_sum": f"{content.reduction} sum"}
    patches = {titles[group]: GROUP_COLOURS[group] for group in GROUPS}
    plotting.legend(figure, patches, columns=5, lines=True)
    return plotting.png(figure)


def _draw_speed(axes: Axes, curves: Sequence[Curve]) -> None:
    _draw_curves(axes, curves)
    values = [value for curve in curves for value in curve.values]
    plotting.log_ticks(
        axes, (1, 2, 5) if max(values) > WIDE * min(values) else (1, 1.5, 2, 3, 5, 7)
    )
    plotting.tidy(axes, "images per second, all ranks", grid="both")


def _draw_efficiency(axes: Axes, curves: Sequence[Curve]) -> None:
    axes.axhline(1, color=plotting.GREY, linestyle="--", linewidth=1)
    _draw_curves(axes, curves)
    highest = max(value for curve in curves for value in curve.values)
    axes.set_ylim(0, max(1.1, 1.05 * highest))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    plotting.tidy(axes, "efficiency", grid="both")


def _draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    for curve in curves:
        look = {"color": curve.colour, "label": plotting.literal(curve.label), "markersize": 5}
        if curve.low:
            below = [value - low for value, low in zip(curve.values, curve.low, strict=True)]
            above = [high - value for value, high in zip(curve.values, curve.high, strict=True)]
            spread = [below, above]
            axes.errorbar(curve.ranks, curve.values, spread, fmt=curve.style, capsize=4, **look)
        else:
            axes.plot(curve.ranks, curve.values, curve.style, linewidth=1.2, alpha=0.8, **look)
    ranks = sorted({count for curve in curves for count in curve.ranks})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, ranks, rotation=_rotation(ranks))
    axes.set_xticks([], minor=True)
    axes.set_xlim(ranks[0] / 1.25, ranks[-1] * 1.25)
    axes.set_xlabel("ranks")


def _draw_bars(axes: Axes, mode: str, bars: Sequence[Bar]) -> None:
    for place, bar in enumerate(bars):
        below = 0.0
        for group in GROUPS:
            share, colour = bar.shares[group], GROUP_COLOURS[group]
            axes.bar(place, share, bottom=below, width=0.62, color=colour, linewidth=0)
            below += share
        if len(bars) <= MOST_HORIZONTAL:
            text = f"{bar.step_seconds * 1e3:,.1f}"
            at = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center"}
            axes.annotate(text, (place, 1), fontsize=plotting.SMALL, **at)
    axes.set_xticks(range(len(bars)), [bar.ranks for bar in bars], rotation=_rotation(bars))
    axes.set_xlim(-0.6, max(len(bars), 2) - 0.4)
    axes.set_ylim(0, 1.08)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("ranks")
    axes.tick_params(axis="x", length=0)
    plotting.tidy(axes, f"where the time of a step goes (ms above), {plotting.literal(mode)}")


def _rotation(labels: Sequence[object]) -> int:
    return 0 if len(labels) <= MOST_HORIZONTAL else 90

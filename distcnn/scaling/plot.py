"""Pictures of a sweep and of a prediction: speed and efficiency over the ranks, and where the time
of a step goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distcnn import plotting
from distcnn.plotting import Axes, Figure
from distcnn.scaling.points import STRONG, WEAK
from distcnn.scaling.prediction import Projection
from distcnn.scaling.summary import Measured, Summary

COLOURS, MARKERS = {STRONG: plotting.BLUE, WEAK: plotting.ORANGE}, {STRONG: "o", WEAK: "s"}
GROUP_COLOURS = {
    "compute": plotting.BLUE,
    "local_sum": plotting.LIGHT_BLUE,
    "communication": plotting.ORANGE,
    "waiting": plotting.LIGHT_ORANGE,
    "data": plotting.GREY,
}
MEASURED = "#222222"
"""Colour of measured points in the picture of a prediction."""
PANEL_WIDTH, PANEL_HEIGHT = 4.9, 4.3
MOST_HORIZONTAL = 9
"""More labels than ``MOST_HORIZONTAL`` are turned."""


def sweep_figure(summary: Summary, title: str) -> Figure:
    """Draw a sweep; ``InputError`` if matplotlib is not installed."""
    modes = measured_points(summary)
    figure, speed, efficiency, *others = _new_figure(len(modes), title)
    for (mode, points), axes in zip(modes.items(), others, strict=True):
        ranks, look = list(points), {"color": COLOURS[mode], "markersize": 5, "label": mode}
        speeds = [one.images_per_second for one in points.values()]
        spread = [
            [one.images_per_second - one.slowest for one in points.values()],
            [one.fastest - one.images_per_second for one in points.values()],
        ]
        speed.errorbar(ranks, speeds, spread, fmt="o-", capsize=4, **look)
        ideal = [speeds[0] * count / ranks[0] for count in ranks]
        speed.plot(ranks, ideal, "--", linewidth=1.2, color=COLOURS[mode], label=f"{mode}, ideal")
        efficiency.plot(ranks, [one.efficiency for one in points.values()], "o-", **look)
        _draw_bars(axes, mode, points)
    _finish(figure, speed, efficiency, summary.reduction)
    return figure


def prediction_figure(projection: Projection, summary: Summary) -> Figure:
    """Draw a prediction: lines are predicted, marks measured."""
    calibration, modes = projection.calibration, measured_points(summary)
    title = (
        f"{calibration.model}, {calibration.reduction} sum: predicted (lines) from"
        f" {' and '.join(map(str, calibration.ranks))} ranks; measured (marks)"
    )
    figure, speed, efficiency = _new_figure(0, title)

    def draw(ranks: list[int], speeds: list[float], fractions: list[float], **look: Any) -> None:
        speed.plot(ranks, speeds, **look)
        efficiency.plot(ranks, fractions, **look)

    for number, series in enumerate(projection.series):
        name = f"{series.mode}, {series.name}" if len(modes) > 1 else series.name
        draw(
            [one.point.ranks for one in series.predictions],
            [one.images_per_second for one in series.predictions],
            [series.efficiency(one) for one in series.predictions],
            linestyle="--",
            linewidth=1.2,
            color=plotting.LINES[number % len(plotting.LINES)],
            label=plotting.literal(name),
        )
    for mode, points in modes.items():
        draw(
            list(points),
            [one.images_per_second for one in points.values()],
            [one.efficiency for one in points.values()],
            linestyle="None",
            marker=MARKERS[mode],
            markersize=5,
            color=MEASURED,
            label=f"{mode}, measured",
        )
    _finish(figure, speed, efficiency)
    return figure


def measured_points(summary: Summary) -> dict[str, dict[int, Measured]]:
    """Return measurements by mode and ranks."""
    points: dict[str, dict[int, Measured]] = {}
    for row in summary.rows:
        if row.measured:
            points.setdefault(row.point.mode, {})[row.point.ranks] = row.measured
    return points


def _new_figure(bar_panels: int, title: str) -> list[Figure | Axes]:
    count = 2 + bar_panels
    columns = count if count <= 3 else 2
    width, height = PANEL_WIDTH * columns, PANEL_HEIGHT * -(-count // columns) + 0.7
    figure = plotting.new_figure(width, height, title)
    return [figure, *plotting.panels(figure, count, columns)]


def _finish(figure: Figure, speed: Axes, efficiency: Axes, reduction: str = "") -> None:
    plotting.log_ticks(speed)
    plotting.tidy(speed, "images per second, all ranks", grid="both")
    efficiency.axhline(1, color=plotting.GREY, linestyle="--", linewidth=1)
    efficiency.set_ylim(0, max(1.1, efficiency.get_ylim()[1]))
    plotting.percent(efficiency)
    plotting.tidy(efficiency, "efficiency", grid="both")
    ranks = sorted({int(count) for line in efficiency.lines[:-1] for count in line.get_xdata()})
    for axes in (speed, efficiency):
        axes.set_xscale("log", base=2)
        axes.set_xticks(ranks, ranks, rotation=_rotation(ranks))
        axes.set_xticks([], minor=True)
        axes.set(xlim=(ranks[0] / 1.25, ranks[-1] * 1.25), xlabel="ranks")
    titles = ("computing", f"{reduction} sum", "communication", "waiting for the slowest", "data")
    patches = dict(zip(titles, GROUP_COLOURS.values(), strict=True)) if reduction else {}
    plotting.legend(figure, patches, columns=5, lines=True)


def _draw_bars(axes: Axes, mode: str, bars: dict[int, Measured]) -> None:
    for place, step in enumerate(bars.values()):
        below = 0.0
        for group, colour in GROUP_COLOURS.items():
            axes.bar(place, step.shares[group], 0.62, below, color=colour, linewidth=0)
            below += step.shares[group]
        if len(bars) <= MOST_HORIZONTAL:
            text = f"{step.step_seconds * 1e3:,.1f}"
            axes.text(place, 1.01, text, ha="center", fontsize=plotting.SMALL)
    axes.set_xticks(range(len(bars)), bars, rotation=_rotation(bars))
    axes.set(xlim=(-0.6, max(len(bars), 2) - 0.4), ylim=(0, 1.08), xlabel="ranks")
    plotting.percent(axes)
    plotting.tidy(axes, f"time of a step (ms above), {mode}")


def _rotation(labels: Sequence[int] | dict[int, Measured]) -> int:
    return 0 if len(labels) <= MOST_HORIZONTAL else 90

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
from distcnn.scaling.records import GROUPS
from distcnn.scaling.summary import Measured, Summary

COLOURS, MARKERS = {STRONG: plotting.BLUE, WEAK: plotting.ORANGE}, {STRONG: "o", WEAK: "s"}
GROUP_COLOURS = (
    *(plotting.BLUE, plotting.LIGHT_BLUE, plotting.ORANGE, plotting.LIGHT_ORANGE),
    plotting.GREY,
)
MEASURED = "#222222"  # points in the picture of a prediction
PANEL_WIDTH, PANEL_HEIGHT = 4.9, 4.3
MOST_HORIZONTAL = 9  # labels; more are turned


def sweep_figure(summary: Summary, title: str) -> Figure:
    """Draw a sweep; ``InputError`` if matplotlib is not installed."""
    modes = measured_points(summary)
    figure, speed, efficiency, *others = _new_figure(2 + len(modes), title)
    for (mode, points), axes in zip(modes.items(), others, strict=True):
        ranks, measured = list(points), list(points.values())
        colour, speeds = COLOURS[mode], [one.images_per_second for one in measured]
        ideal = [speeds[0] * count / ranks[0] for count in ranks]
        speed.plot(ranks, speeds, "o-", markersize=5, color=colour, label=mode)
        speed.plot(ranks, ideal, "--", linewidth=1.2, color=colour, label=f"{mode}, ideal")
        lowest, highest = [one.slowest for one in measured], [one.fastest for one in measured]
        speed.vlines(ranks, lowest, highest, color=colour)
        fractions = [one.efficiency for one in measured]
        efficiency.plot(ranks, fractions, "o-", markersize=5, color=colour)
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
    figure, speed, efficiency = _new_figure(2, title)
    for number, series in enumerate(projection.series):
        name = f"{series.mode}, {series.name}" if len(modes) > 1 else series.name
        ranks = [one.point.ranks for one in series.predictions]
        look: dict[str, Any] = {"color": plotting.LINES[number % len(plotting.LINES)]}
        look |= {"linestyle": "--", "linewidth": 1.2, "label": plotting.literal(name)}
        speed.plot(ranks, [one.images_per_second for one in series.predictions], **look)
        efficiency.plot(ranks, [series.efficiency(one) for one in series.predictions], **look)
    for mode, points in modes.items():
        ranks, measured = list(points), points.values()
        look = {"color": MEASURED, "markersize": 5, "label": f"{mode}, measured"}
        speed.plot(ranks, [one.images_per_second for one in measured], MARKERS[mode], **look)
        efficiency.plot(ranks, [one.efficiency for one in measured], MARKERS[mode], **look)
    _finish(figure, speed, efficiency)
    return figure


def measured_points(summary: Summary) -> dict[str, dict[int, Measured]]:
    """Return measurements by mode and ranks."""
    points: dict[str, dict[int, Measured]] = {}
    for row in summary.rows:
        if row.measured:
            points.setdefault(row.point.mode, {})[row.point.ranks] = row.measured
    return points


def _new_figure(count: int, title: str) -> list[Figure | Axes]:
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
    patches = dict(zip(titles, GROUP_COLOURS, strict=True)) if reduction else {}
    plotting.legend(figure, patches, columns=5, lines=True)


def _draw_bars(axes: Axes, mode: str, bars: dict[int, Measured]) -> None:
    for place, step in enumerate(bars.values()):
        below = 0.0
        for group, colour in zip(GROUPS, GROUP_COLOURS, strict=True):
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

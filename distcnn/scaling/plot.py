"""The picture of a sweep: speed and efficiency over the ranks, and where the time of a step goes.

What is drawn is data first: ``curves_of`` and ``bars_of`` make curves and bars of a summary,
``draw`` draws any. Whoever has more to show beside the measurement adds curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from distcnn import plotting
from distcnn.plotting import Axes
from distcnn.scaling.points import STRONG
from distcnn.scaling.result import GROUPS
from distcnn.scaling.summary import Row, Summary

COLOURS = {STRONG: plotting.BLUE, "weak": plotting.ORANGE}
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
WIDTH, HEIGHT = 4.9, 4.3
"""Of a panel, in inches."""
ASIDE = 1.03
MOST_BAR_TEXTS, MOST_WIDE_TEXTS = 9, 6
"""Bars that have room for the milliseconds above them, and for level labels below."""
WIDE = 30
"""Speeds that differ by more have fewer ticks between."""


@dataclass(frozen=True)
class Curve:
    """Values over ranks, ``low`` and ``high`` where they spread.

    ``line`` is matplotlib's style: ``o-`` measured, ``--`` not.
    """

    label: str
    colour: str
    ranks: Sequence[int]
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    line: str = "o-"


@dataclass(frozen=True)
class Bar:
    """A step at some number of ranks: each group's fraction, and its length."""

    ranks: int
    fractions: Mapping[str, float]
    step_seconds: float


@dataclass(frozen=True)
class Content:
    """All that is drawn: ``bars`` by mode."""

    title: str
    reduction: str = "exact"
    speed: list[Curve] = field(default_factory=list)
    efficiency: list[Curve] = field(default_factory=list)
    bars: dict[str, list[Bar]] = field(default_factory=dict)


def content_of(summary: Summary, title: str) -> Content:
    """What there is to draw of a sweep: its points that have a result."""
    content = Content(title, summary.reduction)
    for mode in dict.fromkeys(row.mode for row in summary.rows):
        rows = [
            row for row in summary.rows if row.mode == mode and row.images_per_second is not None
        ]
        if rows:
            ranks, colour = [row.ranks for row in rows], COLOURS[mode]
            base = rows[0]
            content.speed.append(_curve(mode, rows, "images_per_second"))
            ideal = [(base.images_per_second or 0.0) * count / base.ranks for count in ranks]
            content.speed.append(Curve(f"{mode}, ideal", colour, ranks, ideal, line="--"))
            content.efficiency.append(_curve(mode, rows, "efficiency"))
            content.bars[mode] = [
                Bar(row.ranks, row.split or {}, row.split_step_seconds or 0.0) for row in rows
            ]
    return content


def _curve(mode: str, rows: Sequence[Row], name: str) -> Curve:
    values, low, high = ([getattr(row, name + end) for row in rows] for end in ("", "_min", "_max"))
    return Curve(mode, COLOURS[mode], [row.ranks for row in rows], values, low, high)


def draw(content: Content) -> bytes:
    """The picture as a PNG. Needs matplotlib, and at least one curve."""
    count = 2 + len(content.bars)
    columns = count if count <= 3 else 2
    lines = -(-count // columns)
    figure = plotting.new_figure(WIDTH * columns, HEIGHT * lines + 0.7, content.title)
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
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log", base=2)
    values = [value for curve in curves for value in curve.values]
    axes.yaxis.set_major_locator(
        LogLocator(10, subs=(1, 2, 5) if max(values) > WIDE * min(values) else (1, 1.5, 2, 3, 5, 7))
    )
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    plotting.tidy(axes, "images per second, all ranks", grid="both")


def _draw_efficiency(axes: Axes, curves: Sequence[Curve]) -> None:
    axes.axhline(1, color=plotting.GREY, linestyle="--", linewidth=1)
    _draw_curves(axes, curves)
    axes.set_ylim(
        0, max([1.1, *(1.05 * high for curve in curves for high in curve.high or curve.values)])
    )
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    plotting.tidy(axes, "efficiency", grid="both")


def _draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    """Those that spread stand a little beside each other, so that none hides another's."""
    spreading = [curve for curve in curves if curve.low]
    for curve in curves:
        look = {"color": curve.colour, "label": curve.label}
        if curve.low:
            aside = ASIDE ** (spreading.index(curve) - (len(spreading) - 1) / 2)
            pairs = list(zip(curve.values, curve.low, curve.high, strict=True))
            spread = [
                [value - low for value, low, _ in pairs],
                [high - value for value, _, high in pairs],
            ]
            axes.errorbar(
                [count * aside for count in curve.ranks],
                curve.values,
                yerr=spread,
                fmt=curve.line,
                capsize=4,
                markersize=5,
                **look,
            )
        else:
            axes.plot(curve.ranks, curve.values, curve.line, linewidth=1.2, alpha=0.8, **look)
    ranks = sorted({count for curve in curves for count in curve.ranks})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, ranks, rotation=_rotation(ranks))
    axes.set_xticks([], minor=True)
    axes.set_xlim(ranks[0] / 1.25, ranks[-1] * 1.25)
    axes.set_xlabel("ranks")


def _draw_bars(axes: Axes, mode: str, bars: Sequence[Bar]) -> None:
    wide = len(bars) <= MOST_WIDE_TEXTS
    for place, bar in enumerate(bars):
        below = 0.0
        for group in GROUPS:
            fraction = bar.fractions.get(group, 0.0)
            axes.bar(
                place, fraction, bottom=below, width=0.62, color=GROUP_COLOURS[group], linewidth=0
            )
            below += fraction
        if len(bars) <= MOST_BAR_TEXTS:
            text = f"{bar.step_seconds * 1e3:,.1f}{' ms' if wide else ''}"
            axes.annotate(
                text, (place, 1), (0, 3), textcoords="offset points", ha="center", fontsize=9
            )
    axes.set_xticks(range(len(bars)), [bar.ranks for bar in bars], rotation=_rotation(bars))
    axes.set_xlim(-0.6, max(len(bars), 2) - 0.4)
    axes.set_ylim(0, 1.08)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("ranks")
    axes.tick_params(axis="x", length=0)
    plotting.tidy(axes, f"where the time of a step{'' if wide else ' (ms above)'} goes, {mode}")


def _rotation(places: Sequence[object]) -> int:
    """Of their labels: many stand on end."""
    return 0 if len(places) <= MOST_BAR_TEXTS else 90

"""A picture of measurements: a panel for each, a bar for each layer and each other part."""

from __future__ import annotations

from pathlib import Path

from distcnn import plotting
from distcnn.benchmark.measurement import Measurement, step_parts
from distcnn.benchmark.table import part_title
from distcnn.plotting import Axes
from distcnn.spans import BACKWARD, FORWARD
from distcnn.system.wording import counted

COLOURS, OTHER = {FORWARD: plotting.BLUE, BACKWARD: plotting.ORANGE}, plotting.GREY
LEGEND = {**COLOURS, "not in a layer": OTHER}
MOST_COLUMNS = 3
NEGLIGIBLE = 0.0005
"""Parts shorter than this fraction of the step get no bar."""
PANEL_WIDTH, ROW_HEIGHT, FRAME_HEIGHT = 5.4, 0.27, 1.5

Bar = tuple[str, list[tuple[float, str]]]
"""A name, and stretches: µs per image, colour."""


def draw(measurements: list[Measurement], output: str | Path) -> None:
    """Write the picture.

    Raises:
        InputError: matplotlib is not installed, or ``output`` cannot be written.
    """
    columns = min(MOST_COLUMNS, len(measurements))
    lines = -(-len(measurements) // columns)
    rows = max(len(bars(measured)) for measured in measurements)
    width, height = PANEL_WIDTH * columns, (ROW_HEIGHT * rows + FRAME_HEIGHT) * lines + 0.4
    figure = plotting.new_figure(max(7.0, width), height)
    panels = plotting.panels(figure, len(measurements), columns)
    for axes, measured in zip(panels, measurements, strict=True):
        _draw_panel(axes, measured)
    plotting.legend(figure, LEGEND, columns=len(LEGEND))
    plotting.save(figure, output, "--picture")


def bars(measured: Measurement) -> list[Bar]:
    """The bars, from top to bottom."""
    unit, least = 1e6 / measured.split_images, NEGLIGIBLE * measured.split.seconds
    return [
        (
            part_title(row.name, measured),
            [
                (seconds * unit, COLOURS.get(direction, OTHER))
                for direction, seconds in row.seconds.items()
            ],
        )
        for row in step_parts(measured.split.parts)
        if row.total >= least
    ]


def _draw_panel(axes: Axes, measured: Measurement) -> None:
    whole = measured.split.seconds * 1e6 / measured.split_images
    longest, all_bars = 0.0, bars(measured)
    for row, (_, stretches) in enumerate(all_bars):
        end = 0.0
        for length, colour in stretches:
            axes.barh(row, length, left=end, height=0.74, color=colour, linewidth=0)
            end += length
        style = {"va": "center", "fontsize": plotting.SMALL, "color": "#333333"}
        axes.annotate(f"{end / whole:.1%}", (end, row), (4, 0), textcoords="offset points", **style)
        longest = max(longest, end)
    axes.set_yticks(range(len(all_bars)), [name for name, _ in all_bars])
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.16)
    axes.set_xlabel("µs per image of a rank, and share of the step", fontsize=plotting.SMALL)
    axes.tick_params(axis="y", length=0)
    title = (
        f"{measured.model}, {counted(measured.world_size, 'rank')}:"
        f" {measured.images_per_second:,.0f} images/s\n{measured.step_seconds * 1e3:.1f} ms a step;"
        f" im2col's products alone: {measured.gemm_bound_fraction:.0%} of it"
    )
    plotting.tidy(axes, title, frame="bottom", grid="x")

"""The picture of where a step's time goes: a panel for each measurement, a bar for each layer and
for each other part.
"""

from __future__ import annotations

from pathlib import Path

from distcnn import plotting
from distcnn.benchmark.results import Results
from distcnn.benchmark.table import part_title
from distcnn.plotting import Axes
from distcnn.system.wording import counted

FORWARD = (plotting.BLUE, plotting.LIGHT_BLUE)
BACKWARD = (plotting.ORANGE, plotting.LIGHT_ORANGE)
OTHER = plotting.GREY
"""Of a bar: (matrix products, everything else) of forward and of backward; what is no layer's."""
LEGEND = {
    "forward: matrix products": FORWARD[0],
    "forward: all else": FORWARD[1],
    "backward: matrix products": BACKWARD[0],
    "backward: all else": BACKWARD[1],
    "not in a layer": OTHER,
}
MOST_COLUMNS = 3
NEGLIGIBLE = 0.0005
"""Of a step: what is shorter has no bar."""
PANEL_WIDTH, ROW_HEIGHT, FRAME_HEIGHT = 5.4, 0.27, 1.5
Stretch = tuple[float, str]


def draw(measurements: list[Results], output: str | Path) -> None:
    """Write the picture.

    Raises:
        InputError: matplotlib is not installed, or ``output`` cannot be written.
    """
    columns = min(MOST_COLUMNS, len(measurements))
    lines = -(-len(measurements) // columns)
    rows = max(len(bars(each)) for each in measurements)
    width, height = PANEL_WIDTH * columns, (ROW_HEIGHT * rows + FRAME_HEIGHT) * lines + 0.4
    figure = plotting.new_figure(max(7.0, width), height)
    axes_of = plotting.panels(figure, len(measurements), columns)
    for axes, results in zip(axes_of, measurements, strict=True):
        _draw_panel(axes, results)
    plotting.legend(figure, LEGEND, columns=3 if columns == 1 else 5)
    plotting.save(figure, output, "--picture")


def bars(results: Results) -> list[tuple[str, list[Stretch]]]:
    """Each bar's name and stretches: their length in µs per image, their colour."""
    split = results["split"]
    unit = 1e6 / split["images"]
    found: list[tuple[str, list[Stretch]]] = []
    for row in split["layers"]:
        stretches: list[Stretch] = []
        for direction, colours in (("forward", FORWARD), ("backward", BACKWARD)):
            products = row[f"{direction}_products_seconds"]
            stretches += [
                (products * unit, colours[0]),
                ((row[f"{direction}_seconds"] - products) * unit, colours[1]),
            ]
        found.append((row["name"], stretches))
    found += [
        (part_title(row["name"], results), [(row["seconds"] * unit, OTHER)])
        for row in split["others"]
    ]
    least = NEGLIGIBLE * split["step_seconds"] * unit
    return [
        (name, stretches)
        for name, stretches in found
        if sum(length for length, _ in stretches) >= least
    ]


def _draw_panel(axes: Axes, results: Results) -> None:
    whole = results["split"]["step_seconds"] * 1e6 / results["split"]["images"]
    longest = 0.0
    for place, (_, stretches) in enumerate(bars(results)):
        end = 0.0
        for length, colour in stretches:
            axes.barh(place, length, left=end, height=0.74, color=colour, linewidth=0)
            end += length
        axes.annotate(
            f"{end / whole:.1%}",
            (end, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=plotting.SMALL,
            color="#333333",
        )
        longest = max(longest, end)
    axes.set_yticks(range(len(bars(results))), [name for name, _ in bars(results)])
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.16)
    axes.set_xlabel("µs per image of a rank, and share of the step", fontsize=plotting.SMALL)
    axes.tick_params(axis="y", length=0)
    title = (
        f"{results['model']}, {counted(results['world_size'], 'rank')}:"
        f" {results['images_per_second']:,.0f} images/s\n{results['step_seconds'] * 1e3:.1f} ms a"
        f" step; im2col's products alone: {results['gemm_bound_fraction']:.0%} of it"
    )
    plotting.tidy(axes, title, frame="bottom", grid="x")

"""The picture of where a step's time goes: a panel for each measurement, a bar for each layer and
for each other part.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from distcnn.benchmark.results import Results
from distcnn.benchmark.table import part_title
from distcnn.errors import InputError

FORWARD, BACKWARD, OTHER = ("#1f5fa8", "#9dc3ea"), ("#c25a11", "#f6bd8b"), "#8a8f98"
"""Of a bar: (matrix products, everything else) of forward and of backward; what is no layer's."""
MOST_COLUMNS = 3
NEGLIGIBLE = 0.0005
"""Of a step: what is shorter has no bar."""
PANEL_WIDTH, ROW_HEIGHT, FRAME_HEIGHT = 5.4, 0.27, 1.5
Stretch = tuple[float, str]


def require_matplotlib() -> None:
    """``InputError`` where there is none; it is not loaded."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("--picture needs matplotlib: pip install matplotlib")


def draw(measurements: list[Results], output: str | Path) -> None:
    """Write the picture.

    ``InputError`` without matplotlib, and when ``output`` cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    columns = min(MOST_COLUMNS, len(measurements))
    lines = -(-len(measurements) // columns)
    rows = max(len(bars(each)) for each in measurements)
    size = (max(7.0, PANEL_WIDTH * columns), (ROW_HEIGHT * rows + FRAME_HEIGHT) * lines + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, results in zip(panels, measurements, strict=False):
        _draw_panel(axes, results)
    for axes in panels[len(measurements) :]:
        axes.set_axis_off()
    _legend(figure)
    try:
        figure.savefig(output, dpi=130)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--picture: {output} cannot be written ({error}): name another file, such as speed.png"
        ) from error


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


def _draw_panel(axes: Any, results: Results) -> None:
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
            fontsize=9,
            color="#333333",
        )
        longest = max(longest, end)
    axes.set_yticks(range(len(bars(results))), [name for name, _ in bars(results)], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.16)
    axes.set_xlabel("µs per image of a rank, and share of the step", fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=9)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    ranks = f"{results['world_size']} rank{'s' if results['world_size'] > 1 else ''}"
    axes.set_title(
        f"{results['model']}, {ranks}: {results['images_per_second']:,.0f}"
        f" images/s\n{results['step_seconds'] * 1e3:.1f} ms a step; im2col's products alone:"
        f" {results['gemm_bound_fraction']:.0%} of it",
        fontsize=10,
        loc="left",
    )


def _legend(figure: Any) -> None:
    from matplotlib.patches import Patch

    entries = {
        "forward: matrix products": FORWARD[0],
        "forward: all else": FORWARD[1],
        "backward: matrix products": BACKWARD[0],
        "backward: all else": BACKWARD[1],
        "not in a layer": OTHER,
    }
    handles = [Patch(color=colour, label=label) for label, colour in entries.items()]
    narrow = figure.get_figwidth() < 2 * PANEL_WIDTH
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3 if narrow else 5,
        frameon=False,
        fontsize=9,
    )

"""Draw the pictures of how_it_works.md: python docs/draw.py

Shapes, parameters and the owners of shards are those that the code computes.
"""

import argparse
import math
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon

from distcnn import models, nn
from distcnn.distributed.partition import shards_of_rank
from distcnn.plotting import BLUE, GREY, LIGHT_BLUE, LIGHT_ORANGE, ORANGE

NUM_SHARDS, MICROBATCH, INPUT_SHAPE = 8, 16, (1, 28, 28)
RANK_COLOURS = (LIGHT_BLUE, LIGHT_ORANGE, "#b9d8b4")


def canvas(width, height):
    """A figure with one empty axes, whose units are inches."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.set_axis_off()
    return figure, axes


def box(axes, x, y, width, height, text, colour, size=9.0, **style):
    """A rounded box with ``text`` in its middle."""
    style = {"edgecolor": "#404040", "linewidth": 0.8} | style
    axes.add_patch(
        FancyBboxPatch(
            *((x, y), width, height),
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=colour,
            **style,
        )
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)


def arrow(axes, start, end, colour=GREY):
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.1, "shrinkA": 1, "shrinkB": 1}
    axes.annotate("", end, start, arrowprops=style)


def draw_sum():
    """The same shards on 1, 2 and 3 ranks: one exact sum, one update."""
    figure, axes = canvas(10, 4.6)
    titles = ("the ranks compute a gradient for each of their shards", "exact sum", "update")
    for x, title in zip((3.3, 7.6, 9.2), titles, strict=True):
        axes.text(x, 4.38, title, ha="center", va="center", fontsize=9.5, weight="bold")
    for row, world_size in enumerate((1, 2, 3)):
        top = 4.1 - 1.36 * row
        middle = top - 0.52
        label = f"{world_size} rank" + "s" * (world_size > 1)
        axes.text(0.08, middle, label, va="center", fontsize=10, weight="bold")
        x = 0.85
        for rank in range(world_size):
            shards = shards_of_rank(NUM_SHARDS, world_size, rank)
            width = 0.56 * len(shards) + 0.04
            box(axes, x, middle - 0.42, width, 0.94, "", RANK_COLOURS[rank])
            axes.text(x + width / 2, middle + 0.37, f"rank {rank}", ha="center", va="center")
            for place, shard in enumerate(shards):
                left = x + 0.05 + 0.56 * place
                box(axes, left, middle - 0.35, 0.5, 0.55, f"shard\n{shard}", "white", 8)
            x += width + 0.11
        box(axes, 6.75, middle - 0.42, 1.7, 0.94, "the same\n431,080 sums", "#f3e6b3")
        arrow(axes, (x - 0.09, middle + 0.05), (6.73, middle + 0.05))
        box(axes, 8.85, middle - 0.42, 1.0, 0.94, "the same\nweights", "#e3d5ea")
        arrow(axes, (8.46, middle + 0.05), (8.83, middle + 0.05))
    bottom = "The number of ranks decides who computes a shard, never what is computed."
    axes.text(5, 0.12, bottom, ha="center", va="center", fontsize=9, style="italic")
    return figure


def block(axes, x, y, shape, colour):
    """An array (channels, height, width) or (features,) as a block; returns its extent in x."""
    if len(shape) == 3:
        depth = 0.04 + 0.05 * shape[0] ** 0.5
        height, width = (0.1 + 0.033 * length for length in shape[1:])
    else:
        depth, height, width = 0.08, 0.2 + 0.045 * shape[0] ** 0.5, 0.13
    low = y - height / 2
    near = [(x, low), (x + width, low), (x + width, low + height), (x, low + height)]
    far = [(left + depth, up + depth) for left, up in near]
    style = {"facecolor": colour, "edgecolor": "#404040", "linewidth": 0.8}
    for corners in (near[2:] + far[3:1:-1], [near[1], far[1], far[2], near[2]]):
        axes.add_patch(Polygon(corners, alpha=0.65, **style))
    axes.add_patch(Polygon(near, **style))
    return width + depth


def stages():
    """The arrays of lenet: what makes each one, its shape, and its colour."""
    model = models.lenet(INPUT_SHAPE, 10)
    shapes = model.shapes(INPUT_SHAPE)[1:]
    found = [("images", INPUT_SHAPE, "white")]
    for layer, shape in zip(model.layers, shapes, strict=True):
        match layer:
            case nn.ReLU():  # drawn with the array before it
                found[-1] = (f"{found[-1][0]}\nReLU", *found[-1][1:])
                continue
            case nn.Conv2d():
                text, colour = "convolution\n5x5", LIGHT_BLUE
            case nn.MaxPool2d():
                text, colour = "maximum\nof 2x2", "#dfe9f5"
            case nn.Flatten():
                text, colour = "flatten", "#f0f0f0"
            case _:
                text, colour = "dense", LIGHT_ORANGE
        parameters = layer.parameters(found[-1][1])
        if parameters:
            text += f"\n{sum(math.prod(each.shape) for each in parameters):,}\nparameters"
        found.append((text, shape, colour))
    return found


def draw_shapes():
    """A microbatch on its way through lenet, and its gradient on the way back."""
    step = 1.3
    found = stages()
    figure, axes = canvas(step * len(found) + 0.1, 3.6)
    for number, (text, shape, colour) in enumerate(found):
        x = 0.32 + step * number
        middle = x + block(axes, x, 2.2, shape, colour) / 2
        shown = ", ".join(map(str, (*shape, MICROBATCH)))
        axes.text(middle, 1.13, f"({shown})", ha="center", fontsize=8, weight="bold")
        axes.text(middle, 1.03, text, ha="center", va="top", fontsize=8, color="#303030")
    end = step * len(found) - 0.15
    for height, text, colour, start, stop in (
        (3.4, "forward: logits, then the loss", BLUE, 0.3, end),
        (0.18, "backward: the gradient of all 431,080 parameters", ORANGE, end, 0.3),
    ):
        arrow(axes, (start, height), (stop, height), colour)
        style = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        centre = {"ha": "center", "va": "center", "fontsize": 9, "color": colour, "bbox": style}
        axes.text(end / 2, height, text, **centre)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder to write to")
    args = parser.parse_args()
    for name, figure in (("shards.png", draw_sum()), ("shapes.png", draw_shapes())):
        figure.savefig(args.output / name, dpi=110, facecolor="white")
        print(f"drew {args.output / name}")


if __name__ == "__main__":
    main()

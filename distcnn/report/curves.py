"""The picture of curves of one or more runs, for a page or a talk: ``--output curves.png``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distcnn import plotting
from distcnn.report.records import RunRecords
from distcnn.training.line_files import SPEED

PANELS = {
    "loss": "training loss",
    "test_accuracy": "test accuracy",
    SPEED: "images per second, all ranks",
}
"""What is drawn, by its name in a line of metrics."""


def draw(runs: Sequence[RunRecords], output: Path) -> None:
    """Write the picture: ``PANELS``, with a line for each run."""
    figure = plotting.new_figure(12, 3.6)
    panels = dict(zip(PANELS, plotting.panels(figure, len(PANELS)), strict=True))
    accuracy = "test accuracy"
    if any(run.history["validation_accuracy"] for run in runs):
        accuracy += " (dashed: validation)"
    for name, axes in panels.items():
        style = {"marker": "o"} if name == "test_accuracy" else {"marker": ".", "markersize": 3}
        for run in runs:
            steps = [step for step, _ in run.history[name]]
            values = [value for _, value in run.history[name]]
            (line,) = axes.plot(steps, values, label=plotting.literal(run.label), **style)
            if name == "test_accuracy" and (validation := run.history["validation_accuracy"]):
                axes.plot(*zip(*validation, strict=True), "--", color=line.get_color())
        plotting.tidy(axes, accuracy if name == "test_accuracy" else PANELS[name], grid="both")
        axes.set_xlabel("step")
    panels["loss"].set_yscale("log")
    panels["loss"].legend(frameon=False, fontsize=plotting.SMALL)
    panels[SPEED].set_ylim(bottom=0)
    plotting.save(figure, output)

"""Draw runs: ``python -m distcnn.report RUN_DIR [RUN_DIR ...]``, or a trace: ``--trace FILE``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn import plotting
from distcnn.cli.parser import Parser
from distcnn.errors import InputError
from distcnn.profiling.plot import draw_trace
from distcnn.system.console import guarded, say, tell
from distcnn.system.files import read_bytes, reading
from distcnn.system.wording import counted, printable
from distcnn.training.comparison import SPEED
from distcnn.training.receipt import MALFORMED
from distcnn.training.results import METRICS, RESULT, read_result

PANELS = {
    "loss": "training loss",
    "test_accuracy": "test accuracy",
    SPEED: "images per second, all ranks",
}
"""What is drawn, by its name in a line of metrics."""
RECORDED = {"step": ("loss", SPEED), "epoch": ()}
"""What each kind of line must have; ``test_accuracy`` it may have."""

History = dict[str, list[tuple[int, float]]]
"""A run's (step, value) pairs for each of ``PANELS``."""


@guarded()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    try:
        say(*report(make_parser().parse_args(arguments)))
    except InputError as error:
        tell(f"distcnn.report: error: {printable(str(error))}")
        return 2
    return 0


def make_parser() -> Parser:
    """The command's flags."""
    parser = Parser(
        prog="python -m distcnn.report",
        description="Draw loss, test accuracy and speed of runs into one PNG.",
    )
    runs = "run directories of distcnn.train"
    trace = "draw two steps of this trace instead (docs/trace.md)"
    step = "the first of the two (default: in the middle)"
    output = "picture to write (default: report.png in the first RUN_DIR, trace.png next to FILE)"
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN_DIR", help=runs)
    parser.add_argument("--trace", type=Path, metavar="FILE.json", help=trace)
    parser.add_argument("--step", type=int, metavar="N", help=step)
    parser.add_argument("--output", type=Path, metavar="FILE.png", help=output)
    return parser


def report(args: argparse.Namespace) -> list[str]:
    """Draw the pictures requested by ``args``; return lines on what was written."""
    if bool(args.runs) == bool(args.trace):
        raise InputError(
            "name run directories, or a trace with --trace FILE.json (see python -m distcnn.report"
            " --help)"
        )
    output = args.output or (
        args.trace.with_name("trace.png") if args.trace else args.runs[0] / "report.png"
    )
    if not args.output and output.is_symlink():
        raise InputError(f"{output} is a symbolic link: name the picture with --output")
    if args.trace:
        draw_trace(args.trace, args.step, output)
        return [f"picture in {output}"]
    lines = [summary(run) for run in args.runs]
    histories = [read_history(run) for run in args.runs]
    draw(list(zip(labels(args.runs), histories, strict=True)), output)
    return [*lines, f"picture in {output}"]


def read_history(run: Path) -> History:
    """The metrics that a run recorded."""
    history: History = {name: [] for name in PANELS}
    file = run / METRICS
    with reading(file, *MALFORMED, remedy="name a run directory of distcnn.train"):
        for text in read_bytes(file).decode().splitlines():
            line = json.loads(text)
            names = [*RECORDED[line["kind"]], *({"test_accuracy"} & line.keys())]
            if not all(isinstance(line[name], int | float) for name in ("step", *names)):
                raise ValueError(f"{text} is not a line of metrics")
            for name in names:
                history[name].append((line["step"], line[name]))
    return history


def summary(run: Path) -> str:
    """A line on how the run ended."""
    if not (run / RESULT).exists():
        return f"{run}: not finished"
    try:
        result = read_result(run)
    except InputError as error:
        raise InputError(f"{run}: {error}: --resume {run} writes it again") from error
    return (
        f"{run}: {result.model}, {counted(result.world_size, 'rank')},"
        f" {counted(result.steps, 'step')}, test accuracy {result.test_accuracy:.4f},"
        f" {result.images_per_second:,.0f} images/s, weights {result.params_sha256[:16]}"
    )


def labels(runs: Sequence[Path]) -> list[str]:
    """A label for each run: its path below the folder that all runs have in common."""
    paths = [run.resolve() for run in runs]
    common = os.path.commonpath([path.parent for path in paths])
    return [printable(str(path.relative_to(common))) for path in paths]


def draw(runs: Sequence[tuple[str, History]], output: Path) -> None:
    """Write the picture: ``PANELS``, with a line for each run, given by its label and history."""
    figure = plotting.new_figure(12, 3.6)
    panels = dict(zip(PANELS, plotting.panels(figure, len(PANELS)), strict=True))
    for name, axes in panels.items():
        style = {"marker": "o"} if name == "test_accuracy" else {"marker": ".", "markersize": 3}
        for label, history in runs:
            steps = [step for step, _ in history[name]]
            values = [value for _, value in history[name]]
            axes.plot(steps, values, label=plotting.literal(label), **style)
        plotting.tidy(axes, PANELS[name], grid="both")
        axes.set_xlabel("step")
    panels["loss"].set_yscale("log")
    panels["loss"].legend(frameon=False, fontsize=plotting.SMALL)
    panels[SPEED].set_ylim(bottom=0)
    plotting.save(figure, output)


if __name__ == "__main__":
    sys.exit(main())

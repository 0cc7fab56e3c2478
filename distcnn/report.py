"""Draw runs: ``python -m distcnn.report RUN_DIR [RUN_DIR ...]`` writes a PNG of training loss, test
accuracy and speed over the steps.

``python -m distcnn.report --trace FILE.json`` draws two steps of a trace.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn import plotting
from distcnn.cli.parser import Parser
from distcnn.errors import InputError
from distcnn.profiling.plot import draw_trace
from distcnn.system.console import guarded, say, tell
from distcnn.system.files import read_bytes
from distcnn.system.wording import counted, printable
from distcnn.training.comparison import SPEED
from distcnn.training.results import METRICS, RESULT, read_result

Curve = list[tuple[int, float]]
"""(step, value) pairs."""


@dataclass(frozen=True)
class History:
    """The metrics that a run recorded."""

    loss: Curve
    test_accuracy: Curve
    images_per_second: Curve


@guarded()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
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
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN_DIR", help="run directories of distcnn.train"
    )
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE.json",
        help="draw two steps of this trace instead (docs/trace.md)",
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="the first of the two (default: in the middle)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.png",
        help="picture to write (default: report.png in the first RUN_DIR, trace.png next to FILE)",
    )
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
    """Read a run's ``metrics.jsonl``.

    Raises:
        InputError: the file is missing or damaged.
    """
    history = History([], [], [])
    try:
        for text in read_bytes(run / METRICS).decode().splitlines():
            line = json.loads(text)
            wanted = {"step": ("loss", SPEED), "epoch": ()}[line["kind"]]
            numbers = ("step", *wanted, *({"test_accuracy"} & line.keys()))
            if not all(isinstance(line[name], int | float) for name in numbers):
                raise ValueError(f"{text} is not a line of metrics")
            for name, curve in (
                ("loss", history.loss),
                ("test_accuracy", history.test_accuracy),
                (SPEED, history.images_per_second),
            ):
                if name in numbers:
                    curve.append((line["step"], line[name]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{run} has no readable {METRICS} ({error}): name a run directory of distcnn.train"
        ) from error
    return history


def summary(run: Path) -> str:
    """Return a line on how the run ended.

    Raises:
        InputError: its result cannot be read.
    """
    if not (run / RESULT).exists():
        return f"{run}: not finished"
    try:
        result = read_result(run)
        return (
            f"{run}: {result.model}, {counted(result.world_size, 'rank')},"
            f" {counted(result.steps, 'step')}, test accuracy {result.test_accuracy:.4f},"
            f" {result.images_per_second:,.0f} images/s, weights {result.params_sha256[:16]}"
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{run / RESULT} cannot be read ({error}): it is damaged; --resume {run} writes it"
            " again"
        ) from error


def labels(runs: Sequence[Path]) -> list[str]:
    """Return a label for each run: its folder's name; where another run has the same name, its
    path below the folder that all runs have in common.
    """
    paths = [run.resolve() for run in runs]
    common = os.path.commonpath([path.parent for path in paths])
    names = [path.name for path in paths]
    return [
        printable(path.name if names.count(path.name) == 1 else str(path.relative_to(common)))
        for path in paths
    ]


def draw(runs: Sequence[tuple[str, History]], output: Path) -> None:
    """Write the picture: panels for training loss, test accuracy and speed, a line for each run.

    Args:
        runs: labels and histories.
        output: the picture.

    Raises:
        InputError: matplotlib is not installed, or ``output`` cannot be written.
    """
    figure = plotting.new_figure(12, 3.6)
    loss, accuracy, speed = plotting.panels(figure, 3)
    for name, history in runs:
        label = plotting.literal(name)
        loss.semilogy(*_columns(history.loss), marker=".", markersize=3, label=label)
        accuracy.plot(*_columns(history.test_accuracy), marker="o", label=label)
        speed.plot(*_columns(history.images_per_second), marker=".", markersize=3, label=label)
    for axes, title in (
        (loss, "training loss"),
        (accuracy, "test accuracy"),
        (speed, "images per second, all ranks"),
    ):
        plotting.tidy(axes, title, grid="both")
        axes.set_xlabel("step")
    speed.set_ylim(bottom=0)
    loss.legend(frameon=False, fontsize=plotting.SMALL)
    plotting.save(figure, output)


def _columns(curve: Curve) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]


if __name__ == "__main__":
    sys.exit(main())

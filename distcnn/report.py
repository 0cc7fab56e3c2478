"""Draw runs: ``python -m distcnn.report RUN_DIR [RUN_DIR ...]`` writes a PNG of loss, accuracy and
speed over the steps.

``python -m distcnn.report --trace FILE.json`` draws two steps of a trace.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distcnn.cli.parser import Parser
from distcnn.errors import InputError
from distcnn.profiling.plot import draw_trace
from distcnn.system.console import guarded, say, tell
from distcnn.system.files import read_bytes
from distcnn.system.wording import counted, printable
from distcnn.training.comparison import SPEED
from distcnn.training.results import METRICS, RESULT, read_result

Metrics = list[dict[str, Any]]


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
        help="picture to write (default: report.png in the first RUN_DIR, trace.png beside FILE)",
    )
    return parser


def report(args: argparse.Namespace) -> list[str]:
    """Draw what is asked for; lines on what there is now. ``InputError`` names what is wrong."""
    if bool(args.runs) == bool(args.trace):
        raise InputError(
            "name run directories, or a trace with --trace FILE.json (see python -m distcnn.report"
            " --help)"
        )
    output = args.output or (
        args.trace.with_name("trace.png") if args.trace else args.runs[0] / "report.png"
    )
    if not args.output and output.is_symlink():
        raise InputError(
            f"{output} is a symbolic link, which may lead to another file: name the picture with"
            " --output"
        )
    if args.trace:
        draw_trace(args.trace, args.step, output)
        return [f"picture in {output}"]
    lines = [summary(run) for run in args.runs]
    draw({_label(run): read_metrics(run) for run in args.runs}, output)
    return [*lines, f"picture in {output}"]


def read_metrics(run: Path) -> Metrics:
    """The lines of a run's ``metrics.jsonl``. ``InputError`` when it has none."""
    try:
        lines = [json.loads(line) for line in read_bytes(run / METRICS).decode().splitlines()]
        kinds = {"step": ("loss", SPEED), "epoch": ()}
        for line in lines:
            if not all(
                isinstance(line[name], int | float) for name in ("step", *kinds[line["kind"]])
            ):
                raise ValueError(f"{line} is not a line of metrics")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{run} holds no {METRICS} that can be read ({error}): name a run directory of"
            " distcnn.train"
        ) from error
    return lines


def summary(run: Path) -> str:
    """A line on how the run ended. ``InputError`` when its result cannot be read."""
    if not (run / RESULT).exists():
        return f"{run}: not finished"
    try:
        result = read_result(run)
        return (
            f"{run}: {result['model']}, {counted(result['world_size'], 'rank')},"
            f" {counted(result['steps'], 'step')}, test accuracy {result['test_accuracy']:.4f},"
            f" {result[SPEED]:,.0f} images/s, weights {result['params_sha256'][:16]}"
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{run / RESULT} cannot be read ({error}): it is damaged; --resume {run} writes it"
            " again"
        ) from error


def _label(run: Path) -> str:
    """The run's name as matplotlib shows it as it is: a dollar sign would begin a formula."""
    return printable(run.name).replace("$", "\\$")


def draw(runs: dict[str, Metrics], output: Path) -> None:
    """Write the picture: one panel each for training loss, test accuracy and images a second, one
    line for each run.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("drawing needs matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    loss, accuracy, speed = figure.subplots(1, 3)
    for name, metrics in runs.items():
        steps = [each for each in metrics if each["kind"] == "step"]
        tests = [each for each in metrics if "test_accuracy" in each]
        loss.semilogy(
            [each["step"] for each in steps], [each["loss"] for each in steps], label=name
        )
        accuracy.plot(
            [each["step"] for each in tests],
            [each["test_accuracy"] for each in tests],
            marker="o",
            label=name,
        )
        speed.plot(
            [each["step"] for each in steps],
            [each["images_per_second"] for each in steps],
            label=name,
        )
    for axes, title in (
        (loss, "training loss"),
        (accuracy, "test accuracy"),
        (speed, "images a second, all ranks"),
    ):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
    speed.set_ylim(bottom=0)
    loss.legend(frameon=False)
    try:
        figure.savefig(output, dpi=120)
    except OSError as error:
        raise InputError(
            f"{output} cannot be written ({error.strerror}): name another file with --output"
        ) from error


if __name__ == "__main__":
    sys.exit(main())

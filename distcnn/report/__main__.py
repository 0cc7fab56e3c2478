"""Report on runs: ``python -m distcnn.report RUN_DIR [RUN_DIR ...]``, or draw a trace."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn import plotting
from distcnn.cli.parser import Parser
from distcnn.errors import InputError
from distcnn.plotting import PICTURES
from distcnn.profiling.plot import draw_trace
from distcnn.report.curves import draw
from distcnn.report.records import RunRecords, labels, read_run, summary
from distcnn.system.console import guarded, say, tell
from distcnn.system.files import explaining, write_atomically
from distcnn.system.wording import printable
from distcnn.user_code import TRUST_FLAG, TRUST_HELP

PAGES = (".html", ".htm")


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
        description=(
            "Write a web page on one or more runs, in a single file that works offline: results,"
            " curves, mistakes, a look inside the network, and the proof of the run."
        ),
    )
    runs = "run directories of distcnn.train, finished or not; several are compared"
    output = (
        "page to write (default: report.html in the first RUN_DIR); .png, .svg or .pdf: only the"
        " curves, as a picture"
    )
    data = "image set to test on, if it is not where the run found it"
    trace = "draw two steps of this trace instead (docs/trace.md; default: trace.png next to it)"
    step = "the first of the two steps (default: in the middle)"
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN_DIR", help=runs)
    parser.add_argument("--output", type=Path, metavar="FILE.html", help=output)
    parser.add_argument("--data", metavar="FILE", help=data)
    parser.add_argument(TRUST_FLAG, action="store_true", help=TRUST_HELP)
    parser.add_argument("--trace", type=Path, metavar="FILE.json", help=trace)
    parser.add_argument("--step", type=int, metavar="N", help=step)
    return parser


def report(args: argparse.Namespace) -> list[str]:
    """Write what ``args`` ask for; return lines on what was written."""
    if bool(args.runs) == bool(args.trace):
        raise InputError(
            "name run directories, or a trace with --trace FILE.json (see python -m distcnn.report"
            " --help)"
        )
    output = args.output or (
        args.trace.with_name("trace.png") if args.trace else args.runs[0] / "report.html"
    )
    if not args.output and os.path.islink(output):  # noqa: PTH114
        raise InputError(f"{output} is a symbolic link: name the file to write with --output")
    if args.trace:
        draw_trace(args.trace, args.step, output)
        return [f"picture in {output}"]
    if output.suffix.lower() not in (*PAGES, *PICTURES):
        raise InputError(
            f"--output: {output} must end in .html for a page, or in {', '.join(PICTURES)} for a"
            " picture of the curves"
        )
    plotting.require_matplotlib()
    paths = list({path.resolve(): path for path in args.runs}.values())
    runs = [read_run(path, label) for path, label in zip(paths, labels(paths), strict=True)]
    lines = [summary(run) for run in runs]
    if output.suffix.lower() in PICTURES:
        draw(runs, output)
        return [*lines, f"picture in {output}"]
    return [*lines, *write_page(runs, output, args.data, args.trust_model)]


def write_page(
    runs: Sequence[RunRecords], output: Path, data: str | None, trusted: bool
) -> list[str]:
    """Write the page on ``runs``; lines on what it lacks, where it is, and how to open it."""
    from distcnn.report.inspection import Inspection, inspect  # a picture of curves needs neither
    from distcnn.report.page import render, require_jinja2

    require_jinja2()
    found: dict[str, Inspection] = {}
    for run in runs:
        found[run.label] = inspect(run, data, trusted, found)
    untested = [each.missing["test"] for each in found.values() if "test" in each.missing]
    if data and len(untested) == len(runs):
        raise InputError(f"--data {data}: {untested[0]}")
    content = render(runs, found).encode()
    with explaining(f"{output} cannot be written", "name another file with --output"):
        write_atomically(output, content)
    lacks = [
        f"notice: {run.label}: left out: {reason}"
        for run in runs
        for reason in (*run.problems, *found[run.label].missing.values())
    ]
    size = len(content) / 1e6
    return [
        *lacks,
        f"report in {output} ({size:.1f} MB): open it in a browser, {output.resolve().as_uri()}",
    ]


if __name__ == "__main__":
    sys.exit(main())

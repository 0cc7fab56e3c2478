"""Strong and weak scaling: ``python -m distcnn.scaling --ranks 1,2,4``, alone, not under mpirun.

``docs/scaling.md`` says more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn.cli.command import EXIT_INPUT, EXIT_OK, EXIT_STOPPED
from distcnn.errors import InputError
from distcnn.fault_tolerance.early import end_before_start
from distcnn.scaling.footnotes import remarks
from distcnn.scaling.loop import measure_all
from distcnn.scaling.options import OUTPUT, Request, make_parser, parse
from distcnn.scaling.outputs import write_outputs
from distcnn.scaling.prediction.interconnect import parse_network
from distcnn.scaling.prediction.options import Wanted, add_flags, take_flags
from distcnn.scaling.prediction.outputs import predict_all
from distcnn.scaling.preflight import require_all
from distcnn.scaling.stop_requests import StopRequests
from distcnn.scaling.summary import summarise
from distcnn.scaling.sweep_directory import Records, opened
from distcnn.scaling.table import headline, table
from distcnn.system import launcher
from distcnn.system.console import guarded, say, tell
from distcnn.system.wording import printable, shell_command

NAME = "distcnn.scaling"
EXIT_NOT_ALL_GOOD = 1
"""A measurement failed, or bits differ."""


@guarded()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 all is good, 1 not all is, 2 bad input, 85 stopped by a
    signal.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if launcher.needs_mpi(os.environ):
        end_before_start(
            f"{NAME}: error: a launcher started several of this, but a sweep is one process, which"
            " starts the ranks of its points itself: start it without mpirun or srun, and say how"
            " ranks are started with --launcher 'mpirun -n {ranks}'",
            others_wait=False,
        )
        return EXIT_INPUT
    if {"-h", "--help"} & set(arguments):
        parser = make_parser()
        add_flags(parser)
        parser.print_help()
        return EXIT_OK
    try:
        wanted, of_sweep = take_flags(arguments)
        for each in wanted.networks if wanted else ():
            parse_network(each)  # rather now than when all was measured
        request = parse(of_sweep)
        require_all(request.settings, say)
        with StopRequests() as stop, opened(request) as records:
            return sweep(request, arguments, records, stop, wanted)
    except InputError as error:
        tell(f"{NAME}: error: {printable(str(error))}")
        return EXIT_INPUT


def sweep(
    request: Request,
    arguments: Sequence[str],
    records: Records,
    stop: StopRequests,
    wanted: Wanted | None = None,
) -> int:
    """Measure, sum up, print, predict what is ``wanted``; the exit code."""
    points = request.settings.points
    say(*headline(request, records.path))
    found = measure_all(records, request.timeout, stop, say)
    if found is None:
        again = [
            "python",
            "-m",
            NAME,
            *arguments,
            *([] if request.output else [f"{OUTPUT}={records.path}"]),
        ]
        what = stop.received.name if stop.received else "stopped"
        tell(
            f"{NAME}: stopped: {what}: all processes are ended, finished measurements are kept; to"
            f" go on: {shell_command(again)}"
        )
        return EXIT_STOPPED
    summary = summarise(points, found)
    below = remarks(points, found, summary)
    say("", *table(summary, below, records.path).split("\n"), "")
    say(*write_outputs(records, found, summary, below))
    if wanted is not None:
        say("", *predict_all(records, found, summary, wanted).split("\n"))
    return EXIT_OK if summary.all_good else EXIT_NOT_ALL_GOOD


if __name__ == "__main__":
    sys.exit(main())

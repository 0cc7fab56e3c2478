"""Strong and weak scaling: ``python -m distcnn.scaling --ranks 1,2,4``, not under mpirun.

``docs/scaling.md`` says more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn.cli.command import EXIT_INPUT, EXIT_OK, EXIT_STOPPED
from distcnn.config import Config
from distcnn.datasets import read_info
from distcnn.datasets.default import DEFAULT_PATH, ensure_mnist
from distcnn.errors import InputError, Stopped
from distcnn.fault_tolerance.early import end_before_start
from distcnn.models import build_model
from distcnn.scaling.launch_job import measure, stopped_by_signals
from distcnn.scaling.options import Request, Settings, make_parser, parse, require_launcher
from distcnn.scaling.output import (
    headline,
    outcome,
    table,
    title_of,
    write_prediction,
    write_results,
)
from distcnn.scaling.points import in_order
from distcnn.scaling.summary import summarise
from distcnn.scaling.sweep_directory import Record, Sweep, opened
from distcnn.system import launcher
from distcnn.system.console import guarded, say, tell
from distcnn.system.wording import counted, printable, shell_command

NAME = "distcnn.scaling"
EXIT_NOT_GOOD = 1
"""A measurement failed, or bits differ."""


@guarded()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 all is good, 1 a measurement failed or bits differ,
    2 bad input, 85 stopped by a signal.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if launcher.needs_mpi(os.environ):
        end_before_start(
            f"{NAME}: error: do not start distcnn.scaling under mpirun; it starts the ranks itself"
            " (--launcher 'mpirun -n {ranks}')",
            others_wait=False,
        )
        return EXIT_INPUT
    if {"-h", "--help"} & set(arguments):
        make_parser().print_help()
        return EXIT_OK
    try:
        request = parse(arguments)
        require_all(request.settings)
        with opened(request) as sweep:
            return run(request, arguments, sweep)
    except InputError as error:
        tell(f"{NAME}: error: {printable(str(error))}")
        return EXIT_INPUT


def require_all(settings: Settings) -> None:
    """Raise ``InputError`` if every point would fail: no launcher, no image set, a model that does
    not match it. Prepares the default image set if it is missing.
    """
    require_launcher(settings.launcher)
    config = Config(**settings.flags)
    source = config.source or None
    if source or Path(config.data) == Path(DEFAULT_PATH):
        ensure_mnist(config.data, source, say)
    dataset = read_info(config.data)
    build_model(config.model, dataset.image_shape, dataset.classes, 1)


def run(request: Request, arguments: Sequence[str], sweep: Sweep) -> int:
    """Measure, summarise, print and predict; return the exit code."""
    say(*headline(request.settings), f"records   {sweep.path}")
    try:
        with stopped_by_signals():
            records = measure_all(sweep, request.timeout)
    except Stopped as stop:
        output = [] if request.output else [f"--output={sweep.path}"]
        again = shell_command(["python", "-m", NAME, *arguments, *output])
        tell(f"{NAME}: stopped by {stop}; finished measurements are kept; continue with: {again}")
        return EXIT_STOPPED
    summary = summarise(sweep.settings.points, records)
    say("", *table(summary, sweep), "", *write_results(sweep, records, summary))
    if request.predict:
        say("", *write_prediction(sweep, records, summary, request))
    return EXIT_OK if summary.is_good else EXIT_NOT_GOOD


def measure_all(sweep: Sweep, timeout: float) -> list[Record]:
    """Measure everything that has no result yet, in order; failed measurements are repeated. Return
    the records of all measurements.
    """
    wanted = list(in_order(sweep.settings.points, sweep.settings.repeats))
    done = {one: record for one in wanted if (record := sweep.find(one)) and record.result}
    if done:
        say(f"continue  {len(done)} of {counted(len(wanted), 'measurement')} already done")
    for number, job in enumerate(wanted, start=1):
        if job not in done:
            record = measure(job, sweep, timeout)
            sweep.add(record)
            done[job] = record
            say(f"[{number}/{len(wanted)}] {title_of(job)}: {outcome(record)}")
    return [done[job] for job in wanted]


if __name__ == "__main__":
    sys.exit(main())

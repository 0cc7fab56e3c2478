"""Strong and weak scaling: ``python -m distcnn.scaling --ranks 1,2,4`` (``docs/scaling.md``)."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn.cli.command import EXIT_INPUT, EXIT_OK, EXIT_STOPPED
from distcnn.config import Config
from distcnn.distributed import Communicator
from distcnn.errors import InputError, Stopped
from distcnn.fault_tolerance.early import end_before_start
from distcnn.models import build_model
from distcnn.scaling import output
from distcnn.scaling.launch_job import measure, stopped_by_signals
from distcnn.scaling.options import RANKS, Settings, launcher_command, make_parser, parse
from distcnn.scaling.points import in_order
from distcnn.scaling.prediction import calibrate, project
from distcnn.scaling.records import Record, Sweep, opened
from distcnn.scaling.summary import summarise
from distcnn.system import launcher
from distcnn.system.console import guarded, say, tell
from distcnn.system.wording import counted, printable, shell_command
from distcnn.training.data import open_file

NAME = "distcnn.scaling"
EXIT_NOT_GOOD = 1  # a measurement failed, or bits differ


@guarded()
def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if launcher.needs_mpi(os.environ):
        end_before_start(
            f"{NAME}: error: do not start distcnn.scaling under mpirun; it starts the ranks itself"
            f" (--launcher 'mpirun -n {RANKS}')",
            others_wait=False,
        )
        return EXIT_INPUT
    if {"-h", "--help"} & set(arguments):
        make_parser().print_help()
        return EXIT_OK
    try:
        args = parse(arguments)
        require_all(args.settings)
        with opened(args.output, args.settings) as sweep:
            return run(args, arguments, sweep)
    except InputError as error:
        tell(f"{NAME}: error: {printable(str(error))}")
        return EXIT_INPUT


def require_all(settings: Settings) -> None:
    """Raise ``InputError`` if every point would fail: no launcher, no image set, a model that does
    not match it. Prepares the default image set if it is missing.
    """
    program = launcher_command(settings.launcher, 1)[0]
    if shutil.which(program) is None:
        raise InputError(
            f"--launcher: program {program!r} not found: load the MPI module or activate the"
            f" environment that has it, or name another launcher, such as 'mpirun -n {RANKS}'"
        )
    config = Config(**settings.flags)
    dataset = open_file(config, Communicator(), say).read_info()
    build_model(config.model, dataset.image_shape, dataset.classes, 1)


def run(args: argparse.Namespace, arguments: Sequence[str], sweep: Sweep) -> int:
    say(*output.headline(sweep.settings), f"records   {sweep.path}")
    try:
        with stopped_by_signals():
            records = measure_all(sweep, args.timeout)
    except Stopped as stop:
        where = [] if args.output else [f"--output={sweep.path}"]
        again = shell_command(["python", "-m", NAME, *arguments, *where])
        tell(f"{NAME}: stopped by {stop}; finished measurements are kept; continue with: {again}")
        return EXIT_STOPPED
    summary = summarise(sweep.settings.points, records)
    say("", *output.table(summary, sweep), "", *output.write_results(sweep, records, summary))
    if args.predict:
        calibration = calibrate([record.result for record in records if record.result])
        asked = (args.predict, args.ranks_per_host, args.interconnect)
        projection = project(calibration, summary.rows, *asked)
        say("", *output.prediction_table(projection), "")
        say(*output.write_prediction(sweep, projection, summary))
    return EXIT_OK if summary.is_good else EXIT_NOT_GOOD


def measure_all(sweep: Sweep, timeout: float) -> list[Record]:
    """Measure everything that has no result yet, in order; return the records of everything."""
    wanted = list(in_order(sweep.settings.points, sweep.settings.repeats))
    done = {one: record for one in wanted if (record := sweep.find(one)) and record.result}
    if done:
        say(f"continue  {len(done)} of {counted(len(wanted), 'measurement')} already done")
    for number, job in enumerate(wanted, start=1):
        if job not in done:
            record = done[job] = measure(job, sweep, timeout)
            sweep.add(record)
            title = output.title_of(job)
            say(f"[{number}/{len(wanted)}] {title}: {output.outcome(record)}")
    return [done[job] for job in wanted]


if __name__ == "__main__":
    sys.exit(main())

"""Check the installation: ``python -m distcnn.doctor``.

Run it alone, or under the launcher that will start the training. Checks that one process can make
come first, because MPI may never start with a wrong launcher or library. Then all ranks check the
rest together, and rank 0 prints findings as they arrive.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn.cli.parser import Parser
from distcnn.doctor import local_checks
from distcnn.doctor.check import Finding, Options, Report
from distcnn.doctor.time_limits import limit_process, watched_start
from distcnn.errors import InputError
from distcnn.fault_tolerance.early import end_before_start, start_report
from distcnn.system import launcher
from distcnn.system.console import enable_crash_reports, guarded
from distcnn.system.wording import printable

NAME = "distcnn.doctor"
EXIT_INPUT = 2
AUTO = "auto"
SECONDS_FOR_RANK_0 = 1.0
"""If no rank found a world, rank 0 reports first: most launchers then end the others."""
START_REMEDY = (
    "see standard error and the lines above on memory, /dev/shm and limits; does a plain MPI"
    " program start (mpirun -n 2 python -m mpi4py.bench helloworld)?"
)


@guarded()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0; 1 if something is bad; 2 for wrong flags.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    rank = launcher.declared_rank(os.environ)
    if {"-h", "--help"} & set(arguments):
        if rank == 0:
            make_parser().print_help()
        return 0
    try:
        options = Options(**vars(make_parser().parse_args(arguments)))
    except InputError as error:
        end_before_start(f"{NAME}: error: {printable(str(error))}", others_wait=False)
        return EXIT_INPUT
    enable_crash_reports()
    limit_process()
    facts = local_checks.collect(options)
    before = Report(findings=local_checks.evaluate(local_checks.places_before_mpi(), {rank: facts}))
    if not local_checks.can_continue(facts):
        return end_without_mpi(before, options)
    return start_and_examine(before, facts, options)


def start_and_examine(before: Report, facts: local_checks.Facts, options: Options) -> int:
    """Start MPI, if a launcher started several processes, and make the collective checks."""
    from distcnn.distributed import open_communicator
    from distcnn.doctor.collective_checks import examine

    other_report = start_report()

    def report_start(reason: str) -> None:
        if not (other_report and other_report.exists()):
            before.add(Finding.bad("doctor", f"MPI did not start: {reason}", START_REMEDY))
            print(before.text(), flush=True)

    try:
        if launcher.needs_mpi(os.environ) and launcher.declared_rank(os.environ) == 0:
            with watched_start(report_start):
                communicator = open_communicator()
        else:
            communicator = open_communicator()
    except InputError as error:
        text = str(error).removesuffix(f": {launcher.REMEDY}")
        before.add(Finding.bad("launcher", text, launcher.REMEDY))
        if launcher.declared_rank(os.environ):
            time.sleep(SECONDS_FOR_RANK_0)
        return end_without_mpi(before, options)
    limit_process()  # starting MPI has cancelled the timer
    return examine(communicator, facts, options)


def end_without_mpi(report: Report, options: Options) -> int:
    """Print the report of the local checks, from one process of this host.

    Returns:
        The exit code, unless this process is ended by a signal to release ranks in MPI_Init.
    """
    report.add(local_checks.NOT_CHECKED)

    def speak(text: str) -> None:
        print(text, flush=True)
        if options.json:
            report.write(options.json)

    end_before_start(report.text(), tell=speak)
    return max(1, report.exit_code)


def make_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = Parser(
        prog="python -m distcnn.doctor",
        description=(
            "Check the installation, the machine and the ranks, alone or under the launcher that"
            " will start the training, as in mpirun -n 4. Each line is good, warning or bad, with"
            " the remedy. Takes at most 20 seconds. The exit code is 1 if something is bad."
        ),
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--data", metavar="FILE.h5", help="image set for the training (default: data/mnist.h5)"
    )
    parser.add_argument("--output", metavar="DIR", help="folder for results (default: runs)")
    parser.add_argument("--json", metavar="FILE", help="write findings and measurements as JSON")
    parser.add_argument(
        "--threads-per-rank",
        dest="threads",
        type=_threads,
        metavar="N|auto",
        help="BLAS threads of each rank (default: 1)",
    )
    return parser


def _threads(text: str) -> int:
    if text == AUTO:
        return 0
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number, at least 1, or auto")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

"""Check the installation: ``python -m distcnn.doctor``.

Run it alone, or under the launcher that will start the training. Checks that one process can make
come first, because MPI may never start with a wrong launcher or library. Then all ranks check the
rest together, and rank 0 prints findings as they arrive.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn.cli.parser import Parser
from distcnn.doctor.findings import BAD, WARNING, Finding, Ranks, Report, Same, attempt
from distcnn.doctor.mpi_library import OPEN_MPI, mpi
from distcnn.doctor.resources import resources
from distcnn.doctor.software import software
from distcnn.doctor.time_limits import limit_process, watched_start
from distcnn.errors import InputError
from distcnn.fault_tolerance.early import end_before_start, start_report
from distcnn.system import launcher
from distcnn.system.console import enable_crash_reports, guarded
from distcnn.system.wording import printable

NAME = "distcnn.doctor"
EXIT_INPUT = 2
SECONDS_FOR_RANK_0 = 1.0
"""If no rank found a world, rank 0 reports first: most launchers then end the others."""
START_REMEDY = (
    "see standard error and the lines above on memory, /dev/shm and limits; does a plain MPI"
    " program start (mpirun -n 2 python -m mpi4py.bench helloworld)?"
)


@guarded()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: 0; 1 if something is bad; 2 for wrong flags."""
    arguments = sys.argv[1:] if arguments is None else arguments
    rank = launcher.declared_rank(os.environ)
    if {"-h", "--help"} & set(arguments):
        if rank == 0:
            make_parser().print_help()
        return 0
    try:
        options = make_parser().parse_args(arguments)
    except InputError as error:
        end_before_start(f"{NAME}: error: {printable(str(error))}", others_wait=False)
        return EXIT_INPUT
    enable_crash_reports()
    limit_process()
    # The load comes before libraries are loaded, and mpi4py before an h5py built for MPI.
    by_check = [list(attempt(check)) for check in (resources, mpi, software)]
    local = [finding for found in reversed(by_check) for finding in found]
    known = Ranks({rank: socket.gethostname()}, launcher.declared_size(os.environ))
    found = known.merge({rank: local})
    if can_continue(found):
        return start_and_examine(found, local, options, arguments)
    return end_without_mpi(found, options)


def can_continue(found: list[Finding]) -> bool:
    """Whether this process has NumPy and, if it needs MPI, can start it."""
    needed = {"numpy", "threadpoolctl"}
    if launcher.needs_mpi(os.environ):
        needed.add("mpi")
        if not any(OPEN_MPI in finding.text for finding in found if finding.name == "mpi"):
            needed |= {"shared", "limits"}  # without them MPICH crashes
    return not any(finding.state == BAD and finding.name in needed for finding in found)


def start_and_examine(
    found: list[Finding],
    local: list[Finding | Same],
    options: argparse.Namespace,
    arguments: Sequence[str],
) -> int:
    """Start MPI, if a launcher started several processes, and make the collective checks."""
    from distcnn.distributed import open_communicator
    from distcnn.doctor.collective_checks import examine

    rank, other_report = launcher.declared_rank(os.environ), start_report()

    def report_start(reason: str) -> None:
        if not (other_report and other_report.exists()):
            found.append(Finding(BAD, "doctor", f"MPI did not start: {reason}", START_REMEDY))
            print_report(found, options)

    is_watched = launcher.needs_mpi(os.environ) and rank == 0
    try:
        with watched_start(report_start) if is_watched else nullcontext():
            communicator = open_communicator()
    except InputError as error:
        text = str(error).removesuffix(f": {launcher.REMEDY}")
        found.append(Finding(BAD, "launcher", text, launcher.REMEDY))
        if rank:
            time.sleep(SECONDS_FOR_RANK_0)
        return end_without_mpi(found, options)
    limit_process()  # starting MPI has cancelled the timer
    return examine(communicator, local, options, arguments)


def end_without_mpi(found: list[Finding], options: argparse.Namespace) -> int:
    """Print what the local checks found, from one process of this host.

    Returns 1, unless this process is ended by a signal to release ranks in MPI_Init.
    """
    text = "not checked: clock, output, data, sums, ranks, cores, network"
    found.append(Finding(WARNING, "doctor", text, "fix the problems above first"))
    end_before_start("", tell=lambda _: print_report(found, options))
    return 1


def print_report(found: list[Finding], options: argparse.Namespace) -> None:
    report = Report()
    report.add(*found)
    report.end(options.json)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m distcnn.doctor",
        description=(
            "Check the installation, the machine and the ranks, alone or under the launcher that"
            " will start the training, as in mpirun -n 4. Each line is good, warning or bad, with"
            " the remedy. Takes at most 20 seconds. The exit code is 1 if something is bad."
        ),
        argument_default="",
    )
    parser.add_argument(
        "--data", metavar="FILE.h5", help="image set for the training (default: data/mnist.h5)"
    )
    parser.add_argument(
        "--output", metavar="DIR", default="runs", help="folder for results (default: runs)"
    )
    parser.add_argument(
        "--arithmetic",
        choices=("native", "portable"),
        default="native",
        help="that of the training: portable runs may use hosts of several kinds (default: native)",
    )
    parser.add_argument("--json", metavar="FILE", help="write findings and measurements as JSON")
    parser.add_argument(
        "--threads-per-rank",
        dest="threads",
        type=_threads,
        default=1,
        metavar="N|auto",
        help="BLAS threads of each rank (default: 1)",
    )
    return parser


def _threads(text: str) -> int:
    """0 for auto: one for each core that the rank may use."""
    if text == "auto":
        return 0
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number, at least 1, or auto")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

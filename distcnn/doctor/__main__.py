"""Is this machine well?

``python -m distcnn.doctor``, alone or under the launcher that will start training.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn.doctor import local_checks
from distcnn.doctor.finding import exit_code
from distcnn.doctor.options import Options, make_parser, parse
from distcnn.doctor.rendezvous import missing_processes, told_by_host
from distcnn.doctor.report import Report, wants_colours
from distcnn.doctor.supervisor import Guardian
from distcnn.errors import InputError
from distcnn.fault_tolerance.early import end_before_start, note_arrival
from distcnn.system import launcher
from distcnn.system.console import enable_crash_reports, guarded
from distcnn.system.wording import printable

NAME = "distcnn.doctor"
EXIT_INPUT = 2
SECONDS = 17.0
"""After these the report so far is printed, and all ends."""


@guarded()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, 1 when something is bad, 2 for flags that make no
    sense.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    rank = launcher.declared_rank(os.environ)
    if {"-h", "--help"} & set(arguments):
        if rank == 0:
            make_parser().print_help()
        return 0
    try:
        options = parse(arguments)
    except InputError as error:
        end_before_start(f"{NAME}: error: {printable(str(error))}", others_wait=False)
        return EXIT_INPUT
    note_arrival()
    enable_crash_reports()
    with Guardian(rank == 0, SECONDS, lambda report: say(report, options)) as guardian:
        verdict = examine(rank, options, guardian)
        if verdict.report:
            say(verdict.report, options)
    verdict.leave()
    return max(verdict.code, exit_code(verdict.report.findings)) if verdict.report else verdict.code


def examine(rank: int, options: Options, guardian: Guardian) -> local_checks.Verdict:
    """Look alone, hear what the host's other processes saw, start MPI where all of them can, look
    together.
    """
    several = launcher.needs_mpi(os.environ)
    mine = local_checks.look_alone(options)
    here = told_by_host(rank, mine) if several else {rank: mine}
    report = Report(
        [
            *local_checks.judge_alone(
                local_checks.places_of(here, local_checks.declared_size()), here
            ),
            *missing_processes(here, several),
        ]
    )
    guardian.note("starting MPI" if several else "looking", report)
    if not local_checks.can_start(here):
        return local_checks.without_world(rank, here, report)
    from distcnn.doctor.collective_checks import examine_together  # it needs NumPy

    return examine_together(mine, report, options, guardian)


def say(report: Report, options: Options) -> None:
    """Write the file, if one is asked for, and print."""
    if options.json:
        report.write(options.json)
    print(
        report.text(wants_colours(sys.stdout.isatty(), os.environ)), flush=True
    )  # its colours are escape sequences


if __name__ == "__main__":
    sys.exit(main())

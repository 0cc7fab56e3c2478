"""The checks that all ranks make together. Imported only where NumPy works."""

from __future__ import annotations

import threading
from typing import Any, NoReturn

from distcnn.distributed import Communicator
from distcnn.doctor import image_set, local_checks, output_folder, sums, world
from distcnn.doctor.check import Check, Finding, Options, Places, Report
from distcnn.fault_tolerance.failure import report_failure
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.spans import MEASURE, Span

NAME = "distcnn.doctor"
STALL_SECONDS = 7.0
"""No check keeps a rank this long (see ``bounded``): one that takes longer is stuck."""
CHECKS: tuple[Check[Any], ...] = (world.CHECK, output_folder.CHECK, image_set.CHECK, sums.CHECK)
UNFINISHED = Finding.bad(
    "doctor",
    "some checks did not finish: a rank failed or is stuck",
    "see standard error for the rank",
)


def examine(communicator: Communicator, local: local_checks.Facts, options: Options) -> int:
    """Evaluate the local checks of all ranks, make the collective ones, and report on rank 0.

    Args:
        communicator: of all ranks.
        local: what this rank collected before MPI started.
        options: the flags.

    Returns:
        The exit code, the same on all ranks.
    """
    report = Report(live=communicator.rank == 0)

    def end_all() -> NoReturn:
        if communicator.rank == 0:
            report.add(UNFINISHED)
            print(report.summary(), flush=True)
        communicator.abort(1)

    def fail(error: BaseException) -> NoReturn:
        report_failure(NAME, communicator, error)
        end_all()

    threading.excepthook = lambda args: fail(args.exc_value or args.exc_type())
    try:
        with Watchdog(NAME, communicator, STALL_SECONDS, end_all):
            _check_all(communicator, local, options, report)
            if communicator.rank == 0:
                if options.json:
                    report.write(options.json)
                print(report.summary(), flush=True)
            return communicator.broadcast(report.exit_code)
    except BaseException as error:
        fail(error)
    finally:
        threading.excepthook = threading.__excepthook__


def _check_all(
    communicator: Communicator, local: local_checks.Facts, options: Options, report: Report
) -> None:
    """Add the findings to ``report`` on rank 0, check by check."""
    is_root = communicator.rank == 0
    places = Places(dict(enumerate(communicator.hosts)))
    everyone = dict(enumerate(communicator.allgather(local)))
    if is_root:
        report.add(*local_checks.evaluate(places, everyone))
    for check in CHECKS:
        with Span(MEASURE):
            facts = dict(enumerate(communicator.allgather(check.collected(communicator, options))))
        if is_root:
            report.add(*check.evaluated(places, facts))

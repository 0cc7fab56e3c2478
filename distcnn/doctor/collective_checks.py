"""The checks that all ranks make together. Imported only where NumPy works."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import NoReturn

from distcnn.distributed import Communicator
from distcnn.doctor import files, sums, world
from distcnn.doctor.findings import BAD, Finding, Ranks, Report, Same, attempt
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.fault_tolerance.watched_communicator import WatchedCommunicator
from distcnn.spans import MEASURE, Span

NAME = "distcnn.doctor"
STALL_SECONDS = 7.0
"""No check keeps a rank this long (see ``bounded``): one that takes longer is stuck."""
OF_EACH_RANK = (world.clock, files.output, files.data, sums.exact_sum, sums.products)
"""Rank 0 merges what all ranks find."""
OF_ALL_RANKS = (world.ranks, world.hosts, world.cores, sums.network, sums.speed)


class ReportingCommunicator(WatchedCommunicator):
    """Ends all ranks with exit code 1, once rank 0 has completed its report."""

    def __init__(self, inner: Communicator) -> None:
        super().__init__(inner)
        self.report = Report(silent=inner.rank > 0)

    def abort(self, exit_code: int) -> NoReturn:
        text = "some checks did not finish: a rank failed or is stuck"
        self.report.add(Finding(BAD, "doctor", text, "see standard error for the rank"))
        self.report.end()
        super().abort(1)


def examine(
    communicator: ReportingCommunicator, local: list[Finding | Same], options: argparse.Namespace
) -> int:
    """Report the ``local`` findings of all ranks on rank 0, and make the collective checks.

    Returns the exit code, the same on all ranks.
    """
    report, ranks = communicator.report, Ranks(dict(enumerate(communicator.hosts)))

    def merged(found: Iterable[Finding | Same]) -> list[Finding]:
        return ranks.merge(dict(enumerate(communicator.allgather(list(found)))))

    with Watchdog(NAME, communicator, STALL_SECONDS):
        report.add(*merged(local))
        for check in OF_EACH_RANK:
            with Span(MEASURE):
                report.add(*merged(attempt(check, communicator, options)))
        for joint_check in OF_ALL_RANKS:
            with Span(MEASURE):
                report.add(*joint_check(communicator, options))
        report.end(options.json)
        return communicator.broadcast(int(report.counts[BAD] > 0))

"""The checks that all ranks make together. Imported only where NumPy works."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import NoReturn

from distcnn.cli.command import run_on
from distcnn.distributed import Communicator
from distcnn.doctor import files, sums, world
from distcnn.doctor.findings import BAD, Finding, Ranks, Report, Same, attempt
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.nn import PORTABLE
from distcnn.spans import MEASURE, Span

NAME = "distcnn.doctor"
STALL_SECONDS = 7.0
"""No check keeps a rank this long (see ``bounded``): one that takes longer is stuck."""
OF_EACH_RANK = (
    *(world.clock, files.output, files.data),
    *(sums.exact_sum, sums.products, sums.portable),
)
"""Rank 0 merges what all ranks find."""
OF_ALL_RANKS = (world.ranks, world.hosts, world.cores, sums.network, sums.speed)
UNFINISHED = Finding(
    BAD,
    "doctor",
    "some checks did not finish: a rank failed or is stuck",
    "see standard error for the rank",
)


def examine(
    communicator: Communicator,
    local: list[Finding | Same],
    options: argparse.Namespace,
    arguments: Sequence[str],
) -> int:
    """Report the ``local`` findings of all ranks on rank 0, and make the collective checks.

    Returns the exit code, the same on all ranks: 1 when a rank fails, once the report is complete.
    """
    report = Report(silent=communicator.rank > 0)

    def end_all(exit_code: int) -> NoReturn:
        text = "some checks did not finish: a rank failed or is stuck"
        report.add(Finding(BAD, "doctor", text, "see standard error for the rank"))
        report.end()
        communicator.abort(1)

    def work(communicator: Communicator, arguments: Sequence[str]) -> int:
        with Watchdog(NAME, communicator, STALL_SECONDS, end_all):
            return _examine(communicator, report, local, options)

    return run_on(communicator, NAME, work, arguments, end_all)


def _examine(
    communicator: Communicator,
    report: Report,
    local: list[Finding | Same],
    options: argparse.Namespace,
) -> int:
    is_portable = options.arithmetic == PORTABLE
    ranks = Ranks(dict(enumerate(communicator.hosts)), is_portable=is_portable)

    def merged(found: Iterable[Finding | Same]) -> list[Finding]:
        return ranks.merge(dict(enumerate(communicator.allgather(list(found)))))

    report.add(*merged(local))
    for check in OF_EACH_RANK:
        with Span(MEASURE):
            report.add(*merged(attempt(check, communicator, options)))
    for joint_check in OF_ALL_RANKS:
        with Span(MEASURE):
            report.add(*joint_check(communicator, options))
    report.end(options.json)
    return communicator.broadcast(int(report.counts[BAD] > 0))

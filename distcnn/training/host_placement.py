"""Where a run's ranks are: hosts, cores, threads, and whether all of them see the same files."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from distcnn.config import Config
from distcnn.distributed import Communicator, together
from distcnn.distributed.blas_threads import AUTO, THREADS_PER_RANK, limit_blas_threads
from distcnn.errors import InputError
from distcnn.system.host import oversubscription, threads_for_each, usable_cores
from distcnn.system.wording import counted, number_ranges

MOST_HOSTS_NAMED = 4
SECONDS_TO_APPEAR = 5.0
"""A new file may appear on other hosts this much later: NFS caches that it was missing."""


def settle_threads(
    config: Config, communicator: Communicator, report: Callable[[str], None]
) -> Config:
    """Set this process's BLAS threads. Collective.

    Args:
        config: ``threads_per_rank`` is a number or ``auto``.
        communicator: of all ranks.
        report: takes a line where the bits depend on the number, and where there are fewer cores
            than threads.

    Returns:
        The configuration with the number of threads instead of ``auto``.
    """
    everyone = communicator.allgather(usable_cores(communicator.hosts[communicator.rank]))
    wanted = config.threads_per_rank
    threads = threads_for_each(everyone) if wanted == AUTO else int(wanted)
    together(communicator, lambda: limit_blas_threads(threads))
    if threads != THREADS_PER_RANK or wanted == AUTO:
        count = f"{counted(threads, 'BLAS thread')} a rank"
        report(
            f"notice: {count} (--threads-per-rank {wanted}): the bits depend on"
            " this number; a resumed run keeps it"
        )
    crowd = oversubscription(everyone, threads)
    if crowd:
        report(
            f"warning: oversubscribed: {crowd}; start fewer ranks or threads there, or bind the"
            " ranks to more cores (launch/README.md)"
        )
    return dataclasses.replace(config, threads_per_rank=str(threads))


def describe_hosts(hosts: Sequence[str]) -> str:
    """Which ranks are where: "on 2 hosts (a: 0-1; b: 2-3)"; nothing for one host."""
    named = list(dict.fromkeys(hosts))
    if len(named) == 1:
        return ""
    places = [
        f"{host}: {number_ranges(rank for rank, each in enumerate(hosts) if each == host)}"
        for host in named[:MOST_HOSTS_NAMED]
    ]
    more = "; ..." if len(named) > MOST_HOSTS_NAMED else ""
    return f" on {len(named)} hosts ({'; '.join(places)}{more})"


def require_everywhere(path: str, flag: str, communicator: Communicator) -> None:
    """``InputError`` on all ranks when only some of them see ``path``. Collective."""
    end = time.monotonic() + SECONDS_TO_APPEAR
    while True:
        seen = communicator.allgather(_exists(path))
        late = any(communicator.allgather(time.monotonic() > end))
        if all(seen) or not any(seen) or late:
            break
        time.sleep(0.5)
    together(communicator, lambda: _check_seen(path, flag, seen, communicator.hosts))


def _exists(path: str) -> bool:
    with suppress(OSError):
        os.listdir(Path(path).parent)  # noqa: PTH208  (a network file system then looks again)
    return os.path.exists(path)  # noqa: PTH110  (Path's raises for a name that is too long)


def _check_seen(path: str, flag: str, seen: Sequence[bool], hosts: Sequence[str]) -> None:
    if any(seen) and not all(seen):
        here, missing = seen.index(True), seen.index(False)
        raise InputError(
            f"{flag}: rank {here} on host {hosts[here]} sees {path}, rank {missing} on host"
            f" {hosts[missing]} does not: put it on a file system that all hosts share, or copy it"
            " to the same path on every host, and give its absolute path"
        )

"""Where a run's ranks are: hosts, cores, threads, and whether all of them see the same files."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from distcnn.config import Config
from distcnn.distributed import Communicator, blas_threads, together
from distcnn.distributed.communicator import JointError
from distcnn.system.host import oversubscription, threads_for_each, usable_cores
from distcnn.system.wording import counted, number_ranges

MOST_HOSTS_NAMED = 4
SECONDS_TO_APPEAR = 5.0
"""A new file may appear on other hosts this much later: NFS caches that it was missing."""


def settle_threads(
    config: Config, communicator: Communicator, report: Callable[[str], None]
) -> Config:
    """Set this process's BLAS threads; ``config`` with their number instead of auto. Collective.

    ``report`` takes a line where bits depend on the number, or cores are oversubscribed.
    """
    wanted, host = config.threads_per_rank, communicator.hosts[communicator.rank]
    everyone = communicator.allgather(usable_cores(host))
    threads = threads_for_each(everyone) if wanted == blas_threads.AUTO else int(wanted)
    together(communicator, lambda: blas_threads.limit_blas_threads(threads))
    if threads != blas_threads.THREADS_PER_RANK or wanted == blas_threads.AUTO:
        report(
            f"notice: {counted(threads, 'BLAS thread')} a rank (--threads-per-rank {wanted}): the"
            " bits depend on this number; a resumed run keeps it"
        )
    if crowd := oversubscription(everyone, threads):
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
    """``JointError`` when only some of them see ``path``. Collective."""
    end = time.monotonic() + SECONDS_TO_APPEAR
    while True:
        seen = communicator.allgather(_exists(path))
        late = any(communicator.allgather(time.monotonic() > end))
        if all(seen) or not any(seen) or late:
            break
        time.sleep(0.5)
    if any(seen) and not all(seen):
        here, missing, hosts = seen.index(True), seen.index(False), communicator.hosts
        raise JointError(
            f"{flag}: rank {here} on host {hosts[here]} sees {path}, rank {missing} on host"
            f" {hosts[missing]} does not: put it on a file system that all hosts share, or copy it"
            " to the same path on every host, and give its absolute path"
        )


def _exists(path: str) -> bool:
    with suppress(OSError):
        os.listdir(Path(path).parent)  # noqa: PTH208  (a network file system then looks again)
    return os.path.exists(path)  # noqa: PTH110  (Path's raises for a name that is too long)

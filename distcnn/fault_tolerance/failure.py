"""Report an exception once, however many ranks it struck, with rank, host, step and origin.

An exception in the user's own module is shown with the lines of that module only; any other is a
defect of distcnn and is shown with its traceback.
"""

from __future__ import annotations

import os
import time
import traceback

from distcnn.distributed import Communicator
from distcnn.fault_tolerance.error_origin import THREAD_LIMIT, is_thread_limit, mistake_lines
from distcnn.fault_tolerance.heartbeat import heartbeat
from distcnn.fault_tolerance.host_election import claim
from distcnn.system.console import tell

SECONDS_BETWEEN_HOSTS, MOST_HOSTS_WAITED_FOR = 0.8, 3
"""Each host elects a reporter. It waits for those of the hosts before it, which end all ranks."""


def report_failure(name: str, communicator: Communicator, error: BaseException) -> None:
    """Print ``error`` to standard error, once for all ranks that fail at the same time.

    Returns on the rank that reports; the others wait to be ended.
    """
    _wait_for_turn(communicator)
    host = communicator.hosts[communicator.rank]
    where = (
        f"rank {communicator.rank} of {communicator.world_size} failed on host {host} (process"
        f" {os.getpid()}), {heartbeat.read().text()}"
    )
    if is_thread_limit(error):
        tell(f"{name}: error: {where}: {THREAD_LIMIT}")
        return
    told = "\n".join(mistake_lines(error)) or "".join(traceback.format_exception(error)).rstrip()
    tell(f"{name}: {where}:\n{told}")


def report_bad_input(name: str, communicator: Communicator, text: str) -> None:
    """Print ``text``, one line on bad input, once for all ranks that hit it independently.

    Returns on the rank that reports; the others wait to be ended.
    """
    _wait_for_turn(communicator)
    where = f" (on rank {communicator.rank})" if communicator.world_size > 1 else ""
    tell(f"{name}: error: {text}{where}")


def _wait_for_turn(communicator: Communicator) -> None:
    """Return on the first rank of each host that asks, one host after the other."""
    if not claim(f"failure-{communicator.job}"):
        # the reporter ends this process long before
        time.sleep(SECONDS_BETWEEN_HOSTS * (MOST_HOSTS_WAITED_FOR + 1))
    hosts = list(dict.fromkeys(communicator.hosts))
    place = hosts.index(communicator.hosts[communicator.rank])
    time.sleep(SECONDS_BETWEEN_HOSTS * min(place, MOST_HOSTS_WAITED_FOR))

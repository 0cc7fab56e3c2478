"""How fast gradients are summed over the ranks, against what is normal."""

from __future__ import annotations

import math
from typing import Any

from distcnn.doctor.check import Everyone, Facts, Section
from distcnn.doctor.finding import GOOD, WARNING, Finding, Places

GRADIENT_BYTES = 431_080 * 8
"""Of the default network, in the exact sum's float64."""
SIZES = (8, 1024, 65_536, GRADIENT_BYTES, 16 * 2**20)
SECONDS = 1.5

SLOW_SECONDS = 1e-3
"""A latency beyond this, for each doubling of hosts, is no network's: shared memory takes 1e-5,
Ethernet 1e-4.
"""
SLOW_BYTES_PER_SECOND = 50e6
"""1 Gbit/s Ethernet sums about 110 MB in a second."""

SPINNING = (
    "more ranks than cores, and an MPI that spins while it waits: fewer ranks, or Open MPI's"
    " mpi_yield_when_idle=1 (export OMPI_MCA_mpi_yield_when_idle=1); see the lines on cores and"
    " load"
)
OTHER_NETWORK = (
    "MPI may have taken the wrong network: name it (Open MPI: --mca btl_tcp_if_include ib0, MPICH:"
    " -iface ib0, UCX_NET_DEVICES), or ask the site; --overlap on hides sums behind computing"
)


def look(communicator: Any) -> Facts:
    """Rows of (bytes, seconds); whether all ranks see each other's memory."""
    from distcnn.distributed import ForegroundSums
    from distcnn.distributed.allreduce_timing import time_sums

    sums = ForegroundSums(communicator.allreduce_sum)
    rows = time_sums(communicator, sums, SIZES, SECONDS) if communicator.world_size > 1 else []
    return {
        "rows": [list(row) for row in rows],
        "shared": communicator.shared_floats(1024) is not None,
    }


def judge(places: Places, everyone: Everyone) -> list[Finding]:
    """Latency is that of the smallest sum, bandwidth that of the largest."""
    rows = allreduce_rows(everyone)
    if not rows:
        return []
    hosts = len(places.ranks_of_host)
    latency, gradient = rows[0][1], dict(rows).get(GRADIENT_BYTES)
    slow = SLOW_SECONDS * max(1.0, math.log2(hosts))
    remedy = SPINNING if hosts == 1 else OTHER_NETWORK
    of_gradient = (
        f", the default network's gradient ({GRADIENT_BYTES / 1e6:.1f} MB) {gradient * 1e3:.2f} ms"
        if gradient
        else ""
    )
    text = f"an allreduce of 8 bytes takes {latency * 1e3:.3f} ms{of_gradient}"
    found = [_line("latency", text, "too long", latency > slow, remedy), _bandwidth(rows, remedy)]
    if hosts == 1 and not all(facts["shared"] for facts in everyone.values()):
        text = (
            "they go through MPI, which is slower: ranks of one host cannot see each other's"
            " memory, or MPI takes them for strangers"
        )
        remedy = (
            "let them run in one container, as one user, with /proc mounted in the usual way, and"
            " under MPI's own mpirun"
        )
        found.append(Finding("gradients", WARNING, text, remedy))
    return found


def allreduce_rows(everyone: Everyone) -> list[tuple[int, float]]:
    """(bytes, seconds) of each size."""
    facts = everyone.get(0, {})
    return [(int(nbytes), float(seconds)) for nbytes, seconds in facts.get("rows", [])]


def _bandwidth(rows: list[tuple[int, float]], remedy: str) -> Finding:
    nbytes, seconds = rows[-1]
    text = f"an allreduce of {nbytes / 1e6:.1f} MB takes {seconds * 1e3:.1f} ms"
    if nbytes < GRADIENT_BYTES:
        return Finding(
            "bandwidth", WARNING, f"not measured, for want of time: {text} already", remedy
        )
    bandwidth = max(size / took for size, took in rows[-2:])
    return _line(
        "bandwidth",
        f"{bandwidth / 1e6:,.0f} MB/s ({text})",
        "too little",
        bandwidth < SLOW_BYTES_PER_SECOND,
        remedy,
    )


def _line(name: str, text: str, what: str, holds: bool, remedy: str) -> Finding:
    return (
        Finding(name, WARNING, f"{text}: {what} for any network", remedy)
        if holds
        else Finding(name, GOOD, text)
    )


SECTION = Section("network", look, judge)

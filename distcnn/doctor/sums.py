"""Allreduce and arithmetic: their speed, and whether all ranks get the same bits."""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from distcnn.distributed import Allreduce, Communicator, ExactSum
from distcnn.distributed.allreduce_timing import time_sums
from distcnn.doctor.findings import BAD, GOOD, WARNING, Finding, Found, Ranks, Same
from distcnn.doctor.layers import layers_sha256
from distcnn.doctor.reference import Reference
from distcnn.doctor.software import OR_PORTABLE
from distcnn.portable import self_test
from distcnn.random_streams import generator
from distcnn.training.fingerprint import PRODUCTS, arithmetic_sha256, operands

GRADIENT_BYTES = 431_080 * 8
"""The gradient of the default network, in the exact sum's float64."""
SIZES = (8, 1024, 65_536, GRADIENT_BYTES, 16 * 2**20)
SECONDS = 1.5
SLOW_SECONDS = 1e-3
"""Slow latency, per doubling of hosts: shared memory takes 1e-5 s, Ethernet 1e-4 s."""
SLOW_BYTES_PER_SECOND = 50e6
"""Gigabit Ethernet sums about 110 MB/s."""
TERMS = 65_536
LIMIT = 65536.0
"""Training's default --gradient-limit."""
SEED = 2013
REPEATS = 9
SLOW_FRACTION = 0.5

SPINNING = (
    "if ranks share cores, MPI may spin while it waits: start fewer ranks, or with Open MPI"
    " export OMPI_MCA_mpi_yield_when_idle=1"
)
OTHER_NETWORK = (
    "MPI may use the wrong network: choose it (Open MPI: --mca btl_tcp_if_include ib0, MPICH:"
    " -iface ib0, UCX_NET_DEVICES), or ask the site; --overlap on hides communication"
)
NOT_SHARED = (
    "run all ranks of a host in one container, as one user, with /proc mounted, under MPI's own"
    " mpirun"
)
ONE_KIND = "use hosts of one kind with one NumPy and BLAS (see blas, processor, environment)"
BROKEN = (
    "memory, a processor or the network corrupts data: exclude the host and tell the site; try"
    " another MPI library"
)

NO_FLUSH = (
    "find the library that changes the floating-point mode (one built with -ffast-math), or use"
    " another NumPy; --arithmetic native works"
)


OTHER_LAYERS = (
    "install distcnn again if its files were changed (see distcnn), or use another NumPy; else"
    " please report it, with what this command prints; --arithmetic native works"
)


def network(communicator: Communicator, options: argparse.Namespace) -> Iterator[Finding]:
    """How long allreduces take, and whether ranks of one host share memory."""
    if communicator.world_size == 1:
        return
    hosts = len(set(communicator.hosts))
    sums = Allreduce(communicator.allreduce_sum)
    yield from allreduce_speed(time_sums(communicator, sums, SIZES, SECONDS), hosts)
    if communicator.shared_floats(1024) is None and hosts == 1:
        text = "gradients go through MPI, which is slower than shared memory"
        yield Finding(WARNING, "gradients", text, NOT_SHARED)


def allreduce_speed(rows: Sequence[tuple[int, float]], hosts: int) -> Iterator[Finding]:
    """Latency from the first row, bandwidth from the last two."""
    remedy = SPINNING if hosts == 1 else OTHER_NETWORK
    latency = rows[0][1]
    text = f"an allreduce of 8 bytes takes {latency * 1e3:.3f} ms"
    measured = {"allreduce": [{"bytes": size, "seconds": took} for size, took in rows]}
    if latency > SLOW_SECONDS * max(1.0, math.log2(hosts)):
        yield Finding(WARNING, "latency", f"{text}: slow for any network", remedy, measured)
    else:
        yield Finding(GOOD, "latency", text, measured=measured)
    nbytes, seconds = rows[-1]
    bandwidth = max(size / took for size, took in rows[-2:])
    text = f"an allreduce of {nbytes / 1e6:.1f} MB takes {seconds * 1e3:.1f} ms"
    rate = f"{bandwidth / 1e6:,.0f} MB/s ({text})"
    if nbytes < GRADIENT_BYTES:
        yield Finding(WARNING, "bandwidth", f"not measured (time limit): {text}", remedy)
    elif bandwidth < SLOW_BYTES_PER_SECOND:
        yield Finding(WARNING, "bandwidth", f"{rate}: slow for any network", remedy)
    else:
        yield Finding(GOOD, "bandwidth", rate)


def exact_sum(communicator: Communicator, options: argparse.Namespace) -> Found:
    """Sum numbers of all ranks that rank 0 can also draw and sum alone, in another order."""
    rank, world_size = communicator.rank, communicator.world_size
    total = sum_of([rank], world_size)
    communicator.allreduce_sum(total)
    digest = hashlib.sha256(total.tobytes()).hexdigest()[:12]
    yield Same("sum", f"the exact sum is {digest}", "ranks got different sums", BROKEN)
    if rank == 0 and total.tobytes() != sum_of(reversed(range(world_size)), world_size).tobytes():
        text = "the exact sum over all ranks differs from the sum of the same numbers"
        yield Finding(BAD, "sum", text, f"{BROKEN}; {ONE_KIND}")


def sum_of(ranks: Iterable[int], world_size: int) -> NDArray[np.float64]:
    """The exact sum (TERMS,) of numbers from 1e-8 to 1e4 that are drawn for each of ``ranks``."""
    exact, total = ExactSum(world_size, LIMIT), np.zeros(TERMS)
    for rank in ranks:
        draw = np.random.Generator(generator(SEED, rank))
        terms = draw.standard_normal(TERMS) * 10.0 ** draw.integers(-8, 4, TERMS)
        exact.add(total, terms.astype(np.float32))
    return total


def portable(communicator: Communicator, options: argparse.Namespace) -> Found:
    """Whether portable arithmetic gives here what it gives on every machine."""
    refused = "--arithmetic portable is not possible: "
    if found := self_test.problem():
        yield Finding(BAD, "portable", refused + found, NO_FLUSH)
    elif (found := layers_sha256()) != (expected := Reference.read().layers):
        text = (
            "functions and products are right, but the layers of a small network give the hash"
            f" {found[:12]}, on other machines {expected[:12]}"
        )
        yield Finding(BAD, "portable", refused + text, OTHER_LAYERS)
    else:
        yield Finding(GOOD, "portable", "this machine computes the reference hash")


def products(communicator: Communicator, options: argparse.Namespace) -> Found:
    """Matrix products and functions of fixed operands."""
    text = f"matrix products, exp and log give {arithmetic_sha256()[:12]}"
    yield Same(
        "products", text, "ranks compute different bits", ONE_KIND + OR_PORTABLE, of_native=True
    )


def speed(communicator: Communicator, options: argparse.Namespace) -> Iterator[Finding]:
    """Matrix products of all ranks: training waits for the slowest."""
    speeds = communicator.allgather(gflop_per_second())
    fastest = max(speeds)
    measured = {"gflop_per_second": speeds}
    text = f"matrix products at {min(speeds):.0f} to {fastest:.0f} GFLOP/s per rank"
    slow = [rank for rank, value in enumerate(speeds) if value < SLOW_FRACTION * fastest]
    if slow:
        where = Ranks(dict(enumerate(communicator.hosts))).text(slow)
        text = f"{text}: slow {where}, and all ranks wait for the slowest"
        remedy = "run top on that host to see what uses the CPUs, or exclude it"
        yield Finding(WARNING, "speed", text, remedy, measured)
    else:
        yield Finding(GOOD, "speed", text, measured=measured)


def gflop_per_second() -> float:
    """Of CPU time: other users of the cores are reported by other checks."""
    pairs, _ = operands()
    seconds = []
    for _ in range(REPEATS):
        start = time.thread_time()
        for a, b in pairs:
            np.matmul(a, b)
        seconds.append(time.thread_time() - start)
    operations = sum(2 * m * k * n for m, k, n in PRODUCTS)
    return operations / max(min(seconds), 1e-9) / 1e9

"""Allreduce and arithmetic: their speed, and whether all ranks get the same bits."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distcnn.doctor.check import GOOD, Check, Finding, Options, Places, root_cause

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distcnn.distributed import Communicator

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


@dataclass(frozen=True)
class Sums:
    """The results of one rank.

    Args:
        allreduces: (bytes, seconds) of each size measured; empty on one rank.
        shared: whether ranks can map each other's memory.
        total: hash of the exact sum over all ranks.
        alone: hash of the same sum computed by rank 0 alone, on rank 0.
        products: hash of matrix products and functions of fixed operands; empty if they failed.
        gflop_per_second: speed of the products.
        problem: why the products failed.
    """

    allreduces: list[tuple[int, float]]
    shared: bool
    total: str
    alone: str
    products: str
    gflop_per_second: float
    problem: str


def collect(communicator: Communicator, options: Options) -> Sums:
    """Time allreduces, then sum numbers that rank 0 can also draw and sum alone. Collective."""
    import numpy as np

    from distcnn.distributed import Allreduce, ExactSum
    from distcnn.distributed.allreduce import time_sums

    ranks = communicator.world_size
    sums = Allreduce(communicator.allreduce_sum)
    rows = time_sums(communicator, sums, SIZES, SECONDS) if ranks > 1 else []
    shared = communicator.shared_floats(1024) is not None
    products, speed, problem = "", 0.0, ""
    try:
        products, speed = multiply()
    except Exception as error:  # the others wait for this rank in the sum below
        problem = root_cause(error)
    exact, values = ExactSum(ranks, LIMIT), np.zeros(TERMS)
    exact.add(values, terms_of(communicator.rank))
    communicator.allreduce_sum(values)
    total, alone = sha256(values), ""
    if communicator.rank == 0:
        values.fill(0)
        for rank in reversed(range(ranks)):
            exact.add(values, terms_of(rank))
        alone = sha256(values)
    return Sums(rows, shared, total, alone, products, speed, problem)


def evaluate(places: Places, everyone: Mapping[int, Sums]) -> Iterator[Finding]:
    """Speed of allreduce, bits of sums, bits and speed of arithmetic."""
    if everyone.get(0) and everyone[0].allreduces:
        hosts = len(places.ranks_of_host)
        yield from _speed(everyone[0].allreduces, hosts)
        if hosts == 1 and not all(facts.shared for facts in everyone.values()):
            text = "gradients go through MPI, which is slower than shared memory"
            yield Finding.warning("gradients", text, NOT_SHARED)
    yield _same_sums(places, everyone)
    yield from _arithmetic(places, everyone)


def _speed(rows: list[tuple[int, float]], hosts: int) -> Iterator[Finding]:
    remedy = SPINNING if hosts == 1 else OTHER_NETWORK
    latency = rows[0][1]
    text = f"an allreduce of 8 bytes takes {latency * 1e3:.3f} ms"
    measured = [{"bytes": nbytes, "seconds": seconds} for nbytes, seconds in rows]
    if latency > SLOW_SECONDS * max(1.0, math.log2(hosts)):
        yield Finding.warning(
            "latency", f"{text}: slow for any network", remedy, allreduce=measured
        )
    else:
        yield Finding.good("latency", text, allreduce=measured)
    nbytes, seconds = rows[-1]
    bandwidth = max(size / took for size, took in rows[-2:])
    text = f"an allreduce of {nbytes / 1e6:.1f} MB takes {seconds * 1e3:.1f} ms"
    if nbytes < GRADIENT_BYTES:
        yield Finding.warning("bandwidth", f"not measured (time limit): {text}", remedy)
    elif bandwidth < SLOW_BYTES_PER_SECOND:
        text = f"{bandwidth / 1e6:,.0f} MB/s ({text}): slow for any network"
        yield Finding.warning("bandwidth", text, remedy)
    else:
        yield Finding.good("bandwidth", f"{bandwidth / 1e6:,.0f} MB/s ({text})")


def _same_sums(places: Places, everyone: Mapping[int, Sums]) -> Finding:
    totals = {rank: facts.total for rank, facts in everyone.items()}
    found = places.compared("sum", totals, "ranks got different sums from an allreduce", BROKEN)
    if found.state == GOOD and 0 in everyone and everyone[0].alone != totals[0]:
        text = "the exact sum over all ranks differs from the sum of the same numbers on rank 0"
        return Finding.bad("sum", text, f"{BROKEN}; {ONE_KIND}")
    if found.state == GOOD:
        return Finding.good("sum", "the exact sum has the same bits on all ranks and in any order")
    return found


def _arithmetic(places: Places, everyone: Mapping[int, Sums]) -> Iterator[Finding]:
    failed = {
        rank: [Finding.bad("products", f"cannot be computed: {facts.problem}", BROKEN)]
        for rank, facts in everyone.items()
        if facts.problem
    }
    yield from places.gathered(failed)
    hashes = {rank: facts.products for rank, facts in everyone.items() if facts.products}
    if not hashes:
        return
    same = places.compared("products", hashes, "ranks compute different bits", ONE_KIND)
    if same.state == GOOD:
        where = places.ranks_text(hashes)
        text = f"matrix products, exp and log have the same bits {where}".rstrip()
        same = Finding.good("products", text)
    yield same
    speeds = {rank: everyone[rank].gflop_per_second for rank in hashes}
    fastest, measured = max(speeds.values()), list(speeds.values())
    text = f"matrix products at {min(measured):.0f} to {fastest:.0f} GFLOP/s per rank"
    slow = [rank for rank, speed in speeds.items() if speed < SLOW_FRACTION * fastest]
    if slow:
        text = f"{text}: slow {places.ranks_text(slow)}, and all ranks wait for the slowest"
        remedy = "run top on that host to see what uses the CPUs, or exclude it"
        yield Finding.warning("speed", text, remedy, gflop_per_second=measured)
    else:
        yield Finding.good("speed", text, gflop_per_second=measured)


def terms_of(rank: int) -> NDArray[np.float32]:
    """Draw the terms (TERMS,) of one rank, of magnitudes from 1e-8 to 1e4."""
    import numpy as np

    from distcnn.random_streams import generator

    draw = np.random.Generator(generator(SEED, rank))
    return (draw.standard_normal(TERMS) * 10.0 ** draw.integers(-8, 4, TERMS)).astype(np.float32)


def sha256(values: NDArray[Any]) -> str:
    """The first digits of the SHA-256 of the bytes of ``values``."""
    return hashlib.sha256(values.tobytes()).hexdigest()[:12]


def multiply() -> tuple[str, float]:
    """Compute matrix products and functions of fixed operands.

    Returns:
        The hash of the results, and the speed of the products in GFLOP/s of CPU time.
    """
    import numpy as np

    from distcnn.training.fingerprint import PRODUCTS, arithmetic_sha256, operands

    pairs, _ = operands()
    seconds = []
    for _ in range(REPEATS):
        start = time.thread_time()  # CPU time: other users of the cores are reported elsewhere
        for a, b in pairs:
            np.matmul(a, b)
        seconds.append(time.thread_time() - start)
    operations = sum(2 * m * k * n for m, k, n in PRODUCTS)
    return arithmetic_sha256()[:12], operations / max(min(seconds), 1e-9) / 1e9


CHECK = Check("sums", collect, evaluate)

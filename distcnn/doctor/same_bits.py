"""Whether ranks compute the same bits, and sum to the same bits as one process does.

Every rank draws numbers by its rank's name, so that root can draw everyone's and add them up alone,
in another order.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

from distcnn.doctor.check import Everyone, Facts, Section, tried
from distcnn.doctor.finding import BAD, GOOD, WARNING, Finding, Places, compared, gathered

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TERMS = 65_536
LIMIT = 65536.0
"""Training's default --gradient-limit."""
SEED = 2013
REPEATS = 9
SLOW_FRACTION = 0.5

ONE_KIND = (
    "let all ranks run on hosts of one kind with one NumPy and BLAS (see the lines blas, processor,"
    " environment)"
)
BROKEN = (
    "memory, processor or network change bits: leave the host out and tell the site; with another"
    " MPI see whether it is the library"
)


def look(communicator: Any) -> Facts:
    """Hashes of what this rank computes, and of the sum of all ranks; on root also of the sum that
    it made alone.
    """
    from distcnn.distributed import ExactSum

    facts = tried(_arithmetic)  # whatever fails there, the sum below needs this rank
    ranks = communicator.world_size
    exact = ExactSum(np.zeros(TERMS), ranks, LIMIT)
    exact.add(terms_of(communicator.rank))
    communicator.allreduce_sum(exact.total)
    facts["sum"] = sha256(exact.total)
    if communicator.rank == 0:
        alone = ExactSum(np.zeros(TERMS), ranks, LIMIT)
        for rank in reversed(range(ranks)):
            alone.add(terms_of(rank))
        facts["alone"] = sha256(alone.total)
    return facts


def judge(places: Places, everyone: Everyone) -> list[Finding]:
    """Sums, products, subnormal numbers, speed."""
    whole = {rank: facts for rank, facts in everyone.items() if "problem" not in facts}
    failed = {
        rank: [Finding("products", BAD, f"cannot be computed: {facts['problem']}", BROKEN)]
        for rank, facts in everyone.items()
        if "problem" in facts
    }
    found = [*_sums(places, everyone), *gathered(places, failed)]
    if not whole:
        return found
    hashes = {rank: facts["products"] for rank, facts in whole.items()}
    products = compared(
        places, "products", hashes, "ranks compute different bits, replicas would too", ONE_KIND
    )
    if products.state == GOOD:
        products = Finding(
            "products",
            GOOD,
            f"matrix products, exp and log have the same bits {places.of(whole)}".rstrip(),
        )
    return [
        *found,
        products,
        *gathered(places, {rank: _own(facts) for rank, facts in whole.items()}),
        *_speed(places, whole),
    ]


def terms_of(rank: int) -> NDArray[np.float32]:
    """A gradient (TERMS,) named after the rank, of magnitudes from 1e-8 to 1e4."""
    import numpy as np

    from distcnn.random_streams import generator

    draw = np.random.Generator(generator(SEED, rank))
    return (draw.standard_normal(TERMS) * 10.0 ** draw.integers(-8, 4, TERMS)).astype(np.float32)


def sha256(values: NDArray[Any]) -> str:
    """Of the bytes, shortly."""
    return hashlib.sha256(values.tobytes()).hexdigest()[:12]


def _arithmetic() -> Facts:
    """Products and functions, twice, and how long products take; subnormal numbers and rounding."""
    import numpy as np

    from distcnn.training.fingerprint import PRODUCTS, arithmetic_sha256, operands

    pairs, _ = operands()
    first, seconds = (
        arithmetic_sha256()[:12],
        [],
    )  # of the processor's time: what a busy host takes away is for other lines to say
    for _ in range(REPEATS):
        start = time.thread_time()
        for a, b in pairs:
            np.matmul(a, b)
        seconds.append(time.thread_time() - start)
    tiny = np.full(64, np.finfo(np.float32).smallest_subnormal)
    halves = np.full(64, 2.0**-53)
    return {
        "products": first,
        "repeatable": arithmetic_sha256()[:12] == first,
        "subnormal": bool(
            np.all(tiny * np.float32(1) != 0)
            and np.all(np.full(64, np.finfo(np.float32).tiny) / np.float32(2) != 0)
        ),
        "rounding": bool(np.all(1 + halves == 1) and np.all(1 + 1.5 * halves == 1 + 2.0**-52)),
        "gflop_per_second": (
            sum(2 * m * k * n for m, k, n in PRODUCTS) / max(min(seconds), 1e-9) / 1e9
        ),
    }


def _sums(places: Places, everyone: Everyone) -> list[Finding]:
    if len(places.hosts) == 1:
        same = everyone[0]["sum"] == everyone[0]["alone"]
        return (
            []
            if same
            else [Finding("sum", BAD, "the exact sum is not what it was a moment ago", BROKEN)]
        )
    hashes = {rank: facts["sum"] for rank, facts in everyone.items()}
    sums = compared(places, "sum", hashes, "ranks have different sums after one allreduce", BROKEN)
    alone = everyone[0]["alone"] if 0 in everyone else None
    if sums.state == GOOD and alone is not None and set(hashes.values()) != {alone}:
        text = "the exact sum over all ranks is not what rank 0 gets alone from the same numbers"
        return [Finding("sum", BAD, text, f"{BROKEN}; {ONE_KIND}")]
    if sums.state == GOOD:
        return [
            Finding(
                "sum",
                GOOD,
                "the exact sum has the same bits on all ranks, and in one process in another order",
            )
        ]
    return [sums]


def _own(facts: Facts) -> list[Finding]:
    """Of one rank's arithmetic."""
    found = []
    if not facts["repeatable"]:
        found.append(
            Finding("products", BAD, "the same product gave other bits the second time", BROKEN)
        )
    if not facts["subnormal"]:
        text = "numbers below 1e-38 are flushed to zero: other bits than elsewhere"
        remedy = (
            "a library that was built with -ffast-math sets the processor so: look at LD_PRELOAD,"
            " and at what is imported first"
        )
        found.append(Finding("products", BAD, text, remedy))
    if not facts["rounding"]:
        found.append(
            Finding(
                "products",
                BAD,
                "the processor does not round to the nearest",
                "a library changed its rounding: look at LD_PRELOAD",
            )
        )
    return found


def _speed(places: Places, whole: Everyone) -> list[Finding]:
    """A rank that is much slower than others holds all of them up."""
    speeds = {rank: facts["gflop_per_second"] for rank, facts in whole.items()}
    fastest = max(speeds.values())
    slow = [rank for rank, speed in speeds.items() if speed < SLOW_FRACTION * fastest]
    text = f"matrix products at {min(speeds.values()):.0f} to {fastest:.0f} GFLOP/s a rank"
    if slow:
        remedy = (
            "its processor is slower, hot, or shared with somebody: look with top, or leave the"
            " host out"
        )
        return [
            Finding(
                "speed",
                WARNING,
                f"{text}: all wait for the slowest, {places.of(slow).removeprefix('on ')}",
                remedy,
            )
        ]
    return [Finding("speed", GOOD, text)]


SECTION = Section("exactness", look, judge)

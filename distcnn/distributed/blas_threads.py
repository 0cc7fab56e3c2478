"""BLAS threads: how many, and which BLAS it is."""

from __future__ import annotations

from typing import Any

from threadpoolctl import threadpool_info, threadpool_limits

from distcnn.system.host import Cores, threads_for_each

THREADS_PER_RANK = 1
"""Unless the user says otherwise, and at any world size: OpenBLAS gives other sums with two threads
than with one.
"""
AUTO = "auto"

_threads = THREADS_PER_RANK


def limit_blas_threads(count: int = THREADS_PER_RANK) -> None:
    """Give this process ``count`` BLAS threads, whatever the environment says."""
    global _threads
    threadpool_limits(count)
    _threads = count


def blas_threads() -> int:
    """How many this process was given."""
    return _threads


def resolve_threads(wanted: str, everyone: list[Cores]) -> int:
    """How many threads each rank gets for ``wanted``, a number or ``AUTO``: by what ``everyone``
    may use, so the same on all ranks.
    """
    return threads_for_each(everyone) if wanted == AUTO else int(wanted)


def blas_description() -> str:
    """Name, version and kernel of the BLAS in use: part of what decides the bits."""
    libraries: list[dict[str, Any]] = [
        each for each in threadpool_info() if each.get("user_api") == "blas"
    ]
    if not libraries:
        return "unknown BLAS"
    first = libraries[0]
    return " ".join(
        str(first[key]) for key in ("internal_api", "version", "architecture") if first.get(key)
    )


def threads_of_libraries() -> list[int]:
    """How many threads each BLAS library of this process has now; none where no BLAS is known."""
    return [
        int(each["num_threads"]) for each in threadpool_info() if each.get("user_api") == "blas"
    ]

"""BLAS threads: how many, and which BLAS it is."""

from __future__ import annotations

from typing import Any

from threadpoolctl import threadpool_info, threadpool_limits

THREADS_PER_RANK = 1
"""Always one, at any world size: OpenBLAS gives other sums with two threads than with one."""


def limit_blas_threads(count: int = THREADS_PER_RANK) -> None:
    """Give this process ``count`` BLAS threads, whatever the environment says."""
    threadpool_limits(count)


def blas_description() -> str:
    """Name, version and kernel of the BLAS in use: part of what decides the bits."""
    libraries: list[dict[str, Any]] = [each for each in threadpool_info() if each.get("user_api") == "blas"]
    if not libraries:
        return "unknown BLAS"
    first = libraries[0]
    return " ".join(str(first[key]) for key in ("internal_api", "version", "architecture") if first.get(key))


def blas_threads() -> list[int]:
    """How many threads each BLAS library of this process has now; none where no BLAS is known."""
    return [int(each["num_threads"]) for each in threadpool_info() if each.get("user_api") == "blas"]

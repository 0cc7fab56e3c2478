"""BLAS threads: how many, and which BLAS it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import threadpool_info, threadpool_limits

from distcnn.errors import InputError
from distcnn.system.host import Cores, threads_for_each

THREADS_PER_RANK = 1
"""Unless the user says otherwise, and at any world size: OpenBLAS gives other sums with two threads
than with one.
"""
AUTO = "auto"

_threads = THREADS_PER_RANK
_lock = threading.Lock()
_users = 0
_before: threadpool_limits | None = None


def limit_blas_threads(count: int = THREADS_PER_RANK) -> None:
    """Give this process ``count`` BLAS threads, regardless of the environment.

    Raises:
        InputError: another thread of this process is training with another number.
    """
    global _threads
    with _lock:
        if _users > 1 and count != _threads:
            raise InputError(
                f"threads_per_rank is {count}, but another thread of this process trains with"
                f" {_threads}: give both the same number"
            )
        threadpool_limits(count)
        _threads = count


@contextmanager
def restored_blas_threads() -> Iterator[None]:
    """Restore the process's number of BLAS threads at the end, or at that of the last thread."""
    global _users, _before
    with _lock:
        _users += 1
        if _users == 1:
            _before = threadpool_limits(None)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0 and _before is not None:
                _before.restore_original_limits()


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

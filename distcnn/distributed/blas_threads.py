"""BLAS threads: how many, and which BLAS it is."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_info, threadpool_limits

from distcnn.errors import InputError

THREADS_PER_RANK = 1
"""At any world size: OpenBLAS gives other sums with two threads than with one."""
AUTO = "auto"

_threads = THREADS_PER_RANK
_lock = threading.Lock()
_users = 0
_before: threadpool_limits | None = None


def limit_blas_threads(count: int = THREADS_PER_RANK) -> None:
    """Set the BLAS threads; ``InputError`` when another thread trains with another number."""
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


def blas_thread_count() -> int:
    """How many this process was given."""
    return _threads


def blas_description() -> str:
    """Name, version and kernel of the BLAS in use: part of what decides the bits."""
    for library in threadpool_info():
        if library.get("user_api") == "blas":
            names = (library.get(key) for key in ("internal_api", "version", "architecture"))
            return " ".join(str(name) for name in names if name)
    return "unknown BLAS"

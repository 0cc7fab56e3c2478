"""Memory: the most that this process took so far, and the arrays that are held, by what they are
for.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from distcnn.training.setup import Run

NO_HOLDERS = (ModuleType, FunctionType, BuiltinFunctionType, MethodType, type, str, bytes)
"""Not looked into: they hold nothing of a run."""


def resident_bytes() -> int:
    """What this process has in memory now; where the system does not tell, the most it had."""
    return _from_proc("VmRSS") or _most()


def peak_bytes() -> int:
    """The most that this process has had in memory.

    On Linux ``ru_maxrss`` would not do: it survives exec, so a small program that a large one
    started inherits its starter's peak.
    """
    return _from_proc("VmHWM") or _most()


def _most() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _from_proc(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def memory_parts(run: Run, at_start: int, peak: int) -> dict[str, int]:
    """Bytes by purpose, which sum to ``peak``.

    Arrays are counted where they are held first: in the sum, else in this order; ``libraries`` is
    what the process took before any data were read, ``other`` whatever is left: what reading took
    and gave back, HDF5's and NumPy's caches, Python's objects.
    """
    seen: set[int] = set()
    step, network = run.step, run.network
    summed = array_bytes(
        [step.reduction], seen
    )  # first: a gradient that is kept there is not counted again
    parts = {
        "data": array_bytes([step.shards, run.evaluation.part, step.ledger], seen),
        "parameters, gradient, optimizer": array_bytes(
            [network.values, network.grads, step.optimizer], seen
        ),
        "sum": summed,
        "network buffers": array_bytes([network, step.timing.lanes, step.microbatch], seen),
        "libraries": at_start,
    }
    return parts | {"other": peak - sum(parts.values())}


def array_bytes(holders: Iterable[Any], seen: set[int]) -> int:
    """Bytes of all arrays that ``holders`` hold, however deep, each counted once; ``seen`` are
    those counted before.
    """
    return sum(array.nbytes for holder in holders for array in _owners(holder, seen))


def _owners(item: Any, seen: set[int]) -> Iterator[np.ndarray]:
    """The arrays that own the memory of what ``item`` holds and that are not ``seen`` yet."""
    if isinstance(item, np.ndarray):
        while isinstance(item.base, np.ndarray):
            item = item.base
    if item is None or isinstance(item, NO_HOLDERS) or id(item) in seen:
        return
    seen.add(id(item))
    if isinstance(item, np.ndarray):
        yield item
    elif isinstance(item, dict):
        for value in item.values():
            yield from _owners(value, seen)
    elif isinstance(item, (list, tuple, set)):
        for value in item:
            yield from _owners(value, seen)
    elif hasattr(item, "__dict__"):
        yield from _owners(vars(item), seen)

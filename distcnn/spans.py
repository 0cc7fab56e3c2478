"""Spans: the code marks what it does, and listeners record it.

    FORWARD = Span("forward", layer="conv1")        # once, where the work is planned
    with FORWARD:                                   # in every step
        ...

    with listening(recorder):                       # a benchmark, a trace, the watchdog
        train()

A span holds no state, so one object serves every step and every thread. Without a listener,
entering and leaving it costs about 0.1 microseconds. No code is replaced to measure it.

The names of a training run's spans are the constants below. One step nests like this, with the
labels of each span; with overlap, ``ALLREDUCE`` is on the thread that sums:

    STEP                                            step and epoch, from 0
        SHARD                                       shard; with overlap, one for each piece
            READ_DATA, LEDGER, FORWARD (layer), LOSS, BACKWARD (layer), LOCAL_SUM
        REDUCE                                      bucket, nbytes, is_last
            ALLREDUCE (bucket, nbytes), LOCAL_SUM (in shared memory)
        WAIT_FOR_SUMS                               with overlap
        SPOT_CHECK                                  in steps with a spot check
        UPDATE
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Protocol

# A step
STEP = "step"
SHARD = "shard"
READ_DATA = "read data"
LEDGER = "ledger"
FORWARD = "forward"
LOSS = "loss"
BACKWARD = "backward"
LOCAL_SUM = "local sum"
"""Adding gradients of this rank; in shared memory, of all ranks, for this rank's elements."""
REDUCE = "reduce"
"""From handing over a bucket until it is summed, unless another thread sums it."""
ALLREDUCE = "allreduce"
"""One sum over all ranks, on whichever thread."""
WAIT_FOR_SUMS = "wait for sums"
UPDATE = "update"
SPOT_CHECK = "spot check"
"""Repeating shards of other ranks, and comparing."""
# Between steps
EVALUATION = "evaluation"
"""Label ``split``; with ``weights``, which, unless they are the last."""
TEST_BLOCK = "test block"
"""Label ``block``, the number of the block of test examples."""
SUM_EVALUATION = "sum evaluation"
CLOSE_EPOCH = "close epoch"
COMPARE_WEIGHTS = "compare weights"
WRITE_METRICS = "write metrics"
WRITE_RECEIPT = "write receipt"
WRITE_RESULTS = "write results"
CHECKPOINT = "checkpoint"
"""Copying the state for a checkpoint, on the main thread."""
WAIT_FOR_CHECKPOINT = "wait for checkpoint"
WRITE_CHECKPOINT = "write checkpoint"
"""Writing it to disk, on a thread of its own."""
# Around the steps
READ_RUN = "read run"
PREPARE_DATA = "prepare data"
OPEN_DATA = "open data"
BUILD_NETWORK = "build network"
SURVEY_DATA = "survey data"
"""Reading and hashing all examples before the first step, piece by piece."""
COMPARE_RANKS = "compare ranks"
RESTORE = "restore"
CREATE_RUN = "create run"
DEBUG = "debug"
MEASURE = "measure"
# Anywhere
COLLECTIVE = "collective"
"""The main thread waits for the other ranks."""
PROGRESS = "progress"
"""See ``touch``."""
WAIT_FOR_WINDOW = "wait for window"
"""The main thread waits until examples are read (``--data-memory``)."""


class Listener(Protocol):
    """Called for spans of all threads, in the thread that enters them.

    Spans nest, and end in the reverse order of their beginnings. A listener that is added inside a
    span gets its end without its beginning. An exception of a listener ends the work.
    """

    def begin(self, span: Span) -> None: ...

    def end(self, span: Span) -> None: ...


class Span:
    """A piece of work: ``name`` is the activity, ``labels`` its object (a layer, a shard)."""

    __slots__ = ("labels", "name")

    def __init__(self, name: str, **labels: object) -> None:
        self.name, self.labels = name, labels

    def __repr__(self) -> str:
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.labels.items())])

    def __enter__(self) -> None:
        for listener, names in _listeners:
            if names is None or self.name in names:
                listener.begin(self)

    def __exit__(self, *error: object) -> None:
        for listener, names in reversed(_listeners):
            if names is None or self.name in names:
                listener.end(self)


_listeners: tuple[tuple[Listener, Container[str] | None], ...] = ()
_PROGRESS = Span(PROGRESS)


def touch() -> None:
    """Report progress of a long activity to listeners."""
    with _PROGRESS:
        pass


@contextmanager
def listening(listener: Listener, names: Container[str] | None = None) -> Iterator[None]:
    """Call ``listener`` for the spans inside this context, for those of some ``names`` or all."""
    global _listeners
    _listeners = (*_listeners, (listener, names))
    try:
        yield
    finally:
        _listeners = tuple(entry for entry in _listeners if entry[0] is not listener)

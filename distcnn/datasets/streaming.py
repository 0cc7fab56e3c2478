"""Data larger than memory: windows of each shard, read ahead by a thread.

Two windows of each shard are in memory: the one that steps take examples from, and the next one,
which a thread reads meanwhile. The length of a window depends on the memory limit, the image set
and the number of shards, never on the number of ranks: it is what a rank that owned all shards
could keep. So n ranks each need about 1/n of the limit, and train in the same order for any n.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.examples import ExampleReader, piece_size, pieces_of
from distcnn.datasets.hdf5 import Images, Labels
from distcnn.datasets.shards import Microbatch, Order, Stretch

SECONDS_TO_END = 10
PROGRESS_SECONDS = 0.5
"""How often a thread that waits for a window checks for progress of reading."""


class WindowedShard:
    """A ``Part`` like ``Shard``, but with only two windows of it in memory.

    ``fill`` and ``pieces`` raise ``InputError`` as ``ExampleReader.read``.

    Args:
        index: The shard's number.
        prefetcher: Reads the windows.
        split: "train" or "test".
        span: Its examples, as indices in the split.
        bounds: Where ``span`` is cut into windows: indices in it, [0, ..., n].
        seed: For the order of its examples.
        shuffled: False to keep the order of the file.
    """

    def __init__(
        self,
        index: int,
        prefetcher: Prefetcher,
        split: str,
        span: range,
        bounds: NDArray[np.int64],
        seed: int,
        shuffled: bool = True,
    ) -> None:
        self.index, self.first_example, self.examples = index, span.start, len(span)
        self._reader, self._split, self._span = prefetcher.reader, split, span
        self._order = Order(seed, index, bounds, shuffled)
        longest = int(np.diff(bounds).max(initial=0))
        self._current = _Window(prefetcher, split, longest)
        self._next = self._current if len(bounds) <= 2 else _Window(prefetcher, split, longest)

    def chosen(self, epoch: int, step_of_epoch: int, microbatch_size: int) -> NDArray[np.int64]:
        """See ``Part``."""
        first = step_of_epoch * microbatch_size
        return self._order.chosen(epoch, first, first + microbatch_size)

    def fill(self, microbatch: Microbatch, epoch: int, step_of_epoch: int) -> int:
        """See ``Part``. Waits for a window that has not been read yet."""
        first = step_of_epoch * microbatch.size
        return microbatch.fill_from(self._stretches(epoch, first, first + microbatch.size))

    def pieces(self, size: int | None = None) -> Iterator[tuple[Images, Labels]]:
        """See ``Part``. All pieces use one buffer: each is overwritten by the next."""
        longest = piece_size(self._reader.info, self._split, size or 1)
        images, labels = self._reader.empty(longest)
        for piece in pieces_of(self._span, longest):
            count = len(piece)
            self._reader.read(self._split, piece, images[:count], labels[:count])
            for start in range(0, count, size or count):
                part = slice(start, min(start + (size or count), count))
                yield images[part], labels[part]

    def _stretches(self, epoch: int, first: int, stop: int) -> Iterator[Stretch]:
        for position, chosen in self._order.stretches(epoch, first, stop):
            window = self._window(
                self._span_of(epoch, position), self._span_of(epoch, position + 1)
            )
            start = window.span.start - self.first_example
            yield Stretch(window.images, window.labels, start, chosen)

    def _span_of(self, epoch: int, position: int) -> range:
        window = self._order.window(epoch, position)
        return range(self.first_example + window.start, self.first_example + window.stop)

    def _window(self, span: range, following: range) -> _Window:
        """The window ``span``, valid until the next call. Starts to read the one after it."""
        if self._current.span != span:
            if self._next.span != span:
                self._next.load(span)
            self._current, self._next = self._next, self._current
        self._current.wait()
        if following not in (self._current.span, self._next.span):
            self._next.load(following)
        return self._current


class _Window:
    """A buffer for examples of ``split``; after ``load`` and ``wait`` it holds ``span``."""

    def __init__(self, prefetcher: Prefetcher, split: str, longest: int) -> None:
        self._prefetcher, self._split = prefetcher, split
        self.images, self.labels = prefetcher.reader.empty(longest)
        self.span = range(0)
        self._done: Future[None] | None = None

    def load(self, span: range) -> None:
        images, labels = self.images[: len(span)], self.labels[: len(span)]
        self.span, self._done = span, self._prefetcher.submit(self._split, span, images, labels)

    def wait(self) -> None:
        if self._done:
            self._prefetcher.wait_for(self._done)


class _Job(NamedTuple):
    split: str
    span: range
    images: Images
    labels: Labels
    done: Future[None]


class Prefetcher:
    """A thread that reads windows, one after the other. It ends with this object or the process.

    Args:
        reader: The image set.
        progress: Called by a waiting thread while reading makes progress.
        waiting: Entered by a thread while it waits for a window.
    """

    def __init__(
        self,
        reader: ExampleReader,
        progress: Callable[[], object] = lambda: None,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.reader, self._progress, self._waiting = reader, progress, waiting
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        ended = threading.Event()
        thread = threading.Thread(
            target=_work, args=(reader, self._jobs, ended), name="reader", daemon=True
        )
        thread.start()
        # The interpreter must not end while the thread is inside HDF5. The thread holds no
        # reference to this object, so that it can be collected.
        self._finalizer = weakref.finalize(self, _end, self._jobs, ended, thread)

    def submit(self, split: str, span: range, images: Images, labels: Labels) -> Future[None]:
        """Read the examples ``span`` into ``images`` and ``labels`` after all earlier jobs."""
        job = _Job(split, span, images, labels, Future())
        self._jobs.put(job)
        return job.done

    def wait_for(self, job: Future[None]) -> None:
        """Wait until the job is done. Raises ``InputError`` as ``ExampleReader.read``."""
        if not job.done():
            with self._waiting():
                reads = self.reader.reads
                while not wait([job], PROGRESS_SECONDS).done:
                    if self.reader.reads != reads:
                        reads = self.reader.reads
                        self._progress()
        job.result()

    def close(self) -> None:
        """End the thread; windows it has not read stay unread."""
        self._finalizer()


def _work(
    reader: ExampleReader, jobs: queue.SimpleQueue[_Job | None], ended: threading.Event
) -> None:
    while (job := jobs.get()) is not None and not ended.is_set():
        try:
            for _ in reader.read_in_pieces(job.split, job.span, job.images, job.labels):
                if ended.is_set():
                    return
        except BaseException as error:  # raised again by the thread that waits for these examples
            job.done.set_exception(error)
        else:
            job.done.set_result(None)
        del job  # frees the buffers while this thread waits


def _end(
    jobs: queue.SimpleQueue[_Job | None], ended: threading.Event, thread: threading.Thread
) -> None:
    ended.set()
    jobs.put(None)
    if thread is not threading.current_thread():
        thread.join(SECONDS_TO_END)

"""Data larger than memory: of each shard, the window that steps take examples from, and the next
one, which a thread reads meanwhile.

The length of a window depends on the memory limit, the image set and the number of shards, never on
the number of ranks: it is what a rank that owned all shards could keep.
"""

from __future__ import annotations

import math
import queue
import threading
import weakref
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.examples import ExampleReader, piece_size, pieces_of
from distcnn.datasets.hdf5 import DatasetInfo, Images, Labels
from distcnn.datasets.shards import Order, Part
from distcnn.errors import InputError
from distcnn.spans import WAIT_FOR_WINDOW, Span
from distcnn.system.wording import counted

MIB = 2**20
LABEL_BYTES = INDEX_BYTES = 8
LEDGER_BYTES = 2
"""Per training example, to count how often it was used."""
DRAWING_BYTES = 24
"""Per example of the one window whose order is being drawn."""
SECONDS_TO_END = 10


def window_examples(info: DatasetInfo, num_shards: int, memory_mib: float) -> int:
    """How many examples a window may hold: whole chunks of the training images, or a whole shard.

    Raises ``InputError`` when not even one chunk fits, with the least limit that works.
    """
    train = info.examples["train"]
    evaluated = [count for split, count in info.examples.items() if split != "train"]
    chunk, longest_shard = info.chunk_examples["train"], -(-train // num_shards)
    example = info.image_bytes + LABEL_BYTES
    # Independent of the window: the ledger, and in HDF5 one chunk as stored and as decoded.
    fixed = LEDGER_BYTES * train + 2 * info.image_bytes * max(info.chunk_examples.values())
    if len(info.held_out):  # their rows, and what is read around them
        fixed += INDEX_BYTES * len(info.held_out) + example * piece_size(info, "train")
    available = math.floor(memory_mib * MIB) - fixed
    everything = train * (example + INDEX_BYTES) + longest_shard * DRAWING_BYTES
    everything += sum(2 * min(longest_shard, count) * example for count in evaluated)
    if everything <= available:
        return longest_shard
    # Of each shard and of each evaluated split, the current window and the next one.
    per_example = (
        2 * example * (num_shards + len(evaluated)) + INDEX_BYTES * num_shards + DRAWING_BYTES
    )
    fitting = available // per_example
    least = min(chunk, longest_shard)
    if fitting < least:
        needed = math.ceil((fixed + least * per_example) / MIB * 10) / 10
        raise InputError(
            f"--data-memory is {memory_mib:g}: this image set needs at least {needed:g} MiB (two"
            f" windows of one chunk, {counted(chunk, 'image')}, for each of"
            f" {counted(num_shards, 'shard')}); raise it, write smaller chunks, or use fewer shards"
            " (--num-shards, which changes the bits)"
        )
    return fitting if fitting >= longest_shard else fitting // chunk * chunk


def window_bounds(span: range, length: int, chunk: int) -> NDArray[np.int64]:
    """Where ``span`` is cut into windows of at most ``length``: indices in it, [0, ..., n].

    Windows end where chunks of the file end, so that no chunk is read for two windows; windows
    shorter than a chunk end anywhere.
    """
    if len(span) <= length:
        return np.unique([0, len(span)])
    unit = chunk if length >= chunk else 1
    whole = length // unit * unit
    cuts = np.arange(span.start // unit * unit + whole, span.stop, whole) - span.start
    return np.concatenate([[0], cuts, [len(span)]])


class WindowedShard(Part):
    """A ``Part`` with only two windows of it in memory: the examples ``span`` of ``split``.

    ``bounds`` is what ``window_bounds`` returns. ``fill`` waits for a window that has not been read
    yet; it and ``pieces`` raise ``InputError`` as ``ExampleReader.read``.
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
        super().__init__(index, span.start, Order(seed, index, bounds, shuffled))
        self._prefetcher, self._split, self._span = prefetcher, split, span
        longest = int(np.diff(bounds).max(initial=0))
        self._current = _Window(split, *prefetcher.reader.empty(longest))
        self._next = self._current
        if len(bounds) > 2:
            self._next = _Window(split, *prefetcher.reader.empty(longest))

    def window(self, epoch: int, position: int) -> tuple[Images, Labels, int]:
        """See ``Part``: valid until the next call. Starts to read the next window."""
        place, next_place = (self._order.window(epoch, position + i) for i in range(2))
        span = self._span[place.start : place.stop]
        following = self._span[next_place.start : next_place.stop]
        if self._current.span != span:
            if self._next.span != span:
                self._prefetcher.load(self._next, span)
            self._current, self._next = self._next, self._current
        self._current.wait()
        if following not in (self._current.span, self._next.span):
            self._prefetcher.load(self._next, following)
        return self._current.images, self._current.labels, place.start

    def pieces(self, size: int) -> Iterator[tuple[Images, Labels]]:
        """See ``Part``. Each piece is overwritten by the next."""
        reader = self._prefetcher.reader
        images, labels = reader.empty(size)
        for piece in pieces_of(self._span, size):
            part = slice(len(piece))
            reader.read(self._split, piece, images[part], labels[part])
            yield images[part], labels[part]


class _Window:
    """Buffers for examples of ``split``; once ``done`` is set they hold those of ``span``."""

    def __init__(self, split: str, images: Images, labels: Labels) -> None:
        self.split, self.images, self.labels = split, images, labels
        self.span = range(0)
        self.error: BaseException | None = None
        self.done = threading.Event()
        self.done.set()

    def wait(self) -> None:
        if not self.done.is_set():
            with Span(WAIT_FOR_WINDOW):
                self.done.wait()
        if self.error:
            raise self.error


Jobs = queue.SimpleQueue[_Window | None]


class Prefetcher:
    """A thread that reads windows, one after the other. It ends with this object or the process."""

    def __init__(self, reader: ExampleReader) -> None:
        self.reader = reader
        self._jobs: Jobs = queue.SimpleQueue()
        ended = threading.Event()
        thread = threading.Thread(
            target=_work, args=(reader, self._jobs, ended), name="reader", daemon=True
        )
        thread.start()
        # The interpreter must not end while the thread is inside HDF5. The thread holds no
        # reference to this object, so that it can be collected.
        self._finalizer = weakref.finalize(self, _end, self._jobs, ended, thread)

    def load(self, window: _Window, span: range) -> None:
        """Read the examples ``span`` into ``window``, after all that was asked for before."""
        window.done.wait()
        window.done.clear()
        window.span, window.error = span, None
        self._jobs.put(window)

    def close(self) -> None:
        """End the thread; windows it has not read stay unread."""
        self._finalizer()


def _work(reader: ExampleReader, jobs: Jobs, ended: threading.Event) -> None:
    while (window := jobs.get()) is not None and not ended.is_set():
        try:
            count = len(window.span)
            images, labels = window.images[:count], window.labels[:count]
            for _ in reader.read_in_pieces(window.split, window.span, images, labels):
                if ended.is_set():
                    return
        except BaseException as error:  # raised again by the thread that waits for these examples
            window.error = error
        window.done.set()
        del window, images, labels  # frees the buffers while this thread waits


def _end(jobs: Jobs, ended: threading.Event, thread: threading.Thread) -> None:
    ended.set()
    jobs.put(None)
    if thread is not threading.current_thread():
        thread.join(SECONDS_TO_END)

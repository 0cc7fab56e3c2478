"""Reading ahead: one thread of a rank fills the next windows while the steps compute."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from distcnn.datasets.examples import ExampleReader
from distcnn.datasets.hdf5 import Images, Labels

SECONDS_TO_END = 10
SECONDS_TO_LOOK = 0.5
"""How often whoever waits for a window looks whether reading makes progress."""


@dataclass(frozen=True)
class Job:
    """Examples ``span`` of ``split``, to be read into ``images`` and ``labels`` of as many."""

    split: str
    span: range
    images: Images
    labels: Labels
    done: Future[None]


class Reader:
    """A thread that reads one job after the other. It ends with this object, or with the process.

    ``waiting`` is entered, in the thread that waits for a job, while it waits; ``progress`` is
    called there while reading makes progress.
    """

    def __init__(
        self,
        file: ExampleReader,
        progress: Callable[[], object] = lambda: None,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.file, self._progress, self._waiting = file, progress, waiting
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        ended = threading.Event()
        thread = threading.Thread(
            target=_work, args=(file, self._jobs, ended), name="reader", daemon=True
        )
        thread.start()
        # The interpreter must not go while HDF5 works in the thread; and the thread must not keep
        # this object.
        self._finalizer = weakref.finalize(self, _end, self._jobs, ended, thread)

    def submit(self, split: str, span: range, images: Images, labels: Labels) -> Future[None]:
        """Read when those before it are read.

        Its result is None, or raises ``InputError`` as ``read_examples``.
        """
        job = Job(split, span, images, labels, Future())
        self._jobs.put(job)
        return job.done

    def wait_for(self, job: Future[None]) -> None:
        """Until the job is done. ``InputError`` when it could not be."""
        if not job.done():
            with self._waiting():
                self._wait_for(job)
        job.result()

    def _wait_for(self, job: Future[None]) -> None:
        seen = self.file.reads
        while not wait([job], SECONDS_TO_LOOK).done:
            if self.file.reads != seen:
                seen = self.file.reads
                self._progress()

    def close(self) -> None:
        """End the thread; what it has not read stays unread."""
        self._finalizer()


def _work(file: ExampleReader, jobs: queue.SimpleQueue[Job | None], ended: threading.Event) -> None:
    while (job := jobs.get()) is not None and not ended.is_set():
        try:
            for _ in file.read_in_pieces(job.split, job.span, job.images, job.labels):
                if ended.is_set():
                    return
        except (
            BaseException
        ) as error:  # whatever it is, the main thread raises it where it wants these examples
            job.done.set_exception(error)
        else:
            job.done.set_result(None)
        del job  # and with it the buffers, while the thread waits


def _end(
    jobs: queue.SimpleQueue[Job | None], ended: threading.Event, thread: threading.Thread
) -> None:
    ended.set()
    jobs.put(None)
    if thread is not threading.current_thread():
        thread.join(SECONDS_TO_END)


class Window:
    """A buffer for examples of ``split``: after ``load`` and ``wait`` those of ``span``."""

    def __init__(self, reader: Reader, split: str, longest: int) -> None:
        self._reader, self._split = reader, split
        self.images, self.labels = reader.file.empty(longest)
        self.span = range(0)
        self._done: Future[None] | None = None

    def load(self, span: range) -> None:
        """Begin to read the examples ``span``; those of before are lost."""
        self.span = span
        self._done = self._reader.submit(
            self._split, span, self.images[: len(span)], self.labels[: len(span)]
        )

    def wait(self) -> None:
        """Until they are here. ``InputError`` when they cannot be read."""
        if self._done:
            self._reader.wait_for(self._done)


class Windows:
    """Two windows of one run of examples, of at most ``longest``: the one in use and the one that
    is being read.
    """

    def __init__(self, reader: Reader, split: str, longest: int, only_one: bool) -> None:
        self._now = Window(reader, split, longest)
        self._next = self._now if only_one else Window(reader, split, longest)

    def get(self, span: range, then: range) -> Window:
        """The window ``span``, valid until the next call; ``then`` is the one that will be wanted
        after it.
        """
        if self._now.span != span:
            if self._next.span != span:
                self._next.load(span)
            self._now, self._next = self._next, self._now
        self._now.wait()
        if then not in (self._now.span, self._next.span):
            self._next.load(then)
        return self._now

"""Writes checkpoints while training goes on: a thread encodes, writes and syncs a copy."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

from distcnn.checkpoints.format import Checkpoint
from distcnn.checkpoints.store import CheckpointStore
from distcnn.spans import WRITE_CHECKPOINT, Span

MOST_DELETED = 2
"""How many older checkpoints may be deleted for one file, which may be slightly larger."""


class CheckpointWriter:
    """Writes one checkpoint at a time; one that cannot be written is reported, training goes on.

    On a full disk older checkpoints make room for the new one, but never the latest or
    the best.
    """

    def __init__(self, store: CheckpointStore, keep: int, report: Callable[[str], None]) -> None:
        self._store, self._keep, self._report = store, keep, report
        self._thread: threading.Thread | None = None
        self._step = -1
        self._problem: BaseException | None = None
        self._may_delete = True
        self.last_step = max(store.steps(), default=-1)
        """The latest step on the disk; -1 for none."""

    def submit(self, step: int, checkpoint: Checkpoint, best_step: int | None) -> None:
        """Begin to write ``checkpoint``, whose arrays must not change any more.

        Waits for the one before it.
        """
        self.wait()
        self._step = step
        self._thread = threading.Thread(
            target=self._write, args=(step, checkpoint, best_step), name="checkpoint", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:  # the system refuses another thread: training waits
            self._write(step, checkpoint, best_step)

    def move_to(self, store: CheckpointStore) -> None:
        """Write to ``store`` from now on.

        Its folder may have been removed, with all that was written.
        """
        self.wait()
        self._store = store
        if self.last_step not in store.steps():
            self.last_step = max(store.steps(), default=-1)

    def poll(self) -> None:
        """Report the outcome of the last one, if it is done."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Wait for the last one and report its outcome.

        Errors other than ``OSError`` are defects and are raised.
        """
        if self._thread is None:
            return
        if self._thread.ident is not None:
            self._thread.join()
        self._thread, problem, self._problem = None, self._problem, None
        if isinstance(problem, OSError):
            kept = (
                f"the last complete one is {self._store.path_of(self.last_step)}"
                if self.last_step >= 0
                else "no checkpoint exists yet"
            )
            self._report(
                f"warning: checkpoint of step {self._step} not written ({problem.strerror}):"
                f" {kept}; training continues"
            )
        elif problem is not None:
            raise problem

    def _write(self, step: int, checkpoint: Checkpoint, best_step: int | None) -> None:
        try:
            self._save(step, checkpoint, best_step)
            self.last_step = step
            self._store.prune(step, self._keep, best_step)
        except BaseException as error:
            self._problem = error

    def _save(self, step: int, checkpoint: Checkpoint, best_step: int | None) -> None:
        """Save it; on a full disk delete older ones first, unless other programs take the space."""
        may_delete, self._may_delete = self._may_delete, False
        with Span(WRITE_CHECKPOINT, step=step):
            with_room(
                lambda: self._store.save(step, checkpoint),
                lambda: may_delete and self._store.make_room(step, best_step),
            )
        self._may_delete = True


def with_room(write: Callable[[], object], make_room: Callable[[], bool]) -> None:
    """Call ``write``; on a full disk retry as long as ``make_room`` succeeds.

    ``OSError`` when it fails.
    """
    for attempt in range(1 + MOST_DELETED):
        try:
            write()
            return
        except OSError as error:
            if (
                error.errno not in (errno.ENOSPC, errno.EDQUOT)
                or attempt == MOST_DELETED
                or not make_room()
            ):
                raise

"""Writes checkpoints while training goes on: a thread encodes, writes and syncs a copy."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from contextlib import suppress

from distcnn.checkpoints.format import Checkpoint
from distcnn.checkpoints.store import CheckpointStore
from distcnn.errors import InputError
from distcnn.spans import WRITE_CHECKPOINT, Span

MOST_DELETED = 2
"""How many older checkpoints, neither the latest nor the best, make room for a file."""
DISK_IS_FULL = errno.ENOSPC, errno.EDQUOT


class CheckpointWriter:
    """Writes one checkpoint at a time to the store that ``locate`` finds; reports failures."""

    def __init__(
        self, locate: Callable[[], CheckpointStore], keep: int, report: Callable[[str], None]
    ) -> None:
        self._locate, self._keep, self._report = locate, keep, report
        self._store = locate()
        self._thread: threading.Thread | None = None
        self._defect: BaseException | None = None
        self._may_delete = True
        self.last_step = max(self._store.steps(), default=-1)
        """The latest step on the disk; -1 for none."""

    def submit(self, step: int, checkpoint: Checkpoint, best_step: int | None) -> None:
        """Wait for the one before, then begin to write this one, whose arrays must not change."""
        self.wait()
        self._thread = threading.Thread(
            target=self._write, args=(step, checkpoint, best_step), name="checkpoint", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:  # the system refuses another thread: training waits
            self._thread = None
            self._write(step, checkpoint, best_step)

    def wait(self) -> None:
        """Wait for the last one; raise an error in writing it that is a defect."""
        if self._thread is not None:
            self._thread.join()
        self._thread, defect, self._defect = None, self._defect, None
        with suppress(OSError, InputError):  # if it is gone, writing to it is reported
            self._store = self._locate()
            if self.last_step not in self._store.steps():
                self.last_step = max(self._store.steps(), default=-1)
        if defect is not None:
            raise defect

    def _write(self, step: int, checkpoint: Checkpoint, best_step: int | None) -> None:
        # Without success, the next one deletes nothing: other programs take the space.
        may_delete, self._may_delete = self._may_delete, False
        try:
            with Span(WRITE_CHECKPOINT, step=step):
                with_room(
                    lambda: self._store.save(step, checkpoint),
                    lambda: may_delete and self._store.make_room(step, best_step),
                )
            self.last_step, self._may_delete = step, True
            while self._store.make_room(step, best_step, self._keep):
                pass
        except OSError as error:
            kept = "no checkpoint exists yet"
            if self.last_step >= 0:
                kept = f"the last complete one is {self._store.path_of(self.last_step)}"
            self._report(
                f"warning: checkpoint of step {step} not written ({error.strerror}): {kept};"
                " training continues"
            )
        except BaseException as error:
            self._defect = error


def with_room(write: Callable[[], object], make_room: Callable[[], bool]) -> None:
    """Call ``write``; on a full disk again, as often as ``make_room`` deletes a checkpoint."""
    for _ in range(MOST_DELETED):
        try:
            write()
            return
        except OSError as error:
            if error.errno not in DISK_IS_FULL or not make_room():
                raise
    write()

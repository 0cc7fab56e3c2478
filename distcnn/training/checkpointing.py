"""When and how a run is saved: collective on all ranks, written by root in the background."""

from __future__ import annotations

from contextlib import suppress

from distcnn.checkpoints import CheckpointStore, CheckpointWriter
from distcnn.errors import InputError
from distcnn.spans import CHECKPOINT, WAIT_FOR_CHECKPOINT, Span
from distcnn.training.ledger import all_entries
from distcnn.training.progress import Progress
from distcnn.training.run_directory import CHECKPOINTS, RunDirectory
from distcnn.training.setup import Run
from distcnn.training.snapshot import take_snapshot
from distcnn.training.state import State


class Saving:
    """Saves ``run``; ``directory`` is root's, None on the other ranks."""

    def __init__(self, run: Run, directory: RunDirectory | None, progress: Progress) -> None:
        self._run, self._directory = run, directory
        self.every = run.config.checkpoint_every
        if directory is not None:
            self._writer = CheckpointWriter(
                CheckpointStore(directory.path / CHECKPOINTS), run.config.keep, progress.say
            )

    @property
    def location(self) -> str:
        """The run directory, on root; elsewhere empty."""
        return str(self._directory.path) if self._directory else ""

    def save(self, state: State) -> None:
        """Copy the state on root and begin to write it. Collective."""
        with Span(CHECKPOINT, step=state.step):
            self._copy_and_submit(state)

    def _copy_and_submit(self, state: State) -> None:
        run = self._run
        entries = all_entries(run.step.ledger, run.communicator, run.config.num_shards)
        if self._directory is not None:
            snapshot = take_snapshot(
                run, state, entries, self._directory.metrics.text, self._directory.receipt.text
            )
            if state.best_step == state.step:
                self._directory.best = state.step, snapshot.folder("weights")
            self._follow(self._directory)
            self._writer.submit(state.step, snapshot, state.best_step)

    def poll(self) -> None:
        """Say what came of the last save, if it is over."""
        if self._directory is not None:
            self._writer.poll()

    def wait(self) -> int:
        """Wait until all is written; the newest step on the disk, -1 for none.

        The same on all ranks.
        """
        newest = -1
        with Span(WAIT_FOR_CHECKPOINT):
            if self._directory is not None:
                self._writer.wait()
                self._follow(self._directory)
                newest = self._writer.last_step
            return self._run.communicator.broadcast(newest)

    def _follow(self, directory: RunDirectory) -> None:
        """Write to where the run directory is now."""
        with suppress(
            OSError, InputError
        ):  # it is gone for good: the writer says that it cannot write
            self._writer.move_to(CheckpointStore(directory.locate() / CHECKPOINTS))


class NoSaving:
    """For a replay, which writes nothing."""

    every, location = 0, ""

    def save(self, state: State) -> None:
        """Keep nothing."""

    def poll(self) -> None:
        """Nothing to say."""

    def wait(self) -> int:
        return -1

"""When and how a run is saved: collective on all ranks, written by root in the background."""

from __future__ import annotations

from distcnn.checkpoints import CheckpointStore, CheckpointWriter
from distcnn.faults.pulse import Activity, pulse
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
        self.location = str(directory.path) if directory else ""
        if directory is not None:
            self._store = CheckpointStore(directory.path / CHECKPOINTS)
            self._writer = CheckpointWriter(self._store, run.config.keep, progress.say)

    def save(self, state: State) -> None:
        """Copy the state on root and begin to write it. Collective."""
        run = self._run
        pulse.beat(Activity.SAVING)
        entries = all_entries(run.step.ledger, run.communicator, run.config.num_shards)
        if self._directory is not None:
            snapshot = take_snapshot(run, state, entries, self._directory.metrics.text, self._directory.receipt.text)
            self._writer.submit(state.step, snapshot, state.best_step)

    def poll(self) -> None:
        """Say what came of the last save, if it is over."""
        if self._directory is not None:
            self._writer.poll()

    def wait(self) -> int:
        """Wait until all is written; the newest step on the disk, -1 for none. The same on all ranks."""
        newest = -1
        pulse.beat(Activity.SAVING)
        if self._directory is not None:
            self._writer.wait()
            newest = self._writer.last_step
        return self._run.communicator.broadcast(newest)


class NoSaving:
    """For a replay, which writes nothing."""

    every, location = 0, ""

    def save(self, state: State) -> None:
        """Keep nothing."""

    def poll(self) -> None:
        """Nothing to say."""

    def wait(self) -> int:
        return -1

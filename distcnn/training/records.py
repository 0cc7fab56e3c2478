"""What the loop leaves behind: lines, comparisons of the replicas, checkpoints, and their time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from distcnn import spans
from distcnn.distributed import on_root
from distcnn.spans import Span
from distcnn.training import ending
from distcnn.training.checkpointing import RunRecorder
from distcnn.training.consistency import compare_replicas, params_sha256
from distcnn.training.ledger import all_entries
from distcnn.training.results import RunResult
from distcnn.training.setup import Run
from distcnn.training.state import Meter, State


class Records:
    """Records a run through its ``recorder``; every method is collective."""

    def __init__(self, run: Run, state: State, recorder: RunRecorder) -> None:
        self.run, self.state, self.recorder = run, state, recorder
        self._counted_until = time.perf_counter()

    # -- lines

    def add_metrics(self, kind: str, meter: Meter, values: dict[str, Any]) -> dict[str, Any]:
        """Record a line of metrics, which is returned."""
        values = {"step": self.state.step, **values}
        values["images_per_second"] = round(meter.images_per_second, 1)
        with Span(spans.WRITE_METRICS):
            self.recorder.add_metrics(kind, **values)
        return values

    def add_receipt(self, kind: str, **values: Any) -> None:
        """Record a line of the receipt."""
        with Span(spans.WRITE_RECEIPT):
            self.recorder.add_receipt(kind, self.state.step, **values)

    def add_end(self) -> None:
        """The receipt's last line."""
        self.add_receipt("end", params_sha256=params_sha256(self.run.parameters))

    def check_replicas(self) -> None:
        """Compare the replicas, and record their hashes."""
        with self.timed():
            parameters = self._compare_replicas()
            sha256 = params_sha256(self.run.parameters)
            self.add_receipt("weights", params_sha256=sha256, parameters=parameters)

    def _compare_replicas(self) -> dict[str, str]:
        run, step = self.run, self.state.step
        with Span(spans.COMPARE_WEIGHTS):
            return compare_replicas(
                run.parameters, run.training_step.updater, run.communicator, step
            )

    # -- time

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of this block as bookkeeping."""
        start = time.perf_counter()
        yield
        self.state.safety_seconds += time.perf_counter() - start

    def count_time(self) -> None:
        """Add the time since the last call to the run's."""
        now = time.perf_counter()
        self.state.run_seconds += now - self._counted_until
        self._counted_until = now

    # -- checkpoints

    def compare_and_save(self) -> None:
        """Begin a checkpoint at any step; the replicas are compared unless that was just done."""
        self.count_time()
        state = self.state
        if state.step % self.run.config.check_every or state.epoch_end_pending:
            self._compare_replicas()
        self.save()

    def save(self) -> None:
        """Begin a checkpoint: it is written in the background."""
        run, state = self.run, self.state
        with Span(spans.CHECKPOINT, step=state.step):
            entries = all_entries(run.training_step.ledger, run.communicator, run.config.num_shards)
            self.recorder.save(run, state, entries)

    def wait(self) -> int:
        """Wait for the last checkpoint; the step of the latest on the disk, -1 for none."""
        with Span(spans.WAIT_FOR_CHECKPOINT):
            return self.run.communicator.broadcast(self.recorder.wait())

    def save_and_wait(self, world_size: int) -> tuple[str, str]:
        """Save and wait; what is on the disk as text, and the command that continues from it."""
        self.compare_and_save()
        newest = self.wait()
        directory = self.run.communicator.broadcast(self.recorder.location)
        if not directory:
            return "nothing is saved, because the run has no directory", ""
        command = ending.resume_command(self.run, str(directory), world_size)
        return ending.checkpoint_found(newest, self.state.step), command

    def after_fault(self, suspects: Sequence[int]) -> str:
        """How to continue without the hosts of these ranks, from the latest checkpoint: lines that
        follow an error, none if the run has no directory.
        """
        run, communicator = self.run, self.run.communicator
        newest, directory = self.wait(), communicator.broadcast(self.recorder.location)
        if not directory:
            return ""
        wrong = list(dict.fromkeys(communicator.hosts[rank] for rank in suspects))
        left = sum(host not in wrong for host in communicator.hosts)
        found = f"the latest checkpoint is of step {newest}" if newest >= 0 else "no checkpoint yet"
        lines = [f"no update was made; {found}"]
        if run.config.spot_check < 1:
            command = ending.verify_command(run, str(directory))
            lines[0] += (
                f"; steps before it were checked in part: replay them elsewhere with: {command}"
            )
        where = f"exclude host {wrong[0]}"
        if len(wrong) > 1 or not left:
            where = f"use other hosts than {' and '.join(wrong)}"
        command = ending.resume_command(run, str(directory), left or communicator.world_size)
        return "\n".join(["", *lines, f"{where}, and continue with: {command}"])

    def finish(self) -> tuple[RunResult, str]:
        """Record the end of the run; its result, and a warning if it cannot be continued there."""
        run, step = self.run, self.state.step
        with self.timed():
            newest = self.wait()
            if newest != step:  # the disk was full, or the run directory removed
                self.save()
                newest = self.wait()
        self.add_end()
        result = ending.make_result(run, self.state)
        sha256 = run.communicator.broadcast(self.recorder.receipt_sha256)
        result = replace(result, receipt_sha256=sha256)
        with Span(spans.WRITE_RESULTS):
            on_root(run.communicator, lambda: self.recorder.finish(run.parameters, result))
        if self.recorder.location is None or newest == step:
            return result, ""
        return result, (
            f"warning: {ending.checkpoint_found(newest, step)}, although the run ended at step"
            f" {step}: it cannot be continued from its end"
        )

"""The loop: steps, and after them evaluation, metrics, receipt and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from distcnn import spans
from distcnn.config import Config
from distcnn.distributed import Totals, on_root
from distcnn.errors import Stopped, TrainingError
from distcnn.spans import Span
from distcnn.system.wording import duration
from distcnn.training import ending
from distcnn.training.advice import advice_on, sign_of_no_learning, zero_gradients
from distcnn.training.callbacks import Callbacks
from distcnn.training.checkpointing import RunRecorder
from distcnn.training.consistency import compare_replicas, params_sha256
from distcnn.training.evaluation import EvaluationStopped
from distcnn.training.failures import EvaluationFailure, ShardFailure
from distcnn.training.ledger import all_entries, close_epoch
from distcnn.training.progress import NoProgress, Progress
from distcnn.training.results import RunResult
from distcnn.training.setup import Run
from distcnn.training.state import Meter, State


class Loop:
    """Takes a run from ``state``, which it updates, onward; every method is collective.

    By default nothing is recorded or shown.
    """

    def __init__(
        self,
        run: Run,
        state: State,
        recorder: RunRecorder | None = None,
        progress: Progress | None = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        self.run, self.state = run, state
        self._recorder, self._progress = recorder or RunRecorder(), progress or NoProgress()
        self._callbacks = callbacks or Callbacks((), run.communicator)
        self._totals: Totals | None = None
        self.last_loss = 0.0
        """The mean loss of the latest step."""
        self._has_warned = False
        self._counted_until = time.perf_counter()
        self._epoch_begun = self._counted_until - state.epoch.seconds
        """When the epoch began; of a resumed one, its steps' time before this process."""

    @property
    def is_over(self) -> bool:
        """Whether the run ends here: all steps were taken, or the target is reached."""
        all_taken = self.state.step == self.run.schedule.total_steps
        return all_taken or self.state.reaches(self.run.config.target_accuracy)

    def train(self) -> RunResult:
        """Train to the end; record and return the result, on all ranks the same but for times.

        The state is saved before ``Stopped`` (by a signal) or ``TrainingError``.
        """
        run, state = self.run, self.state
        try:
            self.go_to(run.schedule.total_steps)
        except (ShardFailure, EvaluationFailure) as failure:
            where = f"--break-at-step {state.step}"
            if isinstance(failure, ShardFailure):
                where += f" --shard {failure.shard}"
            raise TrainingError(f"{failure}\n{self._save_for_replay(where)}") from failure
        with self._timed():
            newest = self._wait_for_checkpoint()
            if newest != state.step:  # the disk was full, or the run directory removed
                self._save()
                newest = self._wait_for_checkpoint()
        self.add_end()
        result = ending.make_result(run, state)
        with Span(spans.WRITE_RESULTS):
            on_root(run.communicator, lambda: self._recorder.finish(run.parameters, result))
        if self._recorder.location and newest < state.step:
            self._progress.say(
                f"warning: {ending.checkpoint_found(newest, state.step)}, although the run ended at"
                f" step {state.step}: it cannot be continued from its end"
            )
        return result

    def add_end(self) -> None:
        """The receipt's last line."""
        self._add_receipt("end", params_sha256=params_sha256(self.run.parameters))

    def change_config(self, config: Config) -> None:
        """Continue with ``config``, as after a resume: only fields of ``FREE`` may differ."""
        self.run.config = config

    def go_to(self, last_step: int, end_epoch: bool = True) -> None:
        """Take steps until ``last_step`` steps were taken in all, or the run ends.

        Each epoch's end is included, the last one's with ``end_epoch``.
        """
        state = self.state
        self._note_shortened_run()
        while True:
            if state.epoch_end_pending and (end_epoch or state.step < last_step):
                self._end_epoch()
            if state.step >= last_step or self.is_over:
                return
            if self._take_step().stops:
                self._stop()
            every = self.run.config.checkpoint_every
            if every and state.step % every == 0 and not state.epoch_end_pending:
                with self._timed():
                    self._compare_and_save()

    # -- steps

    def _note_shortened_run(self) -> None:
        """After a resume with fewer steps to take, the run may end here, in an untested state."""
        state = self.state
        if state.step == self.run.schedule.total_steps and state.test_step != state.step:
            if state.interval.examples:
                self._log_interval()
            state.epoch_end_pending = True

    def _take_step(self) -> Totals:
        """One step, with its lines of metrics and receipt."""
        run, state, config = self.run, self.state, self.run.config
        schedule = run.schedule
        epoch, step_of_epoch = divmod(state.step, schedule.steps_an_epoch)
        if step_of_epoch == 0:
            state.epoch, self._epoch_begun = Meter(), time.perf_counter()
            run.training_step.ledger.begin()
        learning_rate = schedule.learning_rate(state.step)
        start = time.perf_counter()
        totals = self._totals = run.training_step(state.step, epoch, step_of_epoch, learning_rate)
        seconds = time.perf_counter() - start
        for meter in (state.whole, state.epoch, state.interval):
            meter.add(totals, seconds)
        self.last_loss = totals.loss
        self._progress.step(totals.loss, state.interval.images_per_second)
        state.step += 1
        self._callbacks.call("on_step", state.step, totals.loss)
        at_end = state.step == schedule.total_steps
        state.epoch_end_pending = at_end or state.step % schedule.steps_an_epoch == 0
        if state.step % config.log_every == 0 or state.epoch_end_pending:
            self._log_interval()
        if state.step % config.check_every == 0 and not state.epoch_end_pending:
            self._check_replicas()
        return totals

    def _log_interval(self) -> None:
        state, meter, schedule = self.state, self.state.interval, self.run.schedule
        epoch, rate = schedule.position(state.step)[0] + 1, schedule.learning_rate(state.step - 1)
        values = {"epoch": epoch, "loss": meter.loss, "learning_rate": rate}
        self._callbacks.call("on_log", self._add_metrics("step", meter, values))
        self._progress.interval(
            f"step {state.step}/{schedule.total_steps}  epoch {epoch}/{self.run.config.epochs}"
            f"  loss {meter.loss:.4f}  learning rate {rate:.4g}"
            f"  {meter.images_per_second:,.0f} images/s"
        )
        state.interval = Meter()

    def _check_replicas(self) -> None:
        with self._timed():
            parameters = self._compare_replicas()
            sha256 = params_sha256(self.run.parameters)
            self._add_receipt("weights", params_sha256=sha256, parameters=parameters)

    def _compare_replicas(self) -> dict[str, str]:
        run, step = self.run, self.state.step
        with Span(spans.COMPARE_WEIGHTS):
            return compare_replicas(
                run.parameters, run.training_step.updater, run.communicator, step
            )

    # -- epochs

    def _end_epoch(self) -> None:
        """Close an epoch, or the part of one that ends the run: ledger, test, lines, checkpoint."""
        run, state, meter = self.run, self.state, self.state.epoch
        epochs_before, step_of_epoch = run.schedule.position(state.step)
        epoch, accuracy = epochs_before + 1, meter.correct / meter.examples
        values = {"epoch": epoch, "train_loss": meter.loss, "train_accuracy": accuracy}
        proof: dict[str, Any] = {"examples": meter.examples}
        if step_of_epoch == run.schedule.steps_an_epoch:
            with self._timed(), Span(spans.CLOSE_EPOCH):
                shards, examples = run.config.num_shards, run.dataset.examples["train"]
                order = close_epoch(
                    run.training_step.ledger, run.communicator, shards, epoch, examples
                )
                proof["order_sha256"] = order
        text = f"epoch {epoch}: train loss {meter.loss:.4f}"
        last, every = state.step == run.schedule.total_steps, run.config.eval_every_epochs
        if last or (every and epoch % every == 0):
            start = time.perf_counter()
            try:
                test = run.evaluation()
            except EvaluationStopped:
                self._stop()  # before any line of this epoch: the resumed run does all of it
            state.test_seconds += time.perf_counter() - start
            state.note_test(test)
            accuracy = test.correct / test.examples
            values |= {"test_loss": test.loss, "test_accuracy": accuracy}
            proof |= {"test_examples": test.examples, "test_correct": test.correct}
            text += (
                f", test loss {test.loss:.4f}, test accuracy {accuracy:.4f}"
                f" ({test.correct} of {test.examples})"
            )
        self._count_time()
        self._callbacks.call("on_epoch", self._add_metrics("epoch", meter, values))
        self._check_replicas()
        self._add_receipt("epoch", **values, **proof)
        self._progress.say(
            f"{text}, {meter.images_per_second:,.0f} images/s,"
            f" took {duration(time.perf_counter() - self._epoch_begun)}"
        )
        self._warn_if_nothing_is_learned(epoch, last)
        state.epoch_end_pending = False
        with self._timed():
            self._save()

    def _warn_if_nothing_is_learned(self, epoch: int, last: bool) -> None:
        run, state = self.run, self.state
        predicted = run.evaluation.predicted if state.test_step == state.step else None
        classes = run.dataset.classes
        sign = sign_of_no_learning(run.config.loss, state.epoch.loss, predicted, classes, epoch)
        if sign and (last or not self._has_warned):
            self._has_warned = True
            gradient = run.training_step.reducer.gradient
            gradients = run.parameters.named(gradient) if self._totals else {}
            remedy = advice_on(zero_gradients(gradients))
            self._progress.say(f"warning: after epoch {epoch}, {sign}: {remedy}")

    # -- lines

    def _add_metrics(self, kind: str, meter: Meter, values: dict[str, Any]) -> dict[str, Any]:
        """Record a line of metrics, which is returned."""
        values = {"step": self.state.step, **values}
        values["images_per_second"] = round(meter.images_per_second, 1)
        with Span(spans.WRITE_METRICS):
            self._recorder.add_metrics(kind, **values)
        return values

    def _add_receipt(self, kind: str, **values: Any) -> None:
        with Span(spans.WRITE_RECEIPT):
            self._recorder.add_receipt(kind, self.state.step, **values)

    # -- time and checkpoints

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Count the time of this block as bookkeeping."""
        start = time.perf_counter()
        yield
        self.state.safety_seconds += time.perf_counter() - start

    def _count_time(self) -> None:
        now = time.perf_counter()
        self.state.run_seconds += now - self._counted_until
        self._counted_until = now

    def _compare_and_save(self) -> None:
        """Begin a checkpoint at any step; the replicas are compared unless that was just done."""
        self._count_time()
        state = self.state
        if state.step % self.run.config.check_every or state.epoch_end_pending:
            self._compare_replicas()
        self._save()

    def _save(self) -> None:
        """Begin a checkpoint: it is written in the background."""
        run, state = self.run, self.state
        with Span(spans.CHECKPOINT, step=state.step):
            entries = all_entries(run.training_step.ledger, run.communicator, run.config.num_shards)
            self._recorder.save(run, state, entries)

    def _wait_for_checkpoint(self) -> int:
        """Wait for the last checkpoint; the step of the latest on the disk, -1 for none."""
        with Span(spans.WAIT_FOR_CHECKPOINT):
            return self.run.communicator.broadcast(self._recorder.wait())

    # -- early ends

    def _stop(self) -> NoReturn:
        run, communicator = self.run, self.run.communicator
        who = ending.stopped_by(communicator.allgather(run.training_step.stop_request()))
        saved, command = self._save_and_wait(communicator.world_size)
        steps = f"step {self.state.step} of {run.schedule.total_steps}"
        go_on = f"\ncontinue with: {command}" if command else ""
        self._callbacks.raise_together(f"after {steps}; {saved}{go_on}")
        raise Stopped(f"stopped by {who} after {steps}; {saved}{go_on}")

    def _save_for_replay(self, where: str) -> str:
        """Save the state before a step that failed; return a message with the replay's command."""
        run, step = self.run, self.state.step
        run.training_step.ledger.replay(*run.schedule.position(step), run.config.microbatch_size)
        saved, command = self._save_and_wait(world_size=1)
        again = f"; replay it in one process with: {command} --debug {where}" if command else ""
        return f"{saved} (step {step}){again}"

    def _save_and_wait(self, world_size: int) -> tuple[str, str]:
        """Save and wait; what is on the disk as text, and the command that continues from it."""
        self._compare_and_save()
        newest = self._wait_for_checkpoint()
        directory = self.run.communicator.broadcast(self._recorder.location)
        if not directory:
            return "nothing is saved, because the run has no directory", ""
        command = ending.resume_command(self.run, str(directory), world_size)
        return ending.checkpoint_found(newest, self.state.step), command

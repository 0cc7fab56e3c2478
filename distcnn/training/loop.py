"""The loop: steps, and after them evaluation, metrics, receipt and checkpoints."""

from __future__ import annotations

import time
from typing import Any, NoReturn

from distcnn import spans
from distcnn.config import Config
from distcnn.distributed import Totals
from distcnn.errors import Stopped, TrainingError
from distcnn.spans import Span
from distcnn.system.wording import duration
from distcnn.training import ending
from distcnn.training.advice import advice_on, sign_of_no_learning, zero_gradients
from distcnn.training.callbacks import Callbacks
from distcnn.training.checkpointing import RunRecorder
from distcnn.training.evaluation import EvaluationStopped
from distcnn.training.failures import EvaluationFailure, ShardFailure
from distcnn.training.ledger import close_epoch
from distcnn.training.progress import NoProgress, Progress
from distcnn.training.records import Records
from distcnn.training.results import RunResult
from distcnn.training.selection import Selection, Vector
from distcnn.training.setup import Run
from distcnn.training.spot_check import SpotCheckFailure
from distcnn.training.state import Meter, State


class Loop:
    """Takes a run from ``state``, which it updates, onward; every method is collective.

    By default nothing is recorded or shown. ``best`` is of ``selection.best_weights``.
    """

    def __init__(
        self,
        run: Run,
        state: State,
        recorder: RunRecorder | None = None,
        progress: Progress | None = None,
        callbacks: Callbacks | None = None,
        best: Vector | None = None,
    ) -> None:
        self.run, self.state = run, state
        self._selection = Selection(run, state, best)
        self._records = Records(run, state, recorder or RunRecorder())
        self._progress = progress or NoProgress()
        self._callbacks = callbacks or Callbacks((), run.communicator)
        self._totals: Totals | None = None
        self.last_loss = 0.0
        """The mean loss of the latest step."""
        self._has_warned = False
        self._epoch_begun = time.perf_counter() - state.epoch.seconds
        """When the epoch began; of a resumed one, its steps' time before this process."""

    @property
    def is_over(self) -> bool:
        """Whether the run ends here."""
        return self._selection.is_over

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
        except SpotCheckFailure as failure:
            raise TrainingError(
                f"{failure}{self._records.after_fault(failure.suspects)}"
            ) from failure
        result, warning = self._records.finish()
        if warning:
            self._progress.say(warning)
        return result

    def add_end(self) -> None:
        """The receipt's last line."""
        self._records.add_end()

    def change_config(self, config: Config) -> None:
        """Continue with ``config``, as after a resume: only ``config.free`` may differ."""
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
                with self._records.timed():
                    self._records.compare_and_save()

    # -- steps

    def _note_shortened_run(self) -> None:
        """After a resume with other flags, the run may end here, in an untested state."""
        state = self.state
        if self.is_over and state.test_step != state.step:
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
        if run.training_step.spot_check:
            state.spot_checks += run.training_step.spot_check.count
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
            self._records.check_replicas()
        return totals

    def _log_interval(self) -> None:
        state, meter, schedule = self.state, self.state.interval, self.run.schedule
        epoch, rate = schedule.position(state.step)[0] + 1, schedule.learning_rate(state.step - 1)
        values = {"epoch": epoch, "loss": meter.loss, "learning_rate": rate}
        self._callbacks.call("on_log", self._records.add_metrics("step", meter, values))
        self._progress.interval(
            f"step {state.step}/{schedule.total_steps}  epoch {epoch}/{self.run.config.epochs}"
            f"  loss {meter.loss:.4f}  learning rate {rate:.4g}"
            f"  {meter.images_per_second:,.0f} images/s"
        )
        state.interval = Meter()

    # -- epochs

    def _end_epoch(self) -> None:
        """Close an epoch, or the part of one that ends the run: ledger, test, lines, checkpoint."""
        run, state, meter = self.run, self.state, self.state.epoch
        epochs_before, step_of_epoch = run.schedule.position(state.step)
        epoch, accuracy = epochs_before + 1, meter.correct / meter.examples
        values = {"epoch": epoch, "train_loss": meter.loss, "train_accuracy": accuracy}
        proof: dict[str, Any] = {"examples": meter.examples}
        if step_of_epoch == run.schedule.steps_an_epoch:
            with self._records.timed(), Span(spans.CLOSE_EPOCH):
                shards, examples = run.config.num_shards, run.dataset.examples["train"]
                order = close_epoch(
                    run.training_step.ledger, run.communicator, shards, epoch, examples
                )
                proof["order_sha256"] = order
        text = f"epoch {epoch}: train loss {meter.loss:.4f}"
        every = run.config.eval_every_epochs
        if self.is_over or (every and epoch % every == 0):
            start = time.perf_counter()
            try:
                found = self._selection.evaluate()
            except EvaluationStopped:
                self._stop()  # before any line of this epoch: the resumed run does all of it
            state.test_seconds += time.perf_counter() - start
            values |= found.values
            proof |= found.proof
            text += found.text
        self._records.count_time()
        self._callbacks.call("on_epoch", self._records.add_metrics("epoch", meter, values))
        self._records.check_replicas()
        self._records.add_receipt("epoch", **values, **proof)
        self._progress.say(
            f"{text}, {meter.images_per_second:,.0f} images/s,"
            f" took {duration(time.perf_counter() - self._epoch_begun)}"
        )
        for line in self._selection.remarks(epoch):
            self._progress.say(line)
        self._warn_if_nothing_is_learned(epoch)
        state.epoch_end_pending = False
        with self._records.timed():
            self._records.save()

    def _warn_if_nothing_is_learned(self, epoch: int) -> None:
        run, state = self.run, self.state
        began = (epoch - 1) * run.schedule.steps_an_epoch
        sign = sign_of_no_learning(
            run.config.loss,
            state.epoch.loss,
            self._selection.predicted,
            run.dataset.classes,
            epoch > 1 and began >= run.schedule.warmup_steps,
            self._selection.split,
        )
        if sign and (self.is_over or not self._has_warned):
            self._has_warned = True
            gradient = run.training_step.reducer.gradient
            gradients = run.parameters.named(gradient) if self._totals else {}
            zero = [name for name in zero_gradients(gradients) if name not in run.frozen]
            remedy = advice_on(zero)
            self._progress.say(f"warning: after epoch {epoch}, {sign}: {remedy}")

    # -- early ends

    def _stop(self) -> NoReturn:
        run, communicator = self.run, self.run.communicator
        who = ending.stopped_by(communicator.allgather(run.training_step.stop_request()))
        saved, command = self._records.save_and_wait(communicator.world_size)
        steps = f"step {self.state.step} of {run.schedule.total_steps}"
        go_on = f"\ncontinue with: {command}" if command else ""
        self._callbacks.raise_together(f"after {steps}; {saved}{go_on}")
        raise Stopped(f"stopped by {who} after {steps}; {saved}{go_on}")

    def _save_for_replay(self, where: str) -> str:
        """Save the state before a step that failed; return a message with the replay's command."""
        run, step = self.run, self.state.step
        run.training_step.ledger.replay(*run.schedule.position(step), run.config.microbatch_size)
        saved, command = self._records.save_and_wait(world_size=1)
        again = f"; replay it in one process with: {command} --debug {where}" if command else ""
        return f"{saved} (step {step}){again}"

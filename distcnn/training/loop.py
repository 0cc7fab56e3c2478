"""The loop: steps, evaluation, metrics, checkpoints, receipt, the result."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from distcnn.architecture import describe
from distcnn.config import as_flag
from distcnn.distributed import StepTotals, on_root
from distcnn.errors import InputError, Stopped, TrainingError
from distcnn.nn import Parameters, Sequential
from distcnn.spans import (
    CLOSE_EPOCH,
    COMPARE_WEIGHTS,
    WRITE_METRICS,
    WRITE_RECEIPT,
    WRITE_RESULTS,
    Span,
)
from distcnn.system.launcher import starting_words
from distcnn.system.wording import shell_command
from distcnn.training.advice import advice, sign_of_no_learning, zero_gradients
from distcnn.training.checkpointing import NoSaving, Saving
from distcnn.training.consistency import compare_replicas, params_sha256
from distcnn.training.evaluation import EvaluationFailure, EvaluationStopped
from distcnn.training.ledger import close_epoch
from distcnn.training.progress import Progress
from distcnn.training.results import DatasetRecord, RunResult
from distcnn.training.setup import Run
from distcnn.training.state import Meter, State
from distcnn.training.step_failure import ShardFailure


class Records(Protocol):
    """Where lines go: a run directory, nowhere, or a comparison with what was recorded before."""

    def add_metrics(self, kind: str, **values: Any) -> None:
        """A line for people and plots."""

    def add_receipt(self, kind: str, step: int, **values: Any) -> None:
        """A line that a replay must come to as well."""

    def finish(self, parameters: Parameters, result: RunResult) -> None:
        """The run is over."""


class Loop:
    """Takes a run from ``state`` onward; every method is collective."""

    def __init__(
        self,
        run: Run,
        state: State,
        records: Records,
        saving: Saving | NoSaving,
        progress: Progress,
    ) -> None:
        self.run, self.state = run, state
        self._records, self._saving, self._progress = records, saving, progress
        self.last_loss = 0.0
        self._totals: StepTotals | None = None
        self._warned = False  # that the network learns nothing
        self._counted_until = time.perf_counter()

    @property
    def is_over(self) -> bool:
        """Whether the run ends here: all steps were taken, or the target is reached."""
        return self.state.step == self.run.plan.total_steps or self.state.reaches(
            self.run.config.target_accuracy
        )

    def train(self) -> RunResult:
        """Go on to the end; return the result (the same on every rank, times aside), which the
        records also get.

        ``Stopped`` when a signal asked for it; ``TrainingError`` when a step or an evaluation
        cannot be done. The state is saved before either.
        """
        try:
            self.go_to(self.run.plan.total_steps)
        except ShardFailure as failure:
            where = f"--break-at-step {self.state.step} --shard {failure.shard}"
            raise TrainingError(f"{failure}\n{self._save_before_failure(where)}") from failure
        except EvaluationFailure as failure:
            raise TrainingError(
                f"{failure}\n{self._save_before_failure(f'--break-at-step {self.state.step}')}"
            ) from failure
        with self._timed():
            newest = self._saving.wait()
            if (
                newest != self.state.step
            ):  # the disk was full then, or the run directory was removed since
                self._saving.save(self.state)
                newest = self._saving.wait()
        self.add_end()
        result = make_result(self.run, self.state)
        with Span(WRITE_RESULTS):
            on_root(
                self.run.communicator, lambda: self._records.finish(self.run.parameters, result)
            )
        if self._saving.location and newest < self.state.step:
            found = (
                f"the last checkpoint on the disk is of step {newest}"
                if newest >= 0
                else "there is no checkpoint on the disk"
            )
            self._progress.say(
                f"warning: {found}, although the run ended at step {self.state.step}: it cannot be"
                " continued from its end"
            )
        return result

    def add_end(self) -> None:
        """The receipt's last line."""
        with Span(WRITE_RECEIPT):
            self._records.add_receipt(
                "end", self.state.step, params_sha256=params_sha256(self.run.parameters)
            )

    def go_to(self, last_step: int, end_epoch: bool = True) -> None:
        """Take steps until ``last_step`` were taken in all, each epoch's end (the last one's with
        ``end_epoch``) included.

        The end of the run may come before.
        """
        state = self.state
        while True:
            if state.step == self.run.plan.total_steps and state.test_step != state.step:
                self._open_end()
            if state.epoch_is_open and (end_epoch or state.step < last_step):
                self._end_epoch()
            if state.step >= last_step or self.is_over:
                return
            if self._take_step():
                self._stop()
            if (
                self._saving.every
                and state.step % self._saving.every == 0
                and not state.epoch_is_open
            ):
                with self._timed():
                    self._save()

    def _open_end(self) -> None:
        """The run ends here, which was not known when this step was taken: it was resumed with
        fewer steps to take.
        """
        state, plan = self.state, self.run.plan
        if state.interval.examples:
            self._log_interval(plan.position(state.step)[0] + 1, plan.learning_rate(state.step - 1))
        state.epoch_is_open = True

    def _take_step(self) -> bool:
        """One step, with its lines of metrics and receipt; whether a rank was asked to stop."""
        run, state, config = self.run, self.state, self.run.config
        epoch, step_of_epoch = divmod(state.step, run.plan.steps_an_epoch)
        if step_of_epoch == 0:
            state.epoch = Meter()
            run.step.ledger.begin()
        learning_rate = run.plan.learning_rate(state.step)
        start = time.perf_counter()
        totals = self._totals = run.step(state.step, epoch, step_of_epoch, learning_rate)
        seconds = time.perf_counter() - start
        for meter in (state.whole, state.epoch, state.interval):
            meter.add(totals, seconds)
        self.last_loss = totals.loss
        self._progress.step(totals.loss, state.interval.images_per_second)
        state.step += 1
        state.epoch_is_open = run.plan.ends_epoch(state.step)
        if state.step % config.log_every == 0 or state.epoch_is_open:
            self._log_interval(epoch + 1, learning_rate)
        if state.step % config.check_every == 0 and not state.epoch_is_open:
            self._check_replicas()
        return totals.stops > 0

    def _log_interval(self, epoch: int, learning_rate: float) -> None:
        state, speed = self.state, self.state.interval.images_per_second
        loss = state.interval.loss
        with Span(WRITE_METRICS):
            self._records.add_metrics(
                "step",
                step=state.step,
                epoch=epoch,
                loss=loss,
                learning_rate=learning_rate,
                images_per_second=round(speed, 1),
            )
        self._progress.interval(
            state.step, epoch, self.run.config.epochs, loss, learning_rate, speed
        )
        state.interval = Meter()
        self._saving.poll()

    def _check_replicas(self) -> None:
        run, step = self.run, self.state.step
        with self._timed():
            with Span(COMPARE_WEIGHTS):
                parameters = compare_replicas(
                    run.parameters, run.step.optimizer, run.communicator, step
                )
            with Span(WRITE_RECEIPT):
                self._records.add_receipt(
                    "weights",
                    step,
                    params_sha256=params_sha256(run.parameters),
                    parameters=parameters,
                )

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Count what is done here as the price of safety."""
        start = time.perf_counter()
        yield
        self.state.safety_seconds += time.perf_counter() - start

    def _end_epoch(self) -> None:
        """The ledger, the test, the lines of an epoch that is over (or of the part of one that ends
        the run), and a checkpoint.
        """
        run, state = self.run, self.state
        before, step_of_epoch = run.plan.position(state.step)
        epoch, whole = before + 1, step_of_epoch == run.plan.steps_an_epoch
        values: dict[str, Any] = {
            "epoch": epoch,
            "train_loss": state.epoch.loss,
            "train_accuracy": state.epoch.correct / state.epoch.examples,
        }
        proof: dict[str, Any] = {"examples": state.epoch.examples}
        if whole:
            examples = run.dataset.examples["train"]
            with self._timed(), Span(CLOSE_EPOCH):
                proof["order_sha256"] = close_epoch(
                    run.step.ledger, run.communicator, run.config.num_shards, epoch, examples
                )
        text = f"epoch {epoch}: train loss {state.epoch.loss:.4f}"
        last = state.step == run.plan.total_steps
        if last or (run.config.eval_every_epochs and epoch % run.config.eval_every_epochs == 0):
            try:
                test = run.evaluation()
            except EvaluationStopped:
                self._stop()  # before any line of this epoch: the resumed run does all of it
            state.note_test(test)
            values |= {"test_loss": test.loss, "test_accuracy": test.correct / test.examples}
            proof |= {"test_examples": test.examples, "test_correct": test.correct}
            text += (
                f", test loss {test.loss:.4f}, test accuracy {test.correct / test.examples:.4f}"
                f" ({test.correct} of {test.examples})"
            )
        self._count_time()
        with Span(WRITE_METRICS):
            self._records.add_metrics(
                "epoch",
                step=state.step,
                **values,
                images_per_second=round(state.epoch.images_per_second, 1),
            )
        self._check_replicas()
        with Span(WRITE_RECEIPT):
            self._records.add_receipt("epoch", state.step, **values, **proof)
        self._progress.say(f"{text}, {state.epoch.images_per_second:,.0f} images/s")
        self._warn_if_nothing_is_learned(
            epoch, run.evaluation.predicted if state.test_step == state.step else None, last
        )
        state.epoch_is_open = False
        with self._timed():
            self._saving.save(state)

    def _warn_if_nothing_is_learned(
        self, epoch: int, predicted: NDArray[np.int64] | None, last: bool
    ) -> None:
        """Say so, the first time and at the end."""
        run = self.run
        sign = sign_of_no_learning(
            run.config.loss, self.state.epoch.loss, predicted, run.dataset.classes, epoch
        )
        if sign and (last or not self._warned):
            self._warned = True
            zero = (
                []
                if self._totals is None
                else zero_gradients(run.parameters.named(self._totals.gradient))
            )
            self._progress.say(f"warning: after epoch {epoch}, {sign}: {advice(zero)}")

    def _count_time(self) -> None:
        now = time.perf_counter()
        self.state.run_seconds += now - self._counted_until
        self._counted_until = now

    def _save(self) -> None:
        self._count_time()
        run, step = self.run, self.state.step
        if (
            step % run.config.check_every or self.state.epoch_is_open
        ):  # otherwise it was done just now
            with Span(COMPARE_WEIGHTS):
                compare_replicas(run.parameters, run.step.optimizer, run.communicator, step)
        self._saving.save(self.state)

    def _stop(self) -> NoReturn:
        requests = enumerate(self.run.communicator.allgather(self.run.step.stop_request()))
        who = ", ".join(f"{request} on rank {rank}" for rank, request in requests if request)
        saved = self._save_now()
        again = self._resume_command(self.run.communicator.world_size)
        raise Stopped(
            f"by {who}, after step {self.state.step} of {self.run.plan.total_steps};"
            f" {saved}\ncontinue with: {again}"
        )

    def _save_now(self) -> str:
        """Save and wait until it is done; in words what is on the disk."""
        self._save()
        newest = self._saving.wait()
        if newest == self.state.step:
            return f"the state after step {newest} is saved"
        return (
            f"the newest checkpoint is of step {newest}"
            if newest >= 0
            else "no checkpoint could be written"
        )

    def _save_before_failure(self, where: str) -> str:
        """Save the state before a step that failed, which changed no weight; in words, with a
        command that replays it.
        """
        run = self.run
        run.step.ledger.replay(*run.plan.position(self.state.step), run.config.microbatch_size)
        saved = self._save_now()
        return f"{saved}; replay it in one process with: {self._resume_command()} --debug {where}"

    def _resume_command(self, world_size: int = 1) -> str:
        """On as many ranks; any other number gets the same bits."""
        own = self.run.config.own_code
        confirmed = [word for field, name in own.items() for word in (as_flag(field), name)]
        command = ["python", "-m", "distcnn.train", "--resume", self._saving.location, *confirmed]
        return shell_command([*starting_words(world_size, os.environ), *command])


def make_result(run: Run, state: State) -> RunResult:
    """The summary of a run that is over."""
    config, dataset, test = run.config, run.dataset, state.test
    reached = state.reaches(config.target_accuracy)
    assert test is not None  # the last step is always tested
    return RunResult(
        model=config.model,
        architecture=architecture_of(run.model),
        parameters=run.parameters.values.size,
        test_accuracy=test.correct / test.examples,
        test_correct=test.correct,
        test_examples=test.examples,
        test_loss=test.loss,
        train_loss=state.epoch.loss,
        params_sha256=params_sha256(run.parameters),
        epochs=state.step // run.plan.steps_an_epoch,
        steps=state.step,
        best_step=state.step if state.best_step is None else state.best_step,
        best_test_accuracy=state.best_correct / test.examples,
        target_accuracy=config.target_accuracy or None,
        target_reached=reached if config.target_accuracy else None,
        seconds_to_target=round(state.run_seconds, 3) if reached else None,
        world_size=state.world_size,
        num_shards=config.num_shards,
        microbatch_size=config.microbatch_size,
        seed=config.seed,
        reduction=config.reduction,
        images_per_second=round(state.whole.images_per_second, 1),
        train_seconds=round(state.whole.seconds, 3),
        dataset=DatasetRecord(
            name=dataset.name,
            path=dataset.path,
            source=dataset.source,
            sha256=dataset.sha256,
            content_sha256=run.content_sha256,
            classes=dataset.classes,
            class_names=dataset.class_names or tuple(map(str, range(dataset.classes))),
            image_shape=dataset.image_shape,
            mean=run.mean,
            std=run.std,
            train_examples=dataset.examples["train"],
            test_examples=dataset.examples["test"],
        ),
    )


def architecture_of(model: Sequential) -> str:
    """The network as text; empty where text cannot tell it."""
    try:
        return describe(model, initialisers=False)
    except InputError:
        return ""

"""The loop: epochs of steps, evaluation, metrics, the result."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from distcnn.optim import SCHEDULES, learning_rate_at
from distcnn.parallel import Totals
from distcnn.training.progress import Progress
from distcnn.training.run_directory import NoRunDirectory, RunDirectory, params_sha256
from distcnn.training.setup import Run, scheduled_steps, total_steps, warmup_steps


@dataclass
class Meter:
    """Sums since it was last emptied: losses, examples, and the seconds the steps took."""

    loss_sum: float = 0.0
    correct: int = 0
    examples: int = 0
    seconds: float = 0.0

    def add(self, totals: Totals, seconds: float) -> None:
        """Add one step's."""
        self.loss_sum += totals.loss_sum
        self.correct += totals.correct
        self.examples += totals.examples
        self.seconds += seconds

    @property
    def loss(self) -> float:
        """The mean loss."""
        return self.loss_sum / max(self.examples, 1)

    @property
    def images_per_second(self) -> float:
        """Examples of all ranks a second."""
        return self.examples / self.seconds if self.seconds else 0.0


def train(run: Run, directory: RunDirectory | NoRunDirectory, progress: Progress) -> dict[str, Any]:
    """Train to the end; return the result (the same on every rank, times aside), which root's ``directory`` also holds."""
    config, train_examples = run.config, run.dataset.examples["train"]
    schedule, schedule_length, last_step = SCHEDULES[config.schedule], scheduled_steps(run), total_steps(run)
    steps_an_epoch = schedule_length // config.epochs
    whole, epoch_meter, interval = Meter(), Meter(), Meter()
    test: Totals | None = None
    for step in range(last_step):
        epoch, step_of_epoch = divmod(step, steps_an_epoch)
        if step_of_epoch == 0:
            epoch_meter = Meter()
        learning_rate = learning_rate_at(step, schedule, config.learning_rate, warmup_steps(run), schedule_length)
        start = time.perf_counter()
        totals = run.step(step, epoch, step_of_epoch, learning_rate)
        seconds = time.perf_counter() - start
        for meter in (whole, epoch_meter, interval):
            meter.add(totals, seconds)
        progress.step(totals.loss, interval.images_per_second)

        done = step + 1
        epoch_over = step_of_epoch + 1 == steps_an_epoch
        if done % config.log_every == 0 or epoch_over or done == last_step:
            where = {"step": done, "epoch": epoch + 1}
            speed = interval.images_per_second
            directory.add_metrics("step", **where, loss=interval.loss, learning_rate=learning_rate, images_per_second=round(speed, 1))
            progress.interval(done, epoch + 1, config.epochs, interval.loss, learning_rate, speed)
            interval = Meter()
        if epoch_over and epoch_meter.examples != train_examples:
            raise AssertionError(f"epoch {epoch + 1} used {epoch_meter.examples} examples, not each of the {train_examples} once")
        if epoch_over or done == last_step:
            test = _test(run, config.eval_every, epoch + 1, done == last_step)
            _end_epoch(epoch + 1, done, epoch_meter, test, directory, progress)
    assert test is not None  # the last step is always tested
    result = _result(run, whole, epoch_meter, test, last_step, steps_an_epoch)
    directory.write_weights(run.network, result["params_sha256"])
    directory.write_result(result)
    return result


def _test(run: Run, eval_every: int, epoch: int, last: bool) -> Totals | None:
    return run.evaluation() if last or (eval_every and epoch % eval_every == 0) else None


def _end_epoch(
    epoch: int, step: int, meter: Meter, test: Totals | None, directory: RunDirectory | NoRunDirectory, progress: Progress
) -> None:
    values: dict[str, Any] = {"step": step, "epoch": epoch, "train_loss": meter.loss, "train_accuracy": meter.correct / meter.examples}
    text = f"epoch {epoch}: train loss {meter.loss:.4f}"
    if test is not None:
        values |= {"test_loss": test.loss, "test_accuracy": test.correct / test.examples}
        text += f", test loss {test.loss:.4f}, test accuracy {test.correct / test.examples:.4f} ({test.correct} of {test.examples})"
    directory.add_metrics("epoch", **values, images_per_second=round(meter.images_per_second, 1))
    progress.say(f"{text}, {meter.images_per_second:,.0f} images/s")


def _result(run: Run, whole: Meter, epoch_meter: Meter, test: Totals, steps: int, steps_an_epoch: int) -> dict[str, Any]:
    config, dataset = run.config, run.dataset
    return {
        "model": config.model,
        "parameters": run.network.values.size,
        "test_accuracy": test.correct / test.examples,
        "test_correct": test.correct,
        "test_examples": test.examples,
        "test_loss": test.loss,
        "train_loss": epoch_meter.loss,
        "params_sha256": params_sha256(run.network),
        "epochs": steps // steps_an_epoch,
        "steps": steps,
        "world_size": run.communicator.world_size,
        "num_shards": config.num_shards,
        "microbatch_size": config.microbatch_size,
        "seed": config.seed,
        "reduction": config.reduction,
        "images_per_second": round(whole.images_per_second, 1),
        "train_seconds": round(whole.seconds, 3),
        "dataset": {
            "name": dataset.name,
            "path": dataset.path,
            "source": dataset.source,
            "sha256": dataset.sha256,
            "classes": dataset.classes,
            "image_shape": list(dataset.image_shape),
            "train_examples": dataset.examples["train"],
            "test_examples": dataset.examples["test"],
        },
    }

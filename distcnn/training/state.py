"""The state of a run between two steps, besides weights and optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from distcnn.distributed import Totals
from distcnn.system.json_values import from_json, to_json

END_PENDING_KEY = "epoch_is_open"
"""The name of ``epoch_end_pending`` in checkpoints."""


@dataclass
class Meter:
    """Sums over steps: losses, correct answers, examples, and the seconds the steps took."""

    loss_sum: float = 0.0
    correct: int = 0
    examples: int = 0
    seconds: float = 0.0

    def add(self, totals: Totals, seconds: float) -> None:
        """Add one step."""
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
        """Examples per second, of all ranks."""
        return self.examples / self.seconds if self.seconds else 0.0


@dataclass
class State:
    """The state after ``step`` steps, the same on all ranks."""

    step: int = 0
    epoch_end_pending: bool = False
    """An epoch's last step was taken, but its test and its line of metrics are still to come."""
    world_size: int = 1
    """Ranks that the run began on."""
    whole: Meter = field(default_factory=Meter)
    epoch: Meter = field(default_factory=Meter)
    interval: Meter = field(default_factory=Meter)
    """Since the last line of metrics."""
    test: Totals | None = None
    test_step: int = -1
    """The step after which ``test`` was made; -1 before the first."""
    safety_seconds: float = 0.0
    """Spent by the main thread on hashes, ledger and checkpoints."""
    test_seconds: float = 0.0
    run_seconds: float = 0.0
    """Since the start of the first step, tests included; of a resumed run, the sum of its parts."""
    best_step: int | None = None
    best_correct: int = -1

    def note_test(self, test: Totals) -> None:
        """Record the latest test, and the step of the best one."""
        self.test, self.test_step = test, self.step
        if test.correct > self.best_correct:
            self.best_step, self.best_correct = self.step, test.correct

    def reaches(self, target_accuracy: float) -> bool:
        """Whether this state was tested and reaches the target; never for the target 0."""
        if self.test is None or self.test_step != self.step:
            return False
        return 0 < target_accuracy <= self.test.correct / self.test.examples

    @property
    def is_sound(self) -> bool:
        """Whether a run can be in this state, or the values are damaged or made up."""
        test, best, last = self.test, self.best_step, self.step
        sums: list[Meter | Totals] = [self.whole, self.epoch, self.interval]
        sums += [test] if test else []
        counts = [last, self.world_size, *(n for one in sums for n in (one.correct, one.examples))]
        return (
            min(counts) >= 0
            and (
                0 <= self.test_step <= last and test.examples > 0 if test else self.test_step == -1
            )
            and (self.best_correct == -1 if best is None else 0 <= best <= last)
            and (self.epoch.examples > 0 or not self.epoch_end_pending)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` gives the same state, bit for bit."""
        values = to_json(self)
        values[END_PENDING_KEY] = values.pop("epoch_end_pending")
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> State:
        """The state of ``to_json``; before there were ``run_seconds``, those of the steps count.

        ``LookupError`` or ``TypeError`` when it is not a state.
        """
        steps_seconds = values["whole"]["seconds"] + values["safety_seconds"]
        pending = values.get(END_PENDING_KEY, False)
        return from_json(
            cls, {"run_seconds": steps_seconds, "epoch_end_pending": pending, **values}
        )

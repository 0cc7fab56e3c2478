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
    best_test: Totals | None = None
    """Of the best weights, made with ``test`` where a validation set has chosen others."""
    validation: Totals | None = None
    validation_step: int = -1
    """As for ``test``."""
    safety_seconds: float = 0.0
    """Spent by the main thread on hashes, ledger and checkpoints."""
    test_seconds: float = 0.0
    run_seconds: float = 0.0
    """Since the start of the first step, tests included; of a resumed run, the sum of its parts."""
    best_step: int | None = None
    best_correct: int = -1
    """The best evaluation, on the validation set, or without one on the test set."""
    evaluations_since_best: int = 0
    spot_checks: int = 0
    """Shards that were repeated and were equal."""

    def note_test(self, test: Totals, best_test: Totals | None = None) -> None:
        """Record the latest test, which chooses the best step if there is no validation set."""
        self.test, self.test_step, self.best_test = test, self.step, best_test
        if self.validation is None:
            self._choose(test)

    def note_validation(self, validation: Totals) -> None:
        """Record the latest validation, and the step of the best one."""
        self.validation, self.validation_step = validation, self.step
        self._choose(validation)

    def _choose(self, evaluated: Totals) -> None:
        self.evaluations_since_best += 1
        if evaluated.correct > self.best_correct:
            self.best_step, self.best_correct = self.step, evaluated.correct
            self.evaluations_since_best = 0

    @property
    def evaluated(self) -> Totals | None:
        """The evaluation of this very state that chooses; None if there is none."""
        if self.validation is not None:
            return self.validation if self.validation_step == self.step else None
        return self.test if self.test_step == self.step else None

    def reaches(self, target_accuracy: float) -> bool:
        """Whether this state was evaluated and reaches the target; never for the target 0."""
        found = self.evaluated
        return found is not None and 0 < target_accuracy <= found.correct / found.examples

    def exhausts(self, patience: int) -> bool:
        """Whether so many evaluations, the last of this state, were no better; never for 0."""
        return self.evaluated is not None and 0 < patience <= self.evaluations_since_best

    @property
    def is_sound(self) -> bool:
        """Whether a run can be in this state, or the values are damaged or made up."""
        test, best, last = self.test, self.best_step, self.step
        evaluations = ((test, self.test_step), (self.validation, self.validation_step))
        sums: list[Meter | Totals] = [self.whole, self.epoch, self.interval]
        sums += [each for each in (test, self.best_test, self.validation) if each]
        counts = [last, self.world_size, *(n for one in sums for n in (one.correct, one.examples))]
        return (
            min(*counts, self.evaluations_since_best, self.spot_checks) >= 0
            and all(
                0 <= step <= last and made.examples > 0 if made else step == -1
                for made, step in evaluations
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

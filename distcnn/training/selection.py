"""Model selection: what is evaluated after an epoch, and what that chooses.

A validation set chooses the best weights and ends a run by its target or patience. The test set is
then looked at once, at the end. Without a validation set it is the test set that chooses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcnn.checkpoints import CheckpointError, CheckpointStore
from distcnn.datasets.hdf5 import VALIDATION
from distcnn.distributed import Totals, on_root
from distcnn.errors import InputError
from distcnn.nn import Parameters
from distcnn.system.wording import counted
from distcnn.training.checkpointing import stored_vector
from distcnn.training.setup import Run
from distcnn.training.state import State

Vector = NDArray[np.float32]


@dataclass
class Found:
    """What evaluations found: for the line of metrics, for the receipt alone, and as text."""

    values: dict[str, Any] = field(default_factory=dict)
    proof: dict[str, int] = field(default_factory=dict)
    text: str = ""

    def add(self, split: str, totals: Totals) -> None:
        accuracy = totals.correct / totals.examples
        self.values |= {f"{split}_loss": totals.loss, f"{split}_accuracy": accuracy}
        self.proof |= {f"{split}_examples": totals.examples, f"{split}_correct": totals.correct}
        self.text += (
            f", {split} loss {totals.loss:.4f}, {split} accuracy {accuracy:.4f}"
            f" ({totals.correct} of {totals.examples})"
        )


class Selection:
    """Evaluates a run after its epochs; every rank keeps the ``best`` weights until the end.

    ``best`` is None as long as there are none, or where they could not be read.
    """

    def __init__(self, run: Run, state: State, best: Vector | None = None) -> None:
        self._run, self._state, self._best = run, state, best

    @property
    def is_over(self) -> bool:
        """Whether the run ends here: all steps are taken, or the target or patience ends it."""
        state, config = self._state, self._run.config
        all_taken = state.step == self._run.schedule.total_steps
        return all_taken or state.reaches(config.target_accuracy) or state.exhausts(config.patience)

    @property
    def split(self) -> str:
        """The set that chooses: "validation", or without one "test"."""
        return "test" if self._run.validation is None else VALIDATION

    @property
    def predicted(self) -> NDArray[np.int64] | None:
        """How many images of ``split`` this state puts into each class; None if not evaluated."""
        evaluation = self._run.validation or self._run.evaluation
        return evaluation.predicted if self._state.evaluated else None

    def evaluate(self) -> Found:
        """Evaluate this state, and note the result in it. Collective.

        ``EvaluationStopped`` on all ranks; what was noted until then is not evaluated again.
        """
        run, state, found = self._run, self._state, Found()
        if run.validation is None:
            state.note_test(run.evaluation())
        else:
            if state.validation_step != state.step:
                state.note_validation(run.validation())
            if state.best_step == state.step:
                self._best = run.parameters.values.copy()
            assert state.validation is not None
            found.add(VALIDATION, state.validation)
            if not self.is_over:
                return found
            state.note_test(*self._tests())
        assert state.test is not None
        found.add("test", state.test)
        if best := state.best_test:
            found.proof |= {"best_test_examples": best.examples, "best_test_correct": best.correct}
            accuracy = best.correct / best.examples
            found.text += f" and {accuracy:.4f} with the best weights, of step {state.best_step}"
        return found

    def remarks(self, epoch: int) -> Iterator[str]:
        """Lines that say when patience ends the run, and when the best weights are not tested."""
        state, total_steps = self._state, self._run.schedule.total_steps
        if state.step < total_steps and state.exhausts(self._run.config.patience):
            waited = counted(state.evaluations_since_best, "evaluation")
            yield f"stopped after epoch {epoch}: no better {self.split} accuracy for {waited}"
        is_tested = state.best_step == state.step or state.best_test
        if self._run.validation and self.is_over and not is_tested:
            yield (
                f"warning: the best weights, of step {state.best_step}, are not tested: their"
                " checkpoint cannot be read"
            )

    def _tests(self) -> tuple[Totals, Totals | None]:
        """The test of the last weights, after that of the best ones if they are others."""
        best = None
        if self._state.best_step != self._state.step and self._best is not None:
            with _replaced(self._run.parameters, self._best):
                best = self._run.evaluation(weights="best")
        return self._run.evaluation(), best


@contextmanager
def _replaced(parameters: Parameters, others: Vector) -> Iterator[None]:
    kept = parameters.values.copy()
    parameters.assign(others)
    try:
        yield
    finally:
        parameters.assign(kept)


def best_weights(run: Run, state: State, store: CheckpointStore) -> Vector | None:
    """The best weights up to ``state``, which a run with a validation set tests at its end.

    None if there are none, or their checkpoint cannot be read. Collective.
    """
    step = state.best_step
    if run.validation is None or step is None:
        return None
    if step == state.step:
        return run.parameters.values.copy()

    def load() -> Vector | None:
        try:
            return stored_vector(run, store.load(step), "weights")
        except (CheckpointError, InputError):
            return None

    return on_root(run.communicator, load)

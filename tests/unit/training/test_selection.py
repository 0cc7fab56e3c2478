"""What chooses the best weights and ends a run: the validation set, else the test set."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcnn.distributed import Totals
from distcnn.training.state import State
from tests.conftest import MakeImageSet
from tests.support.training_fixtures import loop_of, prepare


def totals(correct: int) -> Totals:
    return Totals(1.0, correct, 10, 0)


def test_with_a_validation_set_tests_choose_nothing() -> None:
    state = State()
    for state.step, correct in enumerate((5, 7, 6), start=1):
        state.note_validation(totals(correct))
        state.note_test(totals(10 - correct))
    assert (state.best_step, state.best_correct, state.evaluations_since_best) == (2, 7, 1)
    assert state.evaluated == totals(6)
    assert (state.reaches(0.6), state.reaches(0.61)) == (True, False)


@pytest.mark.parametrize(
    ("rights", "waited"), [((5,), 0), ((5, 5), 1), ((5, 6, 6, 4), 2), ((5, 1, 2, 6), 0)]
)
def test_patience_counts_evaluations_that_are_no_better(
    rights: tuple[int, ...], waited: int
) -> None:
    state = State()
    for state.step, correct in enumerate(rights, start=1):
        state.note_validation(totals(correct))
    assert state.evaluations_since_best == waited
    found = [state.exhausts(patience) for patience in range(5)]
    assert found == [False, *(patience <= waited for patience in range(1, 5))]
    state.step += 1  # not evaluated yet
    assert not state.exhausts(1)


def test_a_state_with_validation_survives_json() -> None:
    state = State(step=4)
    state.note_validation(totals(3))
    state.note_test(totals(2), best_test=totals(4))
    assert state.is_sound
    assert State.from_json(state.to_json()) == state
    old = {name: value for name, value in State().to_json().items() if "validation" not in name}
    del old["evaluations_since_best"], old["best_test"]
    assert State.from_json(old) == State()


@pytest.fixture
def data(image_set: MakeImageSet) -> Path:
    return image_set()


def test_the_test_set_is_used_once_at_the_end(data: Path) -> None:
    run = prepare(data, epochs=3, validation=0.2)
    plain, steps = run.evaluation.__call__, []
    loop = loop_of(run)

    class Counted:
        predicted = None

        def __call__(self, **labels: object) -> Totals:
            steps.append(loop.state.step)
            return plain(**labels)

    run.evaluation = Counted()  # type: ignore[assignment]
    result = loop.train()
    last = run.schedule.total_steps
    assert steps == [last] * (1 if result.best_step == last else 2)
    assert result.validation_examples == 41
    assert result.test_examples == 77


def test_the_best_weights_are_tested_and_the_last_ones_stay(data: Path) -> None:
    run = prepare(data, epochs=3, validation=0.2, learning_rate=1e-4)
    loop = loop_of(run)
    loop.go_to(run.schedule.steps_an_epoch)
    best, state = run.parameters.values.copy(), loop.state
    expected = run.evaluation()
    state.best_correct = 10**6  # so the first epoch stays the best
    result = loop.train()
    last = run.parameters.values.copy()
    assert (last != best).any()
    assert (result.best_step, state.best_test) == (run.schedule.steps_an_epoch, expected)
    assert run.evaluation() == state.test
    assert result.best_test_accuracy == expected.correct / expected.examples


def test_every_kept_example_is_trained_on_and_every_other_one_validated(data: Path) -> None:
    run = prepare(data, validation=50)
    assert run.validation is not None
    marked = run.training_step.ledger
    loop_of(run).go_to(run.schedule.steps_an_epoch)
    assert sum(entry.used for entry in marked.entries()) == 153
    assert run.validation().examples == 50
    assert run.dataset_record.identity["train_examples"] == 153
    assert run.dataset_record.identity["validation_examples"] == 50
    assert "validation_examples" not in prepare(data).dataset_record.identity

"""A run with a validation set: it chooses the best weights and ends the run, the test set is used
at the end; stopped, killed, resumed and replayed, with the same bits and lines.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest

import distcnn as dc
from distcnn.checkpoints.weights import read_weights
from distcnn.datasets.holdout import choose_rows
from distcnn.models import MODELS, tutorial
from tests.conftest import SERIAL, MakeImageSet, as_flags, slow
from tests.support.training_fixtures import (
    EXIT_STOPPED,
    PATIENT,
    assert_same_end,
    content,
    metrics,
    proof,
    receipt,
    result,
    resume,
    store_of,
    train,
    train_in_process,
    train_with_stops,
    write_receipt,
)

STEPS, CALLS = 3, 15
"""Of an epoch: steps, and calls of forward with the validation."""
DIFFERENT = 1


def verify(run: Path, *flags: str, code: int = 0, **environment: str) -> str:
    done = SERIAL.run(1, "-m", "distcnn.verify", str(run), "--trust-model", *flags, **environment)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def copy(patient: Path, tmp_path: Path) -> Path:
    """A copy of ``patient`` that a test may change."""
    return Path(shutil.copytree(patient, tmp_path / "copy"))


# -- what a run records


def test_patience_ends_a_run_and_says_so(patient: Path) -> None:
    found, said = result(patient), (patient / "stdout").read_text()
    assert "160 training, 43 validation and 77 test images" in said
    assert (found["stopped_early"], found["validation_examples"]) == (True, 43)
    assert found["steps"] == found["best_step"] + 3 * STEPS < 30 * STEPS
    epoch = found["epochs"]
    stopped = f"stopped after epoch {epoch}: no better validation accuracy for 3 evaluations"
    assert stopped in said.splitlines()
    assert "the best validation accuracy" in said


def test_lines_have_the_validation_and_only_the_last_one_the_test(patient: Path) -> None:
    lines = [line for line in metrics(patient) if line["kind"] == "epoch"]
    accuracies = [line["validation_accuracy"] for line in lines]
    found = result(patient)
    assert max(accuracies) == found["best_validation_accuracy"]
    assert accuracies.index(max(accuracies)) + 1 == found["best_step"] / STEPS
    assert (accuracies[-1], lines[-1]["validation_loss"]) == (
        found["validation_accuracy"],
        found["validation_loss"],
    )
    assert [line["step"] for line in lines if "test_loss" in line] == [found["steps"]]
    proved = [line for line in proof(patient) if line["kind"] == "epoch"]
    assert {line["validation_examples"] for line in proved} == {43}
    assert [line["validation_correct"] / 43 for line in proved] == accuracies
    assert {line["examples"] for line in proved} == {160}
    assert (proved[-1]["test_examples"], proved[-1]["best_test_examples"]) == (77, 77)
    header, *rows = (patient / "metrics.csv").read_text().splitlines()
    assert "validation_loss,validation_accuracy" in header
    assert len(rows) == len(metrics(patient))


def test_accuracies_are_those_of_the_weights_in_the_files(patient: Path, noise: Path) -> None:
    found, images = result(patient), dc.datasets.open(noise)
    train_images, train_labels = images.read("train")
    rows, model = choose_rows(train_labels, 43), tutorial((1, 28, 28), 4)
    for weights, prefix in (("last", ""), ("best", "best_")):
        network = dc.load(patient, weights=weights, model=model)  # type: ignore[arg-type]
        tested = network.evaluate(*images.read("test")).accuracy
        validated = network.evaluate(train_images[rows], train_labels[rows]).accuracy
        name = "weights.h5" if weights == "last" else "weights-best.h5"
        _, attributes = read_weights(patient / name)
        assert tested == found[f"{prefix}test_accuracy"] == attributes["test_accuracy"]
        assert validated == found[f"{prefix}validation_accuracy"]
        assert validated == attributes["validation_accuracy"]


def test_another_test_set_changes_nothing_but_its_own_accuracy(
    patient: Path, noise: Path, stopping: str, tmp_path: Path
) -> None:
    shutil.copy(noise, tmp_path / "other.h5")
    with h5py.File(tmp_path / "other.h5", "r+") as file:
        file["test/labels"][...] = 3 - file["test/labels"][()]
        del file.attrs["sha256"], file.attrs["blocks_sha256"]
    data = as_flags(data=tmp_path / "other.h5", output=tmp_path / "run")
    assert train(SERIAL, 1, *data, *PATIENT, PYTHONPATH=stopping).returncode == 0
    ours, theirs = result(tmp_path / "run"), result(patient)
    assert ours["test_accuracy"] != theirs["test_accuracy"]
    same = ("params_sha256", "steps", "best_step", "validation_accuracy", "stopped_early")
    assert [ours[name] for name in same] == [theirs[name] for name in same]


# -- stopped and resumed


def places(epochs: int) -> dict[str, int]:
    """Calls of forward, in a run of so many epochs, at which to stop."""
    last = CALLS * epochs
    return {
        "in a step after the best epoch": last - 20,
        "in the last validation": last - 1,
        "in the test of the best weights": last + 2,
        "in the last step": last - 5,
    }


@pytest.mark.parametrize(
    ("place", "signal"),
    [
        ("in the last validation", "SIGUSR1"),
        *slow(
            ("in the last validation", "SIGKILL"),
            ("in the test of the best weights", "SIGUSR1"),
            ("in the test of the best weights", "SIGKILL"),
            ("in a step after the best epoch", "SIGUSR1"),
            ("in a step after the best epoch", "SIGKILL"),
            ("in the last step", "SIGUSR1"),
        ),
    ],
)
def test_a_stopped_run_ends_the_same(
    place: str, signal: str, patient: Path, noise: Path, stopping: str, tmp_path: Path
) -> None:
    run, call = tmp_path / "run", places(result(patient)["epochs"])[place]
    flags = [*as_flags(data=noise, output=run), *PATIENT]
    train_with_stops(flags, run, signal, ranks=[1, 1], calls=[call], stopping=stopping)
    assert_same_end(run, patient)
    assert "identical: steps 0 to" in verify(run, PYTHONPATH=stopping)


def test_a_run_that_patience_has_ended_is_finished(patient: Path) -> None:
    before = content(patient)
    for flags in ([], ["--epochs", "40", "--patience", "3"]):
        said = resume(patient, *flags)
        assert f"{patient} is finished: test accuracy" in said
        assert said.splitlines()[-1].endswith("--patience N (0: never)")
    assert content(patient) == before


def test_more_patience_continues_to_the_bits_of_a_run_that_always_had_it(
    copy: Path, noise: Path, stopping: str, tmp_path: Path
) -> None:
    more = ["--patience", "5", "--epochs", "10"]
    whole = tmp_path / "whole"
    SERIAL.train(1, whole, "--data", str(noise), *PATIENT, *more, PYTHONPATH=stopping)
    done = train(SERIAL, 1, "--resume", str(copy), *more, PYTHONPATH=stopping)
    assert (done.returncode, done.stderr) == (0, "")
    assert result(copy) == result(whole)
    assert (copy / "weights-best.h5").read_bytes() == (whole / "weights-best.h5").read_bytes()
    assert without_test(copy) == without_test(whole)
    assert "identical: steps 0 to" in verify(copy, PYTHONPATH=stopping)


def without_test(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics without the tests, of which a run that was continued has two."""
    return [
        {name: value for name, value in line.items() if not name.startswith("test_")}
        for line in metrics(run)
    ]


def test_less_patience_stops_at_the_next_evaluation(
    patient: Path, noise: Path, stopping: str, tmp_path: Path
) -> None:
    """The run is stopped in the last epoch, when less patience would have ended it already."""
    run, call = tmp_path / "run", CALLS * result(patient)["epochs"] - 8
    stop = {"STOP_SIGNAL": "SIGUSR1", "STOP_AT_CALL": str(call), "PYTHONPATH": stopping}
    done = train(SERIAL, 1, *as_flags(data=noise, output=run), *PATIENT, **stop)
    assert done.returncode == EXIT_STOPPED, done.stderr
    done = train(SERIAL, 1, "--resume", str(run), "--patience", "1", PYTHONPATH=stopping)
    assert (done.returncode, done.stderr) == (0, "")
    assert result(run)["params_sha256"] == result(patient)["params_sha256"]
    assert "identical: steps 0 to" in verify(run, PYTHONPATH=stopping)


def test_a_lower_target_ends_a_run_that_was_not_tested_yet(
    patient: Path, noise: Path, stopping: str, tmp_path: Path
) -> None:
    """The checkpoint of the best epoch was validated, and reaches the target given on resume."""
    run, best = tmp_path / "run", result(patient)["best_step"]
    call = CALLS * best // STEPS + 2
    stop = {"STOP_SIGNAL": "SIGKILL", "STOP_AT_CALL": str(call), "PYTHONPATH": stopping}
    train(SERIAL, 1, *as_flags(data=noise, output=run), *PATIENT, **stop)
    assert store_of(run).steps()[-1] == best
    reached = str(result(patient)["best_validation_accuracy"])
    done = train(SERIAL, 1, "--resume", str(run), "--target-accuracy", reached, PYTHONPATH=stopping)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"validation accuracy {float(reached):.4f} reached --target-accuracy" in done.stdout
    found = result(run)
    assert (found["steps"], found["best_step"], found["target_reached"]) == (best, best, True)
    assert found["stopped_early"] is False
    assert found["test_accuracy"] == result(patient)["best_test_accuracy"]
    assert "identical: steps 0 to" in verify(run, PYTHONPATH=stopping)


def test_fewer_epochs_end_a_run_at_a_checkpoint_that_was_not_tested_yet(
    copy: Path, patient: Path, stopping: str
) -> None:
    best = result(patient)["best_step"]
    for name in ("result.json", "weights.h5", "weights-best.h5", "SHA256SUMS"):
        (copy / name).unlink()
    for step in store_of(copy).steps():
        if step > best:
            store_of(copy).path_of(step).unlink()
    epochs = str(best // STEPS)
    done = train(SERIAL, 1, "--resume", str(copy), "--epochs", epochs, PYTHONPATH=stopping)
    assert (done.returncode, done.stderr) == (0, "")
    found = result(copy)
    assert (found["steps"], found["best_step"]) == (best, best)
    assert found["validation_accuracy"] == result(patient)["best_validation_accuracy"]
    assert found["test_accuracy"] == result(patient)["best_test_accuracy"]
    assert "identical: steps 0 to" in verify(copy, PYTHONPATH=stopping)


# -- replayed, and damaged


def test_a_replay_from_a_checkpoint_tests_the_best_weights_of_before(
    patient: Path, stopping: str
) -> None:
    steps = result(patient)["steps"]
    said = verify(patient, "--from-step", str(steps - STEPS), PYTHONPATH=stopping)
    assert f"identical: steps {steps - STEPS} to {steps} (" in said


@pytest.mark.parametrize(
    "name", ["best_test_correct", *slow("validation_correct", "validation_loss")]
)
def test_a_replay_finds_a_forged_validation(name: str, copy: Path, stopping: str) -> None:
    lines: list[dict[str, Any]] = receipt(copy)
    [*_, last] = [line for line in lines if line["kind"] == "epoch"]
    last[name] += 1
    write_receipt(copy, lines)
    said = verify(copy, code=DIFFERENT, PYTHONPATH=stopping)
    assert said.splitlines()[-1].startswith("different: ")
    assert name in said


@pytest.mark.slow
def test_a_replay_finds_a_forged_result(copy: Path, stopping: str) -> None:
    found = json.loads((copy / "result.json").read_text())
    (copy / "result.json").write_text(json.dumps({**found, "best_validation_accuracy": 0.9}))
    assert "best_validation_accuracy" in verify(copy, code=DIFFERENT, PYTHONPATH=stopping)


def test_best_weights_that_were_lost_are_said_to_be(copy: Path, stopping: str) -> None:
    found = result(copy)
    for name in ("result.json", "weights.h5", "weights-best.h5", "SHA256SUMS"):
        (copy / name).unlink()
    for step in (found["best_step"], found["steps"]):
        store_of(copy).path_of(step).unlink()
    done = train(SERIAL, 1, "--resume", str(copy), PYTHONPATH=stopping)
    assert done.returncode == 0, done.stderr
    lost = f"the best weights, of step {found['best_step']}, are not tested"
    assert lost in done.stdout + done.stderr
    assert "test accuracy 0.0000" not in done.stdout
    assert "are lost" in done.stdout
    with pytest.raises(dc.InputError, match=r"has no weights-best.h5: use its weights.h5"):
        dc.load(copy, weights="best")
    assert result(copy)["params_sha256"] == found["params_sha256"]
    assert not (copy / "weights-best.h5").exists()


# -- other ways to use it


def test_without_a_validation_set_patience_works_on_the_test_set(
    noise: Path, tmp_path: Path
) -> None:
    flags = [word if word != "stopping:network" else "tutorial" for word in PATIENT]
    where = flags.index("--validation")
    del flags[where : where + 2]
    done = train(SERIAL, 1, *as_flags(data=noise, output=tmp_path / "run"), *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert "notice   the test set chooses" in done.stdout
    assert ": no better test accuracy for 3 evaluations" in done.stdout
    found = result(tmp_path / "run")
    assert found["stopped_early"]
    assert not [name for name in found if "validation" in name]
    assert "identical" in verify(tmp_path / "run")


def test_windows_and_a_debugger_work_with_a_validation_set(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = as_flags(data=image_set(train=1003), model="tutorial", validation=0.1, data_memory=3)
    flags += as_flags(microbatch_size=8, epochs=2, output=tmp_path / "run", trace=2)
    done = train(SERIAL, 1, *flags, "--debug")
    assert done.returncode == 0, done.stderr
    assert "903 training, 100 validation and 77 test images" in done.stdout
    assert "identical" in verify(tmp_path / "run")
    done = train(SERIAL, 1, "--resume", str(tmp_path / "run"), "--break-at-step", "20")
    assert "replayed step 20: loss" in done.stdout


def test_a_network_that_learns_nothing_is_found_on_the_validation_set(
    image_set: MakeImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def zero(input_shape: tuple[int, int, int], classes: int) -> dc.nn.Sequential:
        dense = dc.nn.Dense(classes, weight_initialiser=dc.nn.zeros)
        hidden = dc.nn.Dense(8, weight_initialiser=dc.nn.zeros)
        return dc.nn.Sequential([dc.nn.Flatten(), hidden, dc.nn.ReLU(), dense])

    monkeypatch.setitem(MODELS, "zero", zero)
    said = train_in_process(image_set(), model="zero", validation=40)
    assert any("the network puts all 40 validation images into class" in line for line in said)


def test_the_library_takes_both(noise: Path) -> None:
    class Epochs(dc.Callback):
        def __init__(self) -> None:
            self.values: list[Any] = []

        def on_epoch(self, metrics: Any) -> None:
            self.values.append(metrics)

    images, epochs = dc.datasets.open(noise), Epochs()
    arrays = dc.datasets.from_arrays(*images.read("train"), *images.read("test"))
    trainer = dc.Trainer("mlp", num_shards=4, schedule=dc.optim.Constant())
    settings = {"epochs": 20, "validation": 0.2, "patience": 2}
    run = trainer.fit(arrays, **settings, callbacks=[epochs])  # type: ignore[arg-type]
    assert (run.stopped_early, run.validation_examples) == (True, 41)
    assert "test_loss" not in epochs.values[0]
    assert epochs.values[-1]["test_accuracy"] == run.test_accuracy
    accuracies = [values["validation_accuracy"] for values in epochs.values]
    assert run.best_validation_accuracy == max(accuracies)
    assert len(accuracies) == accuracies.index(max(accuracies)) + 3
    again = trainer.fit(arrays, **settings)  # type: ignore[arg-type]
    assert again.params_sha256 == run.params_sha256


def test_a_file_and_its_arrays_have_the_same_validation_set(noise: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(noise, tmp_path / "noise.h5"))
    with h5py.File(path, "r+") as file:
        del file.attrs["mean"], file.attrs["std"]  # arrays state none
    images, trainer = dc.datasets.open(path), dc.Trainer("mlp", num_shards=4)
    arrays = dc.datasets.from_arrays(*images.read("train"), *images.read("test"))
    of_file, of_arrays = (trainer.fit(data, epochs=1, validation=43) for data in (path, arrays))
    assert of_file.params_sha256 == of_arrays.params_sha256
    assert of_file.validation_loss == of_arrays.validation_loss
    assert of_file.dataset.mean == of_arrays.dataset.mean

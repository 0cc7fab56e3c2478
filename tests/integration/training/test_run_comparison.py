"""``verify RUN_A RUN_B``: the first step, shard and layer at which two runs part, what differs
between them, and whose records this machine reproduces. Runs of 3 epochs of 4 steps.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distcnn import train, verify
from distcnn.random_streams import layer_streams
from tests.conftest import SERIAL, MakeImageSet, as_flags, launcher_of, write_image_set
from tests.support.training_fixtures import (
    CHECKED,
    receipt,
    resume,
    store_of,
    with_path,
    write_receipt,
)

# A layer that adds 0.001 to its output, or to its gradient, in a few shards of a few steps, named
# by its random stream.
RARE_MODEL = """
import numpy as np

from distcnn import models, nn


class Rare(nn.Layer):
    def __init__(self, forward=0.0, backward=0.0):
        self.forward_below, self.backward_below = forward, backward

    def output_shape(self, input_shape):
        return input_shape

    def forward(self, x, call):
        call.saved = call.random.random() if call.training else 1.0
        return x + np.float32(1e-3 * (call.saved < self.forward_below))

    def backward(self, grad_output, call):
        return grad_output + np.float32(1e-3 * (call.saved < self.backward_below))


def network(input_shape, classes, **rare):
    first, *others = models.tutorial(input_shape, classes).layers
    return nn.Sequential([first, Rare(**rare), *others])


def forward(input_shape, classes):
    return network(input_shape, classes, forward=0.05)


def backward(input_shape, classes):
    return network(input_shape, classes, backward=0.05)


def without(input_shape, classes):
    return models.tutorial(input_shape, classes)


def wide(input_shape, classes):
    return nn.Sequential([nn.Conv2d(4, 3), nn.Flatten(), nn.Dense(classes)])


def narrow(input_shape, classes):
    return nn.Sequential([nn.Conv2d(3, 3), nn.Flatten(), nn.Dense(classes)])
"""
RARE = next(
    (step, shard)
    for step in range(12)
    for shard in range(8)
    if layer_streams(0, step, shard)("rare1").random() < 0.05
)
"""The step, from 0, and the shard in which the layer first adds anything."""

Compare = Callable[..., tuple[int, list[str]]]
Train = Callable[..., Path]


@pytest.fixture
def trained(image_set: MakeImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train in this process, with flags beside ``CHECKED``; returns the run directory."""
    (tmp_path / "rare.py").write_text(RARE_MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(name: str, **flags: Any) -> Path:
        path = tmp_path / name
        words = as_flags(**{"data": image_set(), "output": path, **flags})
        assert train.main([*CHECKED, *words]) == 0
        return path

    return run


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str]) -> Compare:
    """Run the command; its exit code and lines."""

    def run(*arguments: object) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = verify.main([str(each) for each in arguments])
        printed = capsys.readouterr()
        assert printed.err == "" or code == 2
        return code, (printed.out + printed.err).splitlines()

    return run


def test_runs_of_the_same_flags_are_identical(
    trained: Train, checked: Path, compare: Compare
) -> None:
    other = trained("other", log_every=3)
    code, lines = compare(checked, other)
    assert code == 0
    assert lines[-1].startswith("identical: steps 0 to 12 (compared: 6 weight hashes, ")
    (line,) = (each for each in lines if each.startswith("configuration: "))
    assert line == f"configuration: --log-every is 50 in {checked}, 3 in {other}"


@pytest.mark.parametrize(
    ("flags", "where"),
    [
        ({"seed": 1}, "step 0: at the beginning, the weights differ: parameter conv1.weight"),
        ({"learning_rate": 0.05}, "step 1: the gradients are the same, but the learning rate is "),
        ({"weight_decay": 0.1}, "step 1: the gradients are the same, but the optimizer's update"),
        ({"reduction": "fast"}, "step 1: each shard's gradients are the same, but the sum of"),
        (
            {"num_shards": 4, "microbatch_size": 16},
            "step 1, shard 0: the choice of examples differs first: shape (8,) and (16,)",
        ),
        ({"normalisation": "0.5/0.5"}, "step 1, shard 0: the input differs first: largest differ"),
        (
            {"loss": "squared-error", "learning_rate": 1e-4},
            "step 1, shard 0: the loss differs first: largest difference ",
        ),
        ({"arithmetic": "portable"}, "step 1, shard 0: the output of conv1 (forward) differs"),
    ],
)
def test_the_first_difference_is_named(
    flags: dict[str, Any], where: str, trained: Train, checked: Path, compare: Compare
) -> None:
    other = trained("other", **flags)
    code, lines = compare(checked, other)
    assert code == 1
    assert lines[-1].startswith(f"different: {where}")
    for name in flags:
        flag = name.replace("_", "-")
        assert any(line.startswith(f"configuration: --{flag} is ") for line in lines)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ("forward", "the output of rare1 (forward)"),
        ("backward", "the gradient of the input of rare1 (backward)"),
    ],
)
def test_the_first_layer_is_named(model: str, what: str, trained: Train, compare: Compare) -> None:
    one, other = trained("one", model="rare:network"), trained("other", model=f"rare:{model}")
    code, lines = compare(one, other, "--trust-model")
    assert code == 1
    step, shard = RARE
    where = f"step {step + 1}, shard {shard}: {what} differs first: largest difference 0.001;"
    assert lines[-1].startswith(f"different: {where}")
    begun = max((each for each in store_of(one).steps() if each <= step), default=0)
    assert any(f": from step {begun} on, to step " in line for line in lines)
    for run in (one, other):  # also where they part before the first line that differs
        assert any(
            line.startswith(f"{run}: this machine reproduces its records up to step ")
            for line in lines
        )


def test_a_layer_that_only_one_run_has_is_named(trained: Train, compare: Compare) -> None:
    one, other = trained("one", model="rare:without"), trained("other", model="rare:forward")
    code, lines = compare(one, other, "--trust-model")
    assert code == 1
    assert f"layers only in {other}: rare1" in lines
    assert lines[-1].startswith("different: step ")


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        ("tutorial", "mlp", "the networks have different parameters: conv1.bias, conv1.weight"),
        ("rare:wide", "rare:narrow", "the networks have different parameters: conv1.weight is (4,"),
    ],
)
def test_networks_of_other_shapes_are_not_replayed(
    one: str, other: str, text: str, trained: Train, compare: Compare
) -> None:
    runs = trained("one", model=one), trained("other", model=other)
    code, lines = compare(*runs, "--trust-model")
    assert code == 1
    assert lines[-1].startswith(f"different: {text}")


def test_another_image_set_is_named(trained: Train, checked: Path, compare: Compare) -> None:
    data = write_image_set(checked.parent / "other.h5", train=204)
    code, lines = compare(checked, trained("other", data=data))
    assert code == 1
    assert any(line.startswith("data: sha256 is ") for line in lines)
    assert any(line.startswith("data: train_examples is 203 in ") for line in lines)
    assert "different: step 1, shard 0: the input differs first" in lines[-1]


# -- records


def altered(run: Path, path: Path, step: int, parameter: str) -> Path:
    """A copy of ``run`` whose receipt has another hash."""
    shutil.copytree(run, path)
    lines = receipt(path)
    (line,) = (each for each in lines if (each["kind"], each["step"]) == ("weights", step))
    line["parameters"][parameter] = "0" * 64
    write_receipt(path, lines)
    return path


def test_records_that_no_replay_gives_are_named(
    checked: Path, tmp_path: Path, compare: Compare
) -> None:
    other = altered(checked, tmp_path / "other", 8, "conv1.bias")
    code, lines = compare(checked, other)
    assert code == 1
    assert f"{checked}: this machine reproduces its records up to step 8" in lines
    (line,) = (each for each in lines if each.startswith(f"{other}: this machine does not"))
    assert ": step 8 " in line
    assert lines[-1].startswith("different: step 8: the weights differ: parameter conv1.bias;")
    assert f"the records of {other} were changed, or made on" in lines[-1]
    third = altered(checked, tmp_path / "third", 8, "conv1.weight")
    code, lines = compare(other, third)
    assert code == 1
    assert f"the records of {other} and {third} were changed" in lines[-1]


def test_records_alone_are_compared_without_data(
    trained: Train, tmp_path: Path, checked: Path, compare: Compare
) -> None:
    data = write_image_set(tmp_path / "own.h5")
    other = trained("other", data=data, seed=1)
    data.unlink()
    code, lines = compare(checked, other)
    assert code == 1
    (line,) = (each for each in lines if each.startswith(f"{other}: cannot be replayed here: "))
    assert "which is not there" in line
    assert lines[-1].startswith(
        "different: step 2: the weights differ: parameter conv1.weight and "
    )
    code, lines = compare(checked, other, "--records-only")
    assert code == 1
    assert not any("cannot be replayed" in line for line in lines)


def test_own_code_is_not_imported_without_trust(trained: Train, compare: Compare) -> None:
    one, other = trained("one", model="rare:network"), trained("other", model="rare:forward")
    code, lines = compare(one, other)
    assert code == 1
    assert sum("--trust-model" in line for line in lines) == 2


def test_a_run_that_went_on_is_the_same_until_then(
    checked: Path, checked_copy: Path, compare: Compare
) -> None:
    resume(checked_copy, "--epochs", "4")
    code, lines = compare(checked, checked_copy)
    assert code == 0
    assert f"configuration: --epochs is 3 in {checked}, 4 in {checked_copy} (from step 12 on)" in (
        lines
    )
    text = f"identical up to step 12, where {checked} ends (compared: 6 weight hashes, "
    assert lines[-1].startswith(text)
    assert compare(checked_copy, checked)[1][-1] == lines[-1]


def test_a_longer_run_is_the_same_up_to_the_last_step_that_both_recorded(
    trained: Train, compare: Compare
) -> None:
    one, other = (trained(f"{steps}", max_steps=steps, log_every=50) for steps in (5, 9))
    code, lines = compare(one, other)
    assert code == 0
    text = f"identical up to step 4, the last that both recorded; {one} ends at step 5, {other} at"
    assert lines[-1].startswith(f"{text} step 9 (compared: 2 weight hashes, ")


@pytest.mark.parametrize("arithmetic", ["native", "portable"])
def test_runs_with_nothing_recorded_in_both_are_replayed(
    arithmetic: str, trained: Train, compare: Compare
) -> None:
    rare = {"check_every": 100, "log_every": 100, "arithmetic": arithmetic}
    one, other = (trained(f"{steps}", max_steps=steps, **rare) for steps in (2, 3))
    for pair in ((one, other), (other, one)):
        code, lines = compare(*pair)
        assert code == 0
        assert lines[-1].startswith(f"identical up to step 2, where {one} ends (replayed; no step")
        assert f"{one}: this machine reproduces its records up to step 2" in lines
    third = trained("third", max_steps=3, seed=1, **rare)
    code, lines = compare(one, third)
    assert code == 1
    assert lines[-1].startswith("different: step 0: at the beginning, the weights differ")


def test_runs_with_nothing_to_compare_are_neither_different_nor_identical(
    trained: Train, tmp_path: Path, compare: Compare
) -> None:
    rare = {"check_every": 100, "log_every": 100}
    one, other = (trained(f"{steps}", max_steps=steps, **rare) for steps in (2, 3))
    changed = altered(one, tmp_path / "changed", 2, "conv1.bias")
    for flags in ((one, other, "--records-only"), (changed, other)):
        code, lines = compare(*flags)
        assert code == 2
        assert "error: nothing to compare: no step has its weights or loss recorded" in lines[-1]
        assert "--check-every" in lines[-1]
    assert f"the records of {changed} were changed, or made on a machine" in lines[-1]


def test_a_run_that_was_resumed_with_other_flags_parts_there(
    finished: Path, killed: Path, compare: Compare
) -> None:
    resume(killed, "--epochs", "4")
    code, lines = compare(finished, killed)
    assert code == 1
    assert f"configuration: --epochs is 3 in {finished}, 4 in {killed} (from step 10 on)" in lines
    assert any(": from step 10 on, to step 12 at most" in line for line in lines)
    assert lines[-1].startswith("different: step 11: the gradients are the same, but the learning")


def test_software_environment_and_source_are_listed_line_by_line(
    checked: Path, checked_copy: Path, compare: Compare
) -> None:
    lines = receipt(checked_copy)
    lines[0]["software"]["numpy"] = "1.0"
    lines[0]["machine"] |= {"processor": "another", "ranks_by_host": {"a": 1, "b": 2}}
    lines[0]["machine"]["mpi"] = "MPICH 5.0.2"
    lines[0]["software"]["arithmetic"] = "5d48"
    lines[0]["model_sources"] = {"mine": "x = 1"}
    write_receipt(checked_copy, lines)
    code, printed = compare(checked, checked_copy)
    assert code == 0
    numpy = receipt(checked)[0]["software"]["numpy"]
    assert f"software: numpy is {numpy} in {checked}, 1.0 in {checked_copy}" in printed
    assert any(
        line.startswith("environment: processor is ")
        and line.endswith(f"another in {checked_copy}")
        for line in printed
    )
    assert any(line.endswith(f"1 rank on a, 2 ranks on b in {checked_copy}") for line in printed)
    assert f"environment: MPI is none in {checked}, MPICH 5.0.2 in {checked_copy}" in printed
    assert any(
        line.startswith("software: hash of products is ")
        and line.endswith(f"5d48 in {checked_copy}")
        for line in printed
    )
    assert any(line.endswith(": module mine is new") for line in printed)


def test_a_portable_run_has_its_environment_beside_the_receipt(
    trained: Train, compare: Compare
) -> None:
    one = trained("one", arithmetic="portable")
    other = trained("other", arithmetic="portable", threads_per_rank=16)  # 2 for each shard
    code, lines = compare(one, other)
    assert code == 0
    assert f"configuration: --threads-per-rank is auto in {one}, 16 in {other}" in lines
    assert f"software: blas_threads is 1 in {one}, 2 in {other}" in lines
    (other / "environment.jsonl").unlink()
    code, lines = compare(one, other)
    assert code == 0
    assert f"{other}: environment.jsonl is missing: what it says is not compared" in lines
    assert not any(line.startswith(("software: ", "environment: ", "data: ")) for line in lines)


def test_files_that_are_missing_are_named(
    trained: Train, image_set: MakeImageSet, compare: Compare
) -> None:
    """A replay does not need those about machines, which are not checked then."""
    run, data = trained("run", arithmetic="portable"), ["--data", image_set()]
    (run / "environment.jsonl").unlink()
    code, lines = compare(run, *data)
    assert code == 0
    assert lines[-2].startswith("identical: steps 0 to 12")
    assert "environment.jsonl, which is missing" in lines[-1]
    assert "timings.jsonl" not in lines[-1]
    other = write_image_set(run.parent / "other.h5", train=204)
    code, lines = compare(run, "--data", other)
    assert code == 1
    assert "different: step 0: the image set's content_sha256 is " in lines[-1]
    code, lines = compare(run)  # on the default image set, if there is one
    assert code == 2
    assert "--data FILE.h5" in lines[-1]
    (run / "metrics.csv").unlink()
    code, lines = compare(run, *data)
    assert code == 1
    assert "different: step 12: metrics.csv is missing, although SHA256SUMS lists it" in lines[-1]
    assert "the weights too" in lines[-1]
    (run / "metrics.jsonl").unlink()
    for flags in ([], ["--sample", "1"]):
        code, (line,) = compare(run, *data, *flags)
        assert code == 2
        assert f"{run}/metrics.jsonl is missing: name the whole run directory" in line


def test_a_receipt_that_was_edited_is_not_identical(
    checked: Path, checked_copy: Path, compare: Compare
) -> None:
    """The lines are equal, but not the chain of their hashes."""
    text = (checked_copy / "receipt.jsonl").read_text()
    (checked_copy / "receipt.jsonl").write_text(text.replace(": ", ":", 1))
    code, lines = compare(checked, checked_copy)
    assert code == 1
    assert lines[-1].startswith(f"different: {checked_copy}: step 0: receipt.jsonl was changed")


def test_metrics_are_compared_only_over_the_same_steps(
    trained: Train, checked: Path, compare: Compare
) -> None:
    """Means since different steps say nothing: only hashes and epochs are left to compare."""
    often, seldom = trained("often", log_every=1), trained("seldom", log_every=3)
    assert compare(often, seldom)[0] == 0


@pytest.mark.parametrize(
    "flags", [["--sample", 1], ["--sample-seed", 1], ["--from-step", 0], ["--to-step", 4]]
)
def test_flags_for_one_run_are_refused(
    flags: list[object], checked: Path, compare: Compare
) -> None:
    code, (line,) = compare(checked, checked, *flags)
    assert code == 2
    assert "leave out --sample, --from-step and --to-step" in line


def test_bad_input_is_one_line(checked: Path, checked_copy: Path, compare: Compare) -> None:
    assert "needs a second run" in compare(checked, "--records-only")[1][0]
    for name, content in (("metrics.jsonl", b"{}\n"), ("receipt.jsonl", b"[]\n")):
        (checked_copy / name).write_bytes(content)
        code, (line,) = compare(checked, checked_copy)
        assert code == 2
        assert f"{checked_copy}/{name} is damaged" in line


@pytest.mark.mpi
@pytest.mark.parametrize("overlap", ["off", "on"])
def test_any_ranks_find_the_same(
    overlap: str, trained: Train, tmp_path: Path, compare: Compare
) -> None:
    one = trained("one", model="rare:network", overlap=overlap)
    other = trained("other", model="rare:forward", overlap=overlap)
    verdict = compare(one, other, "--trust-model")[1][-1]
    done = launcher_of(3).run(
        *(3, "-m", "distcnn.verify", str(one), str(other), "--trust-model"),
        PYTHONPATH=with_path(tmp_path),
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, verdict)


def test_the_run_of_a_failing_processor_is_told_from_a_sound_one(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    """Some bits of a layer's output are flipped in step 7: no settings differ, only records do.

    The module of the failing layer listens to spans, so it stays out of this process.
    """
    flags = ["--data", str(image_set()), *CHECKED, "--model", "tests.support.faulty:network"]
    sound, failing = tmp_path / "sound", tmp_path / "failing"
    SERIAL.train(1, sound, *flags)
    faults = {"FAULT": "random", "FAULT_RANKS": "0", "FAULT_STEP": "6", "FAULTS": "8"}
    SERIAL.train(1, failing, *flags, **faults)
    command = ["-m", "distcnn.verify", "--trust-model", str(sound), str(failing)]
    done = SERIAL.run(1, *command)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert "configuration, data, software and environment: no difference" in lines
    assert f"{sound}: this machine reproduces its records up to step 8" in lines
    assert f"the records of {failing} were changed, or made on a machine" in lines[-1]
    done = SERIAL.run(1, *command[:-2], str(failing), "--sample", "99")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("different: steps 6 to 8: step 8 ")

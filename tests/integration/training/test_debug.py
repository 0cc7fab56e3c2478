"""Debugging in one process: the gradient check, a check after each layer, and the debugger in a run
that was distributed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from distcnn.errors import TrainingError
from distcnn.models import MODELS
from distcnn.training.debug import check_network
from distcnn.training.failures import NotFinite, check_finite
from tests.conftest import SERIAL, Launcher, MakeImageSet, as_flags, clean_environment, mpi_launcher
from tests.support.training_fixtures import content, metrics, prepare, receipt, with_path

QUICK = ["--model", "tutorial", "--epochs", "2", "--microbatch-size", "8"]

OWN_MODELS = """
import numpy as np

from distcnn import nn


class Wrong(nn.Tanh):
    def derivative(self, x, y, out):
        super().derivative(x, y, out)
        out *= 1.01


class Poison(nn.Identity):
    calls = []

    def function(self, x, out):
        super().function(x, out)
        if x.dtype == np.float32:  # not in the gradient check
            self.calls.append(x)
        if len(self.calls) == 2 * (2 * 8 + 3) + 1:  # each shard twice: in step 2, shard 3
            out[5, 3] = np.nan


def wrong(input_shape, classes):
    return nn.Sequential([nn.Flatten(), nn.Dense(20), Wrong(), nn.Dense(classes)])


def poisoned(input_shape, classes):
    return nn.Sequential([nn.Flatten(), nn.Dense(20), Poison(), nn.Tanh(), nn.Dense(classes)])
"""


@pytest.fixture(scope="module")
def own_models(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The PYTHONPATH with ``own:wrong`` and ``own:poisoned``."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(OWN_MODELS)
    return with_path(folder)


def debug(
    *flags: str, commands: str | None = None, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command with ``commands`` on its standard input (None: no standard input)."""
    return subprocess.run(
        [sys.executable, "-m", "distcnn.train", *flags],
        **({"stdin": subprocess.DEVNULL} if commands is None else {"input": commands}),  # type: ignore[arg-type]
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env=clean_environment() | environment,
    )


@pytest.mark.parametrize("model", MODELS)
def test_the_gradients_of_all_named_networks_are_right(model: str, image_set: MakeImageSet) -> None:
    run = prepare(image_set(), model=model, microbatch_size=1)
    said: list[str] = []
    check_network(run, said.append)
    assert said[0].startswith("debug    gradient check passed, relative error ")
    run.training_step.lane.plan.parameters.assign(np.nan)
    with pytest.raises(TrainingError, match=r"shard 0: the parameter .* is nan"):
        run.training_step(0, 0, 0, 0.1)


def test_a_wrong_backward_is_refused(
    own_models: str, image_set: MakeImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(own_models.split(os.pathsep)[-1])
    with pytest.raises(
        TrainingError,
        match=(
            r"^gradient check: the backward of model 'own:wrong' is wrong: relative error 0\.0\d+"
            r" along"
        ),
    ):
        check_network(prepare(image_set(), model="own:wrong"), print)
    done = debug(
        *as_flags(data=image_set(), model="own:wrong", debug=True, output="run"),
        cwd=tmp_path,
        PYTHONPATH=own_models,
    )
    assert done.returncode == 3
    assert "error: gradient check: the backward of model 'own:wrong' is wrong" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_under_debug_has_the_same_bits(image_set: MakeImageSet, tmp_path: Path) -> None:
    plain = SERIAL.train(1, tmp_path / "plain", "--data", str(image_set()), *QUICK)
    debugged = SERIAL.train(1, tmp_path / "debug", "--data", str(image_set()), *QUICK, "--debug")
    assert debugged["params_sha256"] == plain["params_sha256"]


def test_the_layer_that_makes_a_nan_is_named(
    own_models: str, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = ["--data", str(image_set()), *QUICK, "--model", "own:poisoned", "--output", "run"]
    done = debug(*flags, "--debug", cwd=tmp_path, PYTHONPATH=own_models)
    assert done.returncode == 3
    assert (
        "error: step 2, shard 3: the output of poison1 is nan at (5, 3); training examples "
        in done.stderr
    )


def test_what_is_finite_passes_and_the_first_that_is_not_is_named() -> None:
    array = np.zeros((2, 3), np.float32)
    check_finite("output of conv1", array)
    array[1, 0], array[1, 2] = -np.inf, np.nan
    with pytest.raises(NotFinite, match=r"^the output of conv1 is -inf at \(1, 0\)$"):
        check_finite("output of conv1", array)


# -- the debugger


@pytest.fixture(scope="module")
def distributed(image_set: MakeImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 3 ranks with checkpoints of the steps 3, 4, 6 and 8, a loss and a hash for every
    step.
    """
    path = tmp_path_factory.mktemp("distributed") / "run"
    flags = ["--log-every", "1", "--check-every", "1", "--checkpoint-every", "3", "--keep", "9"]
    mpi_launcher().train(3, path, "--data", str(image_set()), *QUICK, *flags)
    return path


LOOK = """p ("at", step, epoch, step_of_epoch, shard.index)
p ("labels", microbatch.labels.tolist())
p ("weights", __import__("hashlib").sha256(plan.parameters.values.tobytes()).hexdigest())
n
"""


@pytest.mark.mpi
@pytest.mark.parametrize(("step", "shard"), [(1, 0), (3, 7), (4, 2), (7, 5)])
def test_the_debugger_shows_what_the_distributed_run_had(
    step: int, shard: int, distributed: Path, image_set: MakeImageSet, tmp_path: Path
) -> None:
    before = content(distributed)
    where = ["--break-at-step", str(step), "--shard", str(shard)]
    done = debug("--resume", str(distributed), *where, commands=LOOK + "c\n", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    owner = prepare(image_set()).training_step.shards[shard]
    with h5py.File(image_set()) as file:
        chosen = owner.order(step // 4)[step % 4 * 8 : step % 4 * 8 + 8] + owner.first_example
        labels = [int(file["train/labels"][each]) for each in chosen]
    assert f"('at', {step}, {step // 4}, {step % 4}, {shard})" in done.stdout
    assert f"('labels', {labels + [0] * (8 - len(labels))})" in done.stdout
    hashes = {
        line["step"]: line["params_sha256"]
        for line in receipt(distributed)
        if line["kind"] == "weights"
    }
    assert f"('weights', '{hashes[step]}')" in done.stdout
    losses = {line["step"]: line["loss"] for line in metrics(distributed) if line["kind"] == "step"}
    assert f"replayed step {step}: loss {losses[step + 1]:.6g}" in done.stdout
    nearest = {1: 0, 3: 3, 4: 4, 7: 6}[step]
    assert (
        f"replay   from step {nearest} to step {step}, shard {shard}, in one process; nothing is"
        " written" in done.stdout
    )
    assert content(distributed) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_after_a_change_of_epochs_each_step_has_the_loss_that_it_had(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    """The cosine spans all epochs, so a change of epochs changes later learning rates."""
    run, seen = tmp_path / "run", {}
    flags = [
        *as_flags(data=image_set()),
        *QUICK,
        *as_flags(warmup_steps=0, log_every=1, checkpoint_every=3, keep=9),
    ]
    SERIAL.train(1, run, *flags)
    assert (
        SERIAL.run(1, "-m", "distcnn.train", "--resume", str(run), "--epochs", "4").returncode == 0
    )
    rates = {line["step"]: line["learning_rate"] for line in metrics(run) if line["kind"] == "step"}
    losses = {line["step"]: line["loss"] for line in metrics(run) if line["kind"] == "step"}
    assert rates[8] < rates[9], "the schedule changed after step 8"
    for step in (8, 9):
        (run / "checkpoints" / f"step-{step:09d}.h5").unlink()
    before = content(run)
    for step, nearest in ((5, 4), (7, 6), (8, 6), (10, 6)):
        done = debug("--resume", str(run), "--break-at-step", str(step), cwd=tmp_path)
        assert f"replay   from step {nearest} to step {step}, " in done.stdout
        seen[step] = done.stdout.splitlines()[-1].removeprefix("(Pdb) ")
    assert seen == {step: f"replayed step {step}: loss {losses[step + 1]:.6g}" for step in seen}
    assert content(run) == before


@pytest.mark.parametrize(
    ("commands", "last"),
    [
        (LOOK + "c\n", "replayed step 5: loss "),
        (LOOK + "q\n", "left the debugger"),
        (LOOK, "replayed step 5: loss "),
        (None, "replayed step 5"),
    ],
)
def test_a_fresh_run_is_debugged_without_writing(
    commands: str | None, last: str, image_set: MakeImageSet, tmp_path: Path
) -> None:
    done = debug(
        *as_flags(data=image_set()),
        *QUICK,
        *as_flags(break_at_step=5, debug=True),
        commands=commands,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "gradient check passed" in done.stdout
    assert done.stdout.splitlines()[-1].removeprefix("(Pdb) ").startswith(last)
    assert ("('at', 5, 1, 1, 0)" in done.stdout) == (commands is not None)
    assert not list(tmp_path.iterdir())


def test_at_the_first_step_the_weights_are_the_first_ones(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    done = debug(
        *as_flags(data=image_set()), *QUICK, *as_flags(break_at_step=0), commands=LOOK, cwd=tmp_path
    )
    first = hashlib.sha256(prepare(image_set()).parameters.values.tobytes()).hexdigest()
    assert f"('weights', '{first}')" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--break-at-step", "8"], "--break-at-step is 8: the run has steps 0 to 7"),
        (
            ["--break-at-step", "2", "--max-steps", "2"],
            "--break-at-step is 2: the run has steps 0 to 1",
        ),
        (["--break-at-step", "-1"], "--break-at-step is -1: it must be 0 or more"),
        (["--break-at-step", "1", "--shard", "8"], "--shard is 8: the run has shards 0 to 7"),
        (["--break-at-step", "1", "--shard", "-2"], "--shard is -2: it must be 0 or more"),
        (["--shard", "1"], "--shard 1 needs a step to stop in: add --break-at-step"),
        (["--break-at-step", "1", "--resume", "none"], "none is not a folder"),
    ],
)
def test_a_place_that_does_not_exist_is_refused(
    flags: list[str], message: str, image_set: MakeImageSet, tmp_path: Path
) -> None:
    given = [] if "--resume" in flags else ["--data", str(image_set()), *QUICK]
    done = debug(*given, *flags, commands="c\n", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.mpi
@pytest.mark.parametrize("flags", [["--debug"], ["--break-at-step", "1"]])
def test_several_ranks_are_refused(
    flags: list[str], mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    done = mpirun.run(
        2,
        "-m",
        "distcnn.train",
        *as_flags(data=image_set()),
        *QUICK,
        *flags,
        *as_flags(output=tmp_path / "run"),
    )
    assert done.returncode == 2
    assert f"{flags[0]} needs one process, not 2 ranks" in done.stderr
    assert done.stderr.count("error:") == 1
    assert not (tmp_path / "run").exists()

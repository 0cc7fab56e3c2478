"""Runs that start from existing weights, and parameters that are not trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import distcnn as dc
from distcnn import nn, optim
from distcnn.config_parsing import parse_request
from distcnn.errors import InputError
from distcnn.interop import read_foreign
from distcnn.verify import main as verify
from tests.conftest import MakeImageSet
from tests.support.training_fixtures import receipt, store_of

MODEL = nn.Sequential([nn.Conv2d(3, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Dense(10)])
FEW = {"num_shards": 4, "microbatch_size": 8}
ADAMW = optim.AdamW(learning_rate=0.01, weight_decay=0.1)
FROZEN = ("conv1.weight", "conv1.bias")


def weights_of(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


@pytest.fixture(scope="session")
def first(image_set: MakeImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to start from. Do not change it."""
    path = tmp_path_factory.mktemp("first") / "run"
    dc.Trainer(MODEL, **FEW).fit(image_set(), epochs=1, output=path)
    return path


@pytest.fixture(scope="session")
def tuned(first: Path, image_set: MakeImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that began with the weights of ``first``, its convolution frozen. Do not change it."""
    path = tmp_path_factory.mktemp("tuned") / "run"
    trainer = dc.Trainer(MODEL, optimizer=ADAMW, initial_weights=first, freeze="conv*", **FEW)
    trainer.fit(image_set(), epochs=2, output=path, checkpoint_every=3, keep=9)
    return path


@pytest.mark.parametrize(
    "optimizer",
    [
        optim.SGD(learning_rate=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
        optim.Adam(learning_rate=0.01, weight_decay=0.1),
        ADAMW,
    ],
)
def test_frozen_parameters_keep_every_bit(
    optimizer: optim.Optimizer, first: Path, image_set: MakeImageSet, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    trainer = dc.Trainer(MODEL, optimizer=optimizer, initial_weights=first, freeze=["conv1"], **FEW)
    trainer.fit(image_set(), epochs=2, output=path)
    before, after = weights_of(first / "weights.h5"), weights_of(path / "weights.h5")
    for name in before:
        assert (before[name].tobytes() == after[name].tobytes()) == (name in FROZEN)
    store = store_of(path)
    arrays = store.load(store.steps()[-1]).arrays
    states = [values for name, values in arrays.items() if name.startswith("optimizer/")]
    assert all(
        np.any(values) != name.endswith(FROZEN)
        for name, values in arrays.items()
        if name.startswith("optimizer/")
    )
    assert states


def test_an_updater_of_parts_does_to_them_what_one_of_all_does() -> None:
    rng = np.random.default_rng(1)
    values, grads = rng.standard_normal((2, 100_000)).astype(np.float32)
    parts = [slice(3, 40_000), slice(70_000, 70_001), slice(99_000, 100_000)]
    whole, partial = values.copy(), values.copy()
    all_of_it, of_parts = ADAMW.start(whole), ADAMW.start(partial, parts)
    for _ in range(3):
        all_of_it.step(whole, grads.copy(), 0.1, count=7)
        of_parts.step(partial, grads.copy(), 0.1, count=7)
    trained = np.zeros(100_000, bool)
    for part in parts:
        trained[part] = True
    assert np.array_equal(partial[trained], whole[trained])
    assert np.array_equal(partial[~trained], values[~trained])


def test_a_run_without_steps_to_speak_of_has_the_initial_weights(
    first: Path, image_set: MakeImageSet, tmp_path: Path
) -> None:
    tiny = optim.SGD(learning_rate=1e-30)
    dc.Trainer(MODEL, optimizer=tiny, initial_weights=first / "weights.h5", **FEW).fit(
        image_set(), max_steps=1, output=tmp_path / "run"
    )
    before, after = weights_of(first / "weights.h5"), weights_of(tmp_path / "run/weights.h5")
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    initial = weights_of(tmp_path / "run/weights-initial.h5")
    assert all(before[name].tobytes() == initial[name].tobytes() for name in before)


def test_a_head_of_other_classes_is_that_of_the_seed(
    first: Path, image_set: MakeImageSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    classes, tiny = image_set(classes=5), optim.SGD(learning_rate=1e-30)
    model = nn.Sequential([*MODEL.layers[:-1], nn.Dense(5)])
    for name, start in {"new": "", "tuned": first}.items():
        trainer = dc.Trainer(model, optimizer=tiny, initial_weights=start, seed=4, **FEW)
        with caplog.at_level("INFO", "distcnn"):
            trainer.fit(classes, max_steps=1, output=tmp_path / name)
    new, tuned = (weights_of(tmp_path / name / "weights.h5") for name in ("new", "tuned"))
    before = weights_of(first / "weights.h5")
    assert np.array_equal(tuned["dense1.weight"], new["dense1.weight"])
    assert np.array_equal(tuned["conv1.weight"], before["conv1.weight"])
    assert "dense1.weight, dense1.bias newly initialised" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"freeze": "conv9"}, ["conv9", "conv1.weight", "dense1.bias"]),
        ({"freeze": ["conv1", "relu1"]}, ["relu1"]),
        ({"freeze": "*"}, ["all parameters"]),
        ({"freeze": " , "}, ["name what to freeze"]),
        ({"initial_weights": "none.npz"}, ["none.npz"]),
        ({"initial_weights": "{first}", "map": "conv1=conv7"}, ["conv7", "conv1.weight"]),
        ({"initial_weights": "{first}", "normalisation": "1,1/1,1"}, ["2 channels"]),
        ({"initial_weights": "{bare}", "normalisation": "weights"}, ["does not record mean"]),
    ],
)
def test_what_is_impossible_is_named(
    arguments: dict[str, Any],
    words: list[str],
    first: Path,
    image_set: MakeImageSet,
    tmp_path: Path,
) -> None:
    bare = tmp_path / "bare.npz"
    np.savez(bare, **weights_of(first / "weights.h5"))
    given = {
        name: value.format(first=first, bare=bare) if isinstance(value, str) else value
        for name, value in arguments.items()
    }
    with pytest.raises(InputError) as caught:
        dc.Trainer(MODEL, **given, **FEW).fit(image_set(), output=tmp_path / "run")
    assert all(word in str(caught.value) for word in words), caught.value
    assert not (tmp_path / "run").exists()


def test_the_normalisation_can_be_that_of_the_weights(
    first: Path, image_set: MakeImageSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = dc.Trainer(MODEL, normalisation="0.25/0.5", **FEW)
    run = given.fit(image_set(), max_steps=1, output=tmp_path / "given")
    assert (run.dataset.mean, run.dataset.std) == ((0.25,), (0.5,))
    of_data = dc.Trainer(MODEL, initial_weights=tmp_path / "given", **FEW)
    with caplog.at_level("INFO", "distcnn"):
        run = of_data.fit(image_set(), max_steps=1, output=tmp_path / "of-data")
    assert run.dataset.mean == dc.load(first).mean
    assert "mean/std 0.25/0.5" in caplog.text
    kept = dc.Trainer(
        MODEL, initial_weights=tmp_path / "given", normalisation="weights", **FEW
    ).fit(image_set(), max_steps=1, output=tmp_path / "kept")
    assert (kept.dataset.mean, kept.dataset.std) == ((0.25,), (0.5,))
    assert verify([str(tmp_path / "kept")]) == 0


@pytest.mark.parametrize("value", [-1.0, np.nan, 1e-320])
def test_an_impossible_std_of_the_weights_is_refused(
    value: float, first: Path, tmp_path: Path
) -> None:
    shutil.copy(first / "weights.h5", tmp_path)
    with h5py.File(tmp_path / "weights.h5", "r+") as file:
        file.attrs["std"] = [value]
    with pytest.raises(InputError, match=rf"weights\.h5.*std .*{value}"):
        read_foreign(tmp_path / "weights.h5")


# -- resume and verify


def copy_as_killed(run: Path, path: Path) -> Path:
    """A copy as a kill leaves it: without results, and without the last checkpoint."""
    shutil.copytree(run, path)
    store = store_of(path)
    for left in ("result.json", "SHA256SUMS", "weights.h5", "weights-best.h5"):
        (path / left).unlink()
    store.path_of(store.steps()[-1]).unlink()
    return path


def without_checkpoints(run: Path, path: Path) -> Path:
    """A copy as a kill before the first checkpoint leaves it."""
    copy_as_killed(run, path)
    shutil.rmtree(path / "checkpoints")
    return path


def resume(run: Path, first: Path | str, data: Path, **more: Any) -> str:
    arguments = {"optimizer": ADAMW, "initial_weights": first, "freeze": "conv*", **more}
    trainer = dc.Trainer(MODEL, **arguments, **FEW)
    return trainer.fit(data, epochs=2, resume=run, checkpoint_every=3, keep=9).params_sha256


@pytest.mark.parametrize("left", [copy_as_killed, without_checkpoints])
def test_a_resumed_run_keeps_its_start(
    left: Any, tuned: Path, first: Path, image_set: MakeImageSet, tmp_path: Path
) -> None:
    run = left(tuned, tmp_path / "run")
    expected = json.loads((tuned / "result.json").read_text())["params_sha256"]
    assert resume(run, first, image_set()) == expected
    assert verify([str(run)]) == 0
    assert receipt(run)[-1] == receipt(tuned)[-1]


def test_the_file_itself_is_not_needed_again(
    tuned: Path, image_set: MakeImageSet, first: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(first, tmp_path / "source"))
    trainer = dc.Trainer(MODEL, initial_weights=source, **FEW)
    trainer.fit(image_set(), max_steps=2, output=tmp_path / "run")
    shutil.rmtree(source)
    assert verify([str(tmp_path / "run")]) == 0


def test_other_flags_contradict_the_run(
    tuned: Path, first: Path, image_set: MakeImageSet, tmp_path: Path
) -> None:
    run = copy_as_killed(tuned, tmp_path / "run")
    for change in ({"freeze": "dense1"}, {"initial_weights": ""}, {"normalisation": "0/1"}):
        with pytest.raises(InputError, match=next(iter(change))):
            resume(run, **{"first": first, "data": image_set(), **change})


def change(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        opened["conv1.bias"][0] += 1


@pytest.mark.parametrize("left", [copy_as_killed, without_checkpoints])
def test_a_changed_start_is_noticed(
    left: Any,
    tuned: Path,
    first: Path,
    image_set: MakeImageSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = left(tuned, tmp_path / "run")
    change(run / "weights-initial.h5")
    with pytest.raises(InputError, match="other initial weights"):
        resume(run, first, image_set())
    assert verify([str(run)]) == 1
    assert "weights-initial.h5" in capsys.readouterr().out


def test_a_missing_copy_is_made_again_from_the_same_file(
    first: Path, tuned: Path, image_set: MakeImageSet, tmp_path: Path
) -> None:
    run = copy_as_killed(tuned, tmp_path / "run")
    kept = (run / "weights-initial.h5").read_bytes()
    (run / "weights-initial.h5").unlink()
    resume(run, first, image_set())
    assert weights_of(run / "weights-initial.h5").keys() == weights_of(first / "weights.h5").keys()
    assert len((run / "weights-initial.h5").read_bytes()) == len(kept)


def test_the_receipt_and_the_sums_hold_the_start(tuned: Path, first: Path) -> None:
    record = receipt(tuned)[0]["initial_weights"]
    before = json.loads((first / "result.json").read_text())
    assert record["file"] == str(first)
    assert record["params_sha256"] == before["params_sha256"]
    assert "weights-initial.h5" in (tuned / "SHA256SUMS").read_text()
    assert not (first / "weights-initial.h5").exists()
    assert "initial_weights" not in receipt(first)[0]


# -- flags


def test_patterns_add_up() -> None:
    flags = ["--freeze", "conv1", "--freeze", "dense1.bias,dense2", "--seed", "3"]
    assert parse_request(flags).config.freeze == "conv1,dense1.bias,dense2"


@pytest.mark.parametrize(
    "flags",
    [
        ["--map", "conv1=a"],
        ["--normalisation", "weights"],
        ["--normalisation", "0.1"],
        ["--normalisation", "0.1/0"],
        ["--normalisation", "0/1e-320"],
        ["--normalisation", "1e300/1"],
        ["--normalisation", "0.1/nan"],
        ["--normalisation", "1,2/3"],
    ],
)
def test_impossible_flags_are_refused(flags: list[str]) -> None:
    with pytest.raises(InputError, match=flags[0]):
        _ = parse_request(flags).config

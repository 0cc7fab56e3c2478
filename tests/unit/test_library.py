"""The public API: training from objects and arrays, loading, predicting, and leaving no trace."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import distcnn as dc
from distcnn import nn
from distcnn.errors import as_arguments
from tests.conftest import MakeImageSet

MODEL = nn.Sequential([nn.Conv2d(3, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Dense(10)])
FEW = {"num_shards": 4, "microbatch_size": 8}


def content(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    with h5py.File(path) as file:
        return {
            split: (file[f"{split}/images"][()], file[f"{split}/labels"][()])
            for split in ("train", "test")
        }


class Doubled(nn.Identity):
    """A user's own layer."""


class SignSGD(dc.optim.Optimizer):
    """A user's own optimizer."""

    def update(self, values: Any, grads: Any, state: Any, rate: float, *_: Any) -> None:
        values -= (rate * np.sign(grads)).astype(values.dtype)


def slower(progress: float) -> float:
    """A user's own schedule."""
    return 1 - progress**2


def twice(outputs: Any, labels: Any, weights: Any) -> tuple[float, Any]:
    """A user's own loss."""
    loss_sum, grad = nn.softmax_cross_entropy(outputs, labels, weights)
    return 2 * loss_sum, 2 * grad


# -- the same bits, however one asks for them


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3)])
def test_arrays_give_the_bits_of_a_file_of_the_same_content(
    shape: tuple[int, ...], image_set: MakeImageSet
) -> None:
    path = image_set(shape=shape)
    arrays = content(path)
    trainer = dc.Trainer(MODEL, **FEW)
    of_file = trainer.fit(path, epochs=2)
    of_arrays = trainer.fit((arrays["train"], arrays["test"]), epochs=2)
    assert of_arrays.params_sha256 == of_file.params_sha256
    assert of_arrays.test_loss == of_file.test_loss


def test_objects_and_names_give_the_same_bits(image_set: MakeImageSet) -> None:
    given = {"optimizer": dc.optim.Adam(learning_rate=0.01), "schedule": dc.optim.Linear(5)}
    by_name = dc.Trainer("tutorial", **given, **FEW).fit(image_set())
    from distcnn.models import tutorial

    by_function = dc.Trainer(tutorial, **given, **FEW).fit(image_set())
    by_layers = dc.Trainer(tutorial((1, 28, 28), 10), **given, **FEW).fit(image_set())
    assert len({run.params_sha256 for run in (by_name, by_function, by_layers)}) == 1
    other = dc.Trainer("tutorial", schedule=dc.optim.Linear(5), **FEW).fit(image_set())
    assert other.params_sha256 != by_name.params_sha256


def test_spot_checks_may_begin_and_end_with_any_call(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    trainer, run = dc.Trainer(MODEL, **FEW), tmp_path / "run"
    plain = trainer.fit(image_set(), max_steps=6)
    trainer.fit(image_set(), max_steps=2, output=run)
    trainer.fit(image_set(), max_steps=4, output=run, resume=True, spot_check=1)
    last = trainer.fit(image_set(), max_steps=6, output=run, resume=True)
    assert (plain.spot_checks, last.spot_checks) == (None, 2 * FEW["num_shards"])
    assert last.params_sha256 == plain.params_sha256
    assert "spot_checks" not in plain.to_json()


def test_own_parts_are_one_class_or_function_each_and_are_resumed(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    model = nn.Sequential([nn.Flatten(), Doubled(), nn.Dense(10)])
    trainer = dc.Trainer(
        model, optimizer=SignSGD(learning_rate=0.01), schedule=slower, loss=twice, **FEW
    )
    whole = trainer.fit(image_set(), epochs=2)
    trainer.fit(image_set(), epochs=2, max_steps=5, output=tmp_path / "run", resume=True)
    resumed = trainer.fit(image_set(), epochs=2, output=tmp_path / "run", resume=True)
    assert resumed.params_sha256 == whole.params_sha256
    again = trainer.fit(image_set(), epochs=2, output=tmp_path / "run", resume=True)
    assert again.params_sha256 == whole.params_sha256
    assert again.network is not None
    loaded = dc.load(tmp_path / "run")
    images = content(image_set())["test"][0]
    np.testing.assert_array_equal(loaded.predict(images), again.network.predict(images))


def test_own_parts_that_are_not_portable_are_named_in_a_portable_run(
    image_set: MakeImageSet, caplog: pytest.LogCaptureFixture
) -> None:
    parts: dict[str, Any] = {"schedule": slower, "loss": twice, **FEW}
    for arithmetic in ("native", "portable"):
        caplog.clear()
        with caplog.at_level("INFO", "distcnn"):
            dc.Trainer(MODEL, arithmetic=arithmetic, **parts).fit(image_set(), max_steps=1)
        named = [line for line in caplog.messages if "portable arithmetic" in line]
        assert len(named) == (0 if arithmetic == "native" else 2)
    assert "softmax_cross_entropy (test_library.py:" in named[0]
    assert "slower uses ** (test_library.py:" in named[1]


def test_a_resume_with_other_arguments_is_refused_in_words_of_arguments(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    dc.Trainer(MODEL, **FEW).fit(image_set(), max_steps=2, output=tmp_path / "run")
    with pytest.raises(dc.InputError, match="seed") as caught:
        dc.Trainer(MODEL, **FEW, seed=1).fit(image_set(), output=tmp_path / "run", resume=True)
    assert "--" not in str(caught.value)


# -- loading


def test_a_run_directory_is_enough_to_predict(image_set: MakeImageSet, tmp_path: Path) -> None:
    arrays = content(image_set())
    run = dc.Trainer(MODEL, **FEW).fit(image_set(), epochs=3, output=tmp_path / "run")
    network = dc.load(tmp_path / "run")
    assert network.model == MODEL
    assert network.class_names == tuple(map(str, range(10)))
    images, labels = arrays["test"]
    score = network.evaluate(images, labels)
    assert (score.correct, score.examples) == (run.test_correct, 77)
    assert score.loss == pytest.approx(run.test_loss)
    probabilities = network.predict(images)
    assert probabilities.shape == (77, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(network.predict(images[..., np.newaxis]), probabilities)
    np.testing.assert_array_equal(network.predict(images[:3]), probabilities[:3])
    for one in (images[0], images[0, ..., np.newaxis]):
        np.testing.assert_array_equal(network.predict(one), probabilities[0])
    assert network.predict(images[:0]).shape == (0, 10)
    assert "dense1" in network.summary()
    assert str(network) == network.summary()
    with pytest.raises(dc.InputError, match="weights is 'first'"):
        dc.load(tmp_path / "run", weights="first")  # type: ignore[arg-type]
    with pytest.raises(dc.InputError, match="model is 'lenet'"):
        dc.load(tmp_path / "run", model="lenet")  # type: ignore[arg-type]


def test_only_a_portable_run_records_its_arithmetic_and_is_loaded_with_it(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    settings = {"optimizer": dc.optim.AdamW(learning_rate=0.01), **FEW}
    for arithmetic in ("native", "portable"):
        trainer = dc.Trainer(MODEL, arithmetic=arithmetic, **settings)
        run = trainer.fit(image_set(), epochs=1, output=tmp_path / arithmetic)
        assert run.network is not None
        loaded = dc.load(tmp_path / arithmetic)
        assert loaded.arithmetic == run.network.arithmetic == arithmetic
        images, labels = content(image_set())["test"]
        assert loaded.evaluate(images, labels).loss == run.test_loss
        with h5py.File(tmp_path / arithmetic / "weights.h5", "r+") as file:
            assert file.attrs.get("arithmetic") == (None if arithmetic == "native" else arithmetic)
            file.attrs["arithmetic"] = "decimal"
        with pytest.raises(dc.InputError, match="arithmetic is 'decimal'"):
            dc.load(tmp_path / arithmetic)


def test_a_run_of_an_older_version_loads_by_its_models_name(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    dc.Trainer("tutorial", **FEW).fit(image_set(), max_steps=1, output=tmp_path / "run")
    with h5py.File(tmp_path / "run" / "weights.h5", "r+") as file:
        del file.attrs["architecture"], file.attrs["microbatch_size"]
    assert dc.load(tmp_path / "run").model == dc.load(tmp_path / "run", weights="best").model


def test_a_users_own_layer_is_not_imported_without_trust(
    image_set: MakeImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential([nn.Flatten(), Doubled(), nn.Dense(10)])
    dc.Trainer(model, **FEW).fit(image_set(), max_steps=1, output=tmp_path / "run")
    assert dc.load(tmp_path / "run").model == model  # its module is imported already
    with h5py.File(tmp_path / "run" / "weights.h5", "r+") as file:
        text = file.attrs["architecture"].replace(__name__, "own_doubled")
        file.attrs["architecture"] = text
    with pytest.raises(dc.InputError, match=r"'own_doubled'.*trust_model=True"):
        dc.load(tmp_path / "run")
    (tmp_path / "own_doubled.py").write_text(
        "from distcnn import nn\n\nclass Doubled(nn.Identity):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "Doubled" in repr(dc.load(tmp_path / "run", trust_model=True).model)
    del sys.modules["own_doubled"]


def test_damaged_weights_are_refused(short_run: Path, tmp_path: Path) -> None:
    shutil.copy(short_run / "weights.h5", tmp_path)
    with h5py.File(tmp_path / "weights.h5", "r+") as file:
        file["dense1.weight"][0, :8] = 0
    with pytest.raises(dc.InputError, match=r"weights\.h5 is damaged .*params_sha256"):
        dc.load(tmp_path)
    with h5py.File(tmp_path / "weights.h5", "r+") as file:
        file.attrs["architecture"] = "Sequential([Unheard(3)])"
    with pytest.raises(dc.InputError, match="has no layer Unheard"):
        dc.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("mean", value) for value in (np.nan, np.inf, 1e300)),
        *(("std", value) for value in (0.0, -1.0, np.nan, np.inf, 1e-320)),
    ],
)
def test_an_impossible_normalisation_is_refused(
    name: str, value: float, short_run: Path, tmp_path: Path
) -> None:
    shutil.copy(short_run / "weights.h5", tmp_path)
    with h5py.File(tmp_path / "weights.h5", "r+") as file:
        file.attrs[name] = [value]
    with pytest.raises(dc.InputError, match=r"weights\.h5: .*finite") as caught:
        dc.load(tmp_path)
    assert f"{(value,)}" in str(caught.value)


def test_a_constant_channel_beside_others_is_loaded() -> None:
    model = nn.Sequential([nn.Flatten(), nn.Dense(2)])
    weights = model.allocate((2, 3, 3)).named()
    network = dc.Network(
        model, weights, image_shape=(2, 3, 3), mean=(0, 0.5), std=(0, 1), class_names="ab"
    )
    assert np.allclose(network.predict(np.ones((1, 3, 3, 2), np.uint8)), 0.5)


def test_only_a_run_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(dc.InputError, match=r"not a run directory.*weights\.h5"):
        dc.load(tmp_path)
    (tmp_path / "weights.h5").write_bytes(b"nonsense")
    with pytest.raises(dc.InputError, match="not a network's weights, or damaged") as caught:
        dc.load(tmp_path)
    assert str(caught.value).count("damaged") == 1
    with pytest.raises(dc.InputError, match="no such run"):
        dc.load(tmp_path / "nothing")
    (tmp_path / "weights.h5").unlink()
    (tmp_path / "config.toml").touch()
    with pytest.raises(dc.InputError, match="has not finished"):
        dc.load(tmp_path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 28, 28)), "uint8"),
        (np.zeros((2, 30, 28), np.uint8), "resize"),
        (np.zeros((2, 28, 28, 3), np.uint8), "convert them to gray"),
        (np.zeros((28, 28, 3), np.uint8), "convert them to gray"),
        (np.zeros((2, 3, 28, 28), np.uint8), "N, 28, 28, 1"),
        ([[1, 2], [3]], "not an array"),
        ("digit.png", "give arrays of pixels"),
    ],
)
def test_images_that_do_not_fit_are_refused(
    images: Any, message: str, image_set: MakeImageSet
) -> None:
    run = dc.Trainer("mlp", **FEW).fit(image_set(), max_steps=1)
    assert run.network is not None
    with pytest.raises(ValueError, match=message):
        run.network.predict(images)


# -- arguments and callbacks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_shards": 0}, "num_shards is 0"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"loss": "mse"}, "loss"),
        ({"reduction": "none"}, "reduction"),
        ({"model": "resnet"}, "resnet"),
        ({"model": [nn.Flatten(), nn.Dense(10)]}, r"model is \[Flatten.*Sequential"),
        ({"loss": None}, "loss is None"),
        ({"schedule": dc.optim.Cosine}, r"schedule is .*Cosine\(warmup_steps"),
        ({"schedule": lambda progress: None}, "returned None for a progress of 0"),
        ({"overlap": True}, "overlap is True: it must be one of auto, on, off"),
        ({"gradient_limit": "x"}, "gradient_limit is 'x': it must be a number"),
        ({"communicator": 3}, "communicator is 3.*COMM_WORLD"),
    ],
)
def test_an_impossible_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        dc.Trainer(**arguments)
    assert "--" not in str(caught.value)


def test_data_of_another_form_is_refused(image_set: MakeImageSet) -> None:
    with pytest.raises(ValueError, match="train_images"):
        dc.Trainer(MODEL).fit((1, 2, 3))  # type: ignore[arg-type]
    images, labels = content(image_set())["train"]
    with pytest.raises(ValueError, match="uint8"):
        dc.Trainer(MODEL).fit(((images / 255, labels), (images / 255, labels)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": None}, "data is a NoneType.*HDF5"),
        ({"data": {"train": 1}}, "data is a dict"),
        ({"output": ""}, "output is ''.*None"),
        ({"callbacks": [dc.Callback]}, "callbacks is .*instances"),
        ({"callbacks": None}, "callbacks is None"),
        ({"stall_timeout": "x"}, "stall_timeout is 'x': it must be a number"),
        ({"resume": True}, "resume is True, but output is None"),
        ({"spot_check": 2}, "spot_check is 2.0: it must be a fraction"),
    ],
)
def test_an_impossible_argument_of_fit_is_named(
    arguments: dict[str, Any], message: str, image_set: MakeImageSet
) -> None:
    with pytest.raises(dc.InputError, match=message):
        dc.Trainer(MODEL).fit(**{"data": image_set(), **arguments})


def test_numbers_may_be_numpys(image_set: MakeImageSet, tmp_path: Path) -> None:
    model = nn.Sequential([nn.Flatten(), nn.Dense(np.int64(10))])  # type: ignore[arg-type]
    rate: Any = np.float32(0.25)
    numbers: Any = {"num_shards": np.int32(4), "microbatch_size": np.int64(8)}
    given: Any = {"max_steps": np.int64(2), "output": tmp_path / "run"}
    first = dc.Trainer(model, optimizer=dc.optim.SGD(learning_rate=rate), **numbers)
    first.fit(image_set(), **given)
    again = dc.Trainer(model, optimizer=dc.optim.SGD(learning_rate=0.25), **FEW)
    run = again.fit(image_set(), max_steps=4, output=tmp_path / "run", resume=True)
    assert run.params_sha256 == again.fit(image_set(), max_steps=4).params_sha256


def test_a_layer_that_nobody_can_import_again_is_named(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    class Inner(nn.Identity):
        pass

    model = nn.Sequential([nn.Flatten(), Inner(), nn.Dense(10)])
    dc.Trainer(model, **FEW).fit(image_set(), max_steps=1, output=tmp_path / "run")
    with pytest.raises(dc.InputError, match=r"inside a function.*model="):
        dc.load(tmp_path / "run")
    assert dc.load(tmp_path / "run", model=model).model == model


def test_image_sets_speak_of_arguments(tmp_path: Path, image_set: MakeImageSet) -> None:
    with pytest.raises(dc.InputError, match=r"no such file.* data ") as caught:
        dc.datasets.open(tmp_path / "none.h5")
    assert "--" not in str(caught.value)
    with pytest.raises(ValueError, match=r"split is 'valid'.*train, test"):
        dc.datasets.open(image_set()).read("valid")


def test_a_loss_that_returns_something_else_is_named(image_set: MakeImageSet) -> None:
    def lost(outputs: Any, labels: Any, weights: Any) -> Any:
        return float(outputs.sum()), weights

    with pytest.raises(ValueError, match=r"loss lost returned .*\(8,\).*loss_sum, grad_outputs"):
        dc.Trainer(MODEL, loss=lost, **FEW).fit(image_set())


def test_flags_become_arguments_except_in_commands() -> None:
    text = "give --num-shards 16 --microbatch-size 8, or --resume RUN; a-b --x\n"
    command = "continue with: python -m distcnn.train --resume RUN --shard 3\n"
    told = "give num_shards=16 microbatch_size=8, or resume='RUN'; a-b --x\n"
    assert as_arguments(text + command + text) == told + command + told


def test_a_failure_names_a_command_only_where_there_is_a_run_directory(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    trainer = dc.Trainer(MODEL, optimizer=dc.optim.SGD(learning_rate=1e20), **FEW)
    with pytest.raises(dc.TrainingError) as nowhere:
        trainer.fit(image_set())
    assert "python -m" not in str(nowhere.value)
    with pytest.raises(dc.TrainingError) as somewhere:
        trainer.fit(image_set(), output=tmp_path / "run")
    assert f"python -m distcnn.train --resume {tmp_path / 'run'}" in str(somewhere.value)


def test_callbacks_hear_of_steps_and_epochs(image_set: MakeImageSet) -> None:
    heard: list[Any] = []

    class Listener(dc.Callback):
        def on_start(self, total_steps: int, steps_taken: int) -> None:
            heard.append(("start", total_steps, steps_taken))

        def on_step(self, step: int, loss: float) -> None:
            heard.append(step)

        def on_epoch(self, metrics: Mapping[str, Any]) -> None:
            heard.append(("epoch", metrics["epoch"], metrics["test_accuracy"]))

        def on_end(self, result: dc.RunResult) -> None:
            heard.append(result.steps)

    run = dc.Trainer(MODEL, **FEW).fit(image_set(), epochs=2, callbacks=[Listener()])
    half = run.steps // 2
    epochs = [heard[half + 1], heard[2 * half + 2]]
    assert heard[0] == ("start", run.steps, 0)
    assert [name for name, *_ in epochs] == ["epoch", "epoch"]
    assert epochs[1][1:] == (2, run.test_accuracy)
    assert heard[-1] == run.steps
    assert [item for item in heard[1:-1] if isinstance(item, int)] == list(range(1, run.steps + 1))


def test_a_callback_that_raises_ends_the_run_at_once(image_set: MakeImageSet) -> None:
    class Fails(dc.Callback):
        def on_step(self, step: int, loss: float) -> None:
            raise KeyError(step)

    with pytest.raises(KeyError, match="1"):
        dc.Trainer(MODEL, **FEW).fit(image_set(), callbacks=[Fails()])


# -- no trace is left


def test_the_process_is_left_as_it_was(image_set: MakeImageSet, tmp_path: Path) -> None:
    def state() -> list[Any]:
        signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return [
            [library["num_threads"] for library in threadpool_info()],
            signals,
            sys.excepthook,
            dict(os.environ),
            sorted(Path().iterdir()),
        ]

    with threadpool_limits(2):
        before = state()
        dc.Trainer(MODEL, **FEW).fit(image_set(), max_steps=2)
        with pytest.raises(dc.InputError):
            dc.Trainer(MODEL, **FEW).fit(tmp_path / "none.h5")
        assert state() == before
        run = dc.Trainer(MODEL, **FEW).fit(
            image_set(), max_steps=2, output=tmp_path / "run", handle_signals=True
        )
        assert state() == before
    assert run.output == str(tmp_path / "run")


def test_two_threads_train_at_once_to_the_same_bits(image_set: MakeImageSet) -> None:
    alone = dc.Trainer(MODEL, **FEW).fit(image_set(), epochs=2).params_sha256
    found: list[str] = []

    def train() -> None:
        found.append(dc.Trainer(MODEL, **FEW).fit(image_set(), epochs=2).params_sha256)

    threads = [threading.Thread(target=train) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone, alone]

"""The results of a run tell everything without the data: classes, statistics, the best weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from distcnn.checkpoints.weights import read_weights
from distcnn.errors import InputError
from distcnn.training.results import damage_of, read_result
from distcnn.training.run_directory import RunDirectory
from distcnn.training.run_files import read_config
from tests.conftest import MakeImageSet
from tests.support.stories import Story, assert_same_weights, once
from tests.support.training_fixtures import prepare, receipt, store_of


def test_the_weights_can_be_used_without_the_data(image_set: MakeImageSet, tmp_path: Path) -> None:
    shutil.copy(image_set(), tmp_path / "set.h5")
    names = [f"Größe {number}" for number in range(10)]
    with h5py.File(tmp_path / "set.h5", "r+") as file:
        file.attrs["class_names"] = names
        del file.attrs["mean"], file.attrs["std"]
        pixels = file["train/images"][()] / 255
    Story(tmp_path / "set.h5", tmp_path / "run").train()
    result = read_result(tmp_path / "run")
    with h5py.File(tmp_path / "run" / "weights.h5") as file:
        about = dict(file.attrs)
    assert list(about["class_names"]) == list(result.dataset.class_names) == names
    assert list(about["image_shape"]) == list(result.dataset.image_shape) == [1, 28, 28]
    np.testing.assert_allclose(
        [about["mean"][0], about["std"][0]], [pixels.mean(), pixels.std()], rtol=1e-9
    )
    assert [list(values) for values in (result.dataset.mean, result.dataset.std)] == [
        about["mean"].tolist(),
        about["std"].tolist(),
    ]


def test_given_statistics_are_kept_and_unnamed_classes_are_numbered(
    image_set: MakeImageSet, left_alone: Path
) -> None:
    with h5py.File(image_set()) as file:
        given = file.attrs["mean"].item(), file.attrs["std"].item()
    dataset = vars(read_result(left_alone).dataset)
    assert ((dataset["mean"][0], dataset["std"][0]), list(dataset["class_names"])) == (
        given,
        [str(number) for number in range(10)],
    )


def test_as_many_names_as_classes_are_asked_for(image_set: MakeImageSet, tmp_path: Path) -> None:
    shutil.copy(image_set(), tmp_path / "set.h5")
    with h5py.File(tmp_path / "set.h5", "r+") as file:
        file.attrs["class_names"] = ["a", "b"]
    with pytest.raises(InputError, match="'class_names' has 2 names for 10 classes"):
        prepare(tmp_path / "set.h5")


OVERTRAINING = {
    "epochs": 5,
    "keep": 1,
    "learning_rate": 0.5,
    "warmup_steps": 0,
    "schedule": "constant",
    "seed": 5,
}
"""Flags of a run of 20 steps whose last test is not its best."""


@pytest.fixture
def overtrained(image_set: MakeImageSet, tmp_path: Path) -> Path:
    path = tmp_path / "run"
    result = Story(image_set(), path, **OVERTRAINING).train()
    assert 0 < result.best_step < result.steps
    return path


def test_the_best_weights_outlive_their_checkpoint(
    overtrained: Path, image_set: MakeImageSet, tmp_path: Path
) -> None:
    again = Story(image_set(), tmp_path / "again", **OVERTRAINING)
    again.train(once(19, lambda: shutil.rmtree(tmp_path / "again")))
    assert_same_weights(tmp_path / "again" / "weights-best.h5", overtrained / "weights-best.h5")


def test_the_best_weights_are_beside_the_last(overtrained: Path) -> None:
    result = read_result(overtrained)
    kept = store_of(overtrained).load(result.best_step).folder("weights")
    with (
        h5py.File(overtrained / "weights-best.h5") as best,
        h5py.File(overtrained / "weights.h5") as last,
    ):
        assert {name: values[()].tobytes() for name, values in best.items()} == {
            name: array.tobytes() for name, array in kept.items()
        }
        assert list(best) == list(last)
        assert (best.attrs["step"], last.attrs["step"]) == (result.best_step, result.steps)
        assert (best.attrs["test_accuracy"], last.attrs["test_accuracy"]) == (
            result.best_test_accuracy,
            result.test_accuracy,
        )
    lines = {
        line["step"]: line["params_sha256"]
        for line in receipt(overtrained)
        if line["kind"] == "weights"
    }
    with h5py.File(overtrained / "weights-best.h5") as best:
        assert best.attrs["params_sha256"] == lines[result.best_step]


def test_lost_best_weights_are_reported_and_an_older_file_is_removed(overtrained: Path) -> None:
    result, said = read_result(overtrained), list[str]()
    store_of(overtrained).path_of(result.best_step).unlink()
    weights, _ = read_weights(overtrained / "weights.h5")
    with ExitStack() as held:
        directory = RunDirectory(overtrained, read_config(overtrained), said.append, held)
        texts = [(overtrained / name).read_text() for name in ("metrics.jsonl", "receipt.jsonl")]
        directory.restore(*texts)
        directory.finish(SimpleNamespace(named=lambda: weights), result)  # type: ignore[arg-type]
    assert "weights-best.h5 is not written" in said[0]
    assert not (overtrained / "weights-best.h5").exists()
    assert damage_of(overtrained) is None


def test_a_run_of_a_version_without_the_table_is_whole(left_alone: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(left_alone, tmp_path / "run"))
    (run / "metrics.csv").unlink()
    assert damage_of(run)
    sums = (run / "SHA256SUMS").read_text().splitlines(keepends=True)
    (run / "SHA256SUMS").write_text("".join(line for line in sums if "metrics.csv" not in line))
    assert damage_of(run) is None


def test_the_checksums_are_those_of_sha256sum(left_alone: Path) -> None:
    """As ``sha256sum --check SHA256SUMS`` reads them."""
    for line in (left_alone / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((left_alone / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(
    "altered", [{"dataset": "x"}, {"dataset": {}}, {"steps": "x"}, {"test_loss": None}]
)
def test_a_damaged_result_is_named(
    altered: dict[str, Any], left_alone: Path, tmp_path: Path
) -> None:
    result = json.loads((left_alone / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps({**result, **altered}))
    with pytest.raises(ValueError, match=r"^result\.json is damaged \(TypeError"):
        read_result(tmp_path)

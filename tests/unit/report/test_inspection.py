"""The network and its test set: code of one's own, and a test set that is too large to show."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import distcnn as dc
from distcnn.report import inspection
from distcnn.report.__main__ import main
from distcnn.report.inspection import inspect
from distcnn.report.records import RunRecords, read_run
from tests.conftest import MakeImageSet

MODULE = "own_halved"
SOURCE = """
from distcnn import nn

class Halved(nn.Layer):
    def output_shape(self, shape):
        return shape

    def forward(self, inputs, call):
        return inputs / 2

    def backward(self, gradient, call):
        return gradient / 2

def network(shape, classes):
    return nn.Sequential([nn.Flatten(), Halved(), nn.Dense(classes)])
"""


def test_code_of_ones_own_runs_with_trust_alone(
    image_set: MakeImageSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    run = tmp_path / "run"
    dc.Trainer(f"{MODULE}:network", num_shards=3).fit(image_set(), max_steps=2, output=run)
    del sys.modules[MODULE]
    assert main([str(run)]) == 0
    assert MODULE not in sys.modules
    assert "--trust-model" in capsys.readouterr().out
    assert "Halved" not in (run / "report.html").read_text()
    assert main([str(run), "--trust-model"]) == 0
    assert "left out" not in capsys.readouterr().out
    assert "Halved()" in (run / "report.html").read_text()
    del sys.modules[MODULE]


def test_of_a_large_test_set_blocks_are_shown_under_their_indices(
    records: RunRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = inspect(records, None, False, {})
    assert whole.score is not None
    monkeypatch.setattr(inspection, "BLOCK", 10)
    monkeypatch.setattr(inspection, "MOST_EXAMPLES", 40)
    part = inspect(records, None, False, {})
    assert part.score is not None
    assert (part.score.examples, part.test_examples) == (40, whole.score.examples)
    of_whole = {mistake.index: mistake.label for mistake in whole.score.mistakes}
    for mistake, _ in part.mistakes:
        assert of_whole[mistake.index] == mistake.label
    assert any(mistake.index >= 40 for mistake, _ in part.mistakes)


def test_weights_that_were_changed_are_noticed(
    image_set: MakeImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    dc.Trainer("tutorial", num_shards=3).fit(image_set(), max_steps=2, output=run)
    (run / "weights.h5").write_bytes(b"not HDF5")
    assert main([str(run)]) == 0
    assert "left out: the weights cannot be read" in capsys.readouterr().out
    assert read_run(run, "run").result is not None

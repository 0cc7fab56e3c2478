"""What is said of ledger, receipt and equal weights, and the command that repeats a run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import distcnn as dc
from distcnn.config import Config
from distcnn.config_parsing import parse_request
from distcnn.report.__main__ import main
from distcnn.report.compared import agreement, comparison
from distcnn.report.inspection import inspect
from distcnn.report.proof import commands, ledger
from distcnn.report.records import RunRecords
from distcnn.report.repetition import changed_flags
from distcnn.training.receipt import Receipt
from tests.conftest import MakeImageSet
from tests.unit.report.conftest import MakeRecords


def weights(step: int, sha256: str) -> dict[str, object]:
    return {"kind": "weights", "step": step, "params_sha256": sha256}


def epoch(step: int, examples: int, **more: object) -> dict[str, object]:
    return {"kind": "epoch", "step": step, "examples": examples, **more}


def test_the_ledger_counts_whole_epochs_alone(make_records: MakeRecords) -> None:
    lines = [epoch(1, 8, order_sha256="x"), epoch(2, 8, order_sha256="y"), epoch(3, 5)]
    lines.insert(1, lines[1])  # a resume has ended the run there before, and evaluated again
    told = " ".join(ledger(make_records("a", [*lines, weights(3, "z")], ranks=3)))
    assert "8 training examples was used exactly once in each of 2 epochs" in told
    assert "at step 3, used 5 examples" in told
    assert "all ranks (3) were compared by hash 1 time" in told
    made = make_records("a", [])
    assert made.receipt is not None
    broken = replace(made, receipt=replace(made.receipt, problem="step 2: it was changed"))
    assert "not as it was written: step 2: it was changed." in ledger(broken)[-1]
    assert "There is no receipt" in " ".join(ledger(make_records("b")))


def test_spot_checks_are_counted(records: RunRecords) -> None:
    assert records.result is not None
    assert "Spot checks" not in " ".join(ledger(records))
    checked = replace(records, result=replace(records.result, spot_checks=24))
    assert "Spot checks computed 24 shards a second time" in " ".join(ledger(checked))


def test_runs_are_compared_step_by_step(make_records: MakeRecords) -> None:
    one = make_records("a", [weights(1, "x"), weights(2, "y"), weights(3, "z")])
    other = make_records("b", [weights(1, "x"), weights(3, "q")])
    [told] = agreement([one, other])
    assert "the same up to step 1, and different at step 3" in told
    [told] = agreement([one, make_records("c", [weights(1, "x")])])
    assert "the same weights, bit for bit" in told
    assert agreement([one, make_records("d", [])]) == []
    [told] = agreement([one, make_records("e", [weights(1, "q")])])
    assert "different at step 1" in told
    other_seed = make_records("f", [weights(1, "q")])
    configured = [replace(one, config=Config()), replace(other_seed, config=Config(seed=1))]
    assert agreement(configured) == [], "as is to be expected"


def test_what_no_run_has_is_not_compared(make_records: MakeRecords) -> None:
    one, other = make_records("a", []), make_records("b", [], validation_accuracy=[(1, 0.5)])
    for runs, is_shown in (([one, one], False), ([one, other], True)):
        names = [row[0] for row in comparison(runs)[0].rows]
        assert ("Validation accuracy" in names) == is_shown


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(model="wide", seed=7),
        Config(target_accuracy=0.9, epochs=3, warmup_steps=0),
        Config(validation=100.0, data="set.0", normalisation="0.5/1.0", learning_rate=1e-5),
    ],
)
def test_the_flags_repeat_the_configuration(config: Config) -> None:
    assert parse_request(changed_flags(config)).config == config


def test_commands_leave_out_what_a_repetition_does_not_need() -> None:
    assert changed_flags(Config(tensorboard=True, trace=5, output="there")) == []


def test_a_run_of_arrays_has_a_page_without_its_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    part = rng.integers(0, 256, (60, 8, 8), np.uint8), np.arange(60) % 3
    trainer = dc.Trainer("mlp", num_shards=2, microbatch_size=4)
    trainer.fit((part, part), epochs=9, validation=9, patience=1, output=tmp_path / "run")
    assert main([str(tmp_path / "run")]) == 0
    assert "left out: the run was trained on arrays in memory" in capsys.readouterr().out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "The run was trained on arrays, from Python" in page
    assert "the run was trained on arrays in memory" in page
    assert "It ended early: the validation accuracy had stopped improving" in page
    assert "distcnn.train" not in page
    assert "distcnn.verify" not in page


def test_a_run_is_looked_at_without_its_data(records: RunRecords, tmp_path: Path) -> None:
    found = inspect(records, str(tmp_path / "none.h5"), False, {})
    assert found.score is None
    assert "none.h5" in found.missing["test"]
    assert found.filters is not None
    assert [layer.name for layer in found.layers][:2] == ["conv1", "maxpool1"]
    assert records.result is not None
    assert found.weights_sha256 == records.result.params_sha256


def test_a_page_says_that_the_image_set_is_missing(run: Path, tmp_path: Path) -> None:
    page, copy = tmp_path / "page.html", tmp_path / "run"
    shutil.copytree(run, copy)
    result = json.loads((copy / "result.json").read_text())
    result["dataset"]["path"] = str(tmp_path / "none.h5")
    (copy / "result.json").write_text(json.dumps(result))
    assert main([str(copy), "--output", str(page)]) == 0
    assert page.read_text().count("none.h5") >= 2


def test_a_named_image_set_that_cannot_be_used_leaves_the_older_page(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    page.write_text("older")
    assert main([str(run), "--data", str(tmp_path / "none.h5"), "--output", str(page)]) == 2
    assert "none.h5" in capsys.readouterr().err
    assert page.read_text() == "older"


@pytest.mark.parametrize("arithmetic", ["native", "portable"])
def test_what_the_same_bits_need_depends_on_the_arithmetic(
    arithmetic: str, image_set: MakeImageSet, tmp_path: Path
) -> None:
    trainer = dc.Trainer("mlp", arithmetic=arithmetic)
    trainer.fit(image_set(), max_steps=1, output=tmp_path / "run")
    assert main([str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert ("same software and type of processor" in page) == (arithmetic == "native")
    assert ("every machine gets the same bits" in page) == (arithmetic == "portable")


def test_the_test_set_is_scored_as_the_run_scored_it(records: RunRecords) -> None:
    found = inspect(records, None, False, {})
    assert found.score is not None
    assert records.result is not None
    assert found.score.correct == records.result.test_correct
    assert inspect(records, None, False, {"first": found}).same_as == "first"


def test_a_page_that_cannot_be_written_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("page.txt", "no/such/folder/page.html"):
        assert main([str(run), "--output", str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_run_that_no_commands_repeat_names_the_replay(records: RunRecords) -> None:
    assert records.receipt
    assert records.config
    start = records.receipt.starts[0]
    resume = {**start, "kind": "resume", "step": 1}
    config = start["configuration"]
    for changes, is_repeatable in (({}, True), ({"epochs": 9}, True), ({"patience": 3}, False)):
        line = {**resume, "configuration": {**config, **changes}}
        changed = replace(records, receipt=Receipt([start, line]))
        shown, note = commands(changed)
        assert any("distcnn.train" in command for _, command in shown) == is_repeatable
        assert ("python -m distcnn.verify" in note) != is_repeatable

"""The report on runs of the command."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from distcnn.report.__main__ import main
from distcnn.report.proof import commands
from distcnn.report.records import read_run
from tests.conftest import Launcher, MakeImageSet, as_flags

AGAIN = "Train it again, on any number of ranks"


def test_it_reports_on_runs(
    serial: Launcher, image_set: MakeImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        serial.train(1, tmp_path / name, *as_flags(data=image_set(), model="mlp", epochs=2))
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "same weights" in (tmp_path / "a" / "report.html").read_text()
    assert "test accuracy" in capsys.readouterr().out


def train_again(serial: Launcher, run: Path, new: Path) -> tuple[dict[str, Any], int]:
    """The result of the commands that the page of ``run`` shows, and how many they are."""
    lines = dict(commands(read_run(run, "run"))[0])[AGAIN].splitlines()
    for line in lines:
        words = [str(new) if word == "NEW" else word for word in shlex.split(line)]
        done = serial.run(1, *words[1:])
        assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads((new / "result.json").read_text())
    return result, len(lines)


def resume(serial: Launcher, run: Path, **flags: object) -> dict[str, Any]:
    done = serial.run(1, "-m", "distcnn.train", *as_flags(resume=run, **flags))
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


def test_the_commands_train_a_continued_run_again(
    serial: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    flags = as_flags(data=image_set(), model="tutorial", epochs=2, num_shards=3)
    serial.train(1, run, *flags)
    resume(serial, run, epochs=3)
    last = resume(serial, run, epochs=9, patience=1)
    assert last["stopped_early"]
    again, number = train_again(serial, run, tmp_path / "new")
    assert (again["params_sha256"], again["steps"]) == (last["params_sha256"], last["steps"])
    assert number == 3


def test_the_commands_train_an_interrupted_run_again(
    serial: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    flags = as_flags(data=image_set(), model="tutorial", epochs=2, num_shards=3, keep=99)
    steps = serial.train(1, run, *flags, "--checkpoint-every", "1")["steps"]
    (run / "result.json").unlink()
    for checkpoint in sorted((run / "checkpoints").iterdir())[1:]:
        checkpoint.unlink()
    last = resume(serial, run, epochs=3)
    assert last["steps"] > steps > 1
    again, number = train_again(serial, run, tmp_path / "new")
    assert again["params_sha256"] == last["params_sha256"]
    assert number == 2


def test_the_commands_train_a_fine_tuned_run_again_without_its_origin(
    serial: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    origin, run = tmp_path / "origin", tmp_path / "run"
    flags = as_flags(data=image_set(), model="tutorial", epochs=1, num_shards=3)
    serial.train(1, origin, *flags)
    more = as_flags(initial_weights=origin, normalisation="weights", freeze="conv1", map="conv*")
    last = serial.train(1, run, *flags, *more, "--seed", "1")
    shutil.rmtree(origin)
    again, _ = train_again(serial, run, tmp_path / "new")
    assert again["params_sha256"] == last["params_sha256"]

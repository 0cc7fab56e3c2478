"""What ``distcnn.train`` prints: by default, with ``--quiet`` and with ``--verbose``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distcnn import train
from distcnn.config_parsing import parse_request
from distcnn.errors import InputError
from distcnn.training.progress import Progress
from distcnn.training.run_files import read_config
from distcnn.training.time_left import TimeLeft
from tests.conftest import MakeImageSet, as_flags

Printed = Callable[..., list[str]]


@pytest.fixture
def printed(
    image_set: MakeImageSet,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Printed:
    """The lines of a small run in ``tmp_path / name``; even the shortest phases count as long."""
    monkeypatch.setattr("distcnn.training.details.LEAST_SECONDS", 0)

    def run(*flags: str, name: str = "run", **values: float) -> list[str]:
        own = {"model": "tutorial", "microbatch_size": 8, "epochs": 2, **values}
        small = as_flags(data=image_set(), output=tmp_path / name, **own)
        assert train.main([*small, *flags]) == 0
        said = capfd.readouterr()
        assert said.err == ""
        return said.out.splitlines()

    return run


def kinds(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines]


def test_every_line_of_an_epoch_says_how_long_it_took(printed: Printed) -> None:
    lines = printed(log_every=2)
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == 2
    assert all(line.rpartition(" took ")[2].endswith(" s") for line in epochs)
    assert {"model", "data", "ranks", "step", "weights"} <= set(kinds(lines))


def test_quiet_keeps_warnings_and_the_result(printed: Printed, tmp_path: Path) -> None:
    lines = printed("--quiet", log_every=1)
    assert lines[0].startswith("warning: the whole run is 8 steps")
    assert lines[1].startswith("test accuracy ")
    assert lines[-1] == f"results in {tmp_path / 'run'}"
    assert not {"step", "epoch", "model", "ranks"} & set(kinds(lines))


def test_verbose_adds_layers_ranks_and_phases(printed: Printed, image_set: MakeImageSet) -> None:
    lines = printed("--verbose")
    text = "\n".join(lines)
    assert "conv1" in text
    assert f"images   {image_set().absolute()}, SHA-256 of the examples " in text
    assert "shards 0-7, 203 examples" in text
    for step in (4, 8):
        assert f"time     write checkpoint, step {step}: " in text
    assert text.count("time     evaluation, split test: ") == 2
    assert {"model", "step", "epoch", "weights"} <= set(kinds(lines))


def test_they_belong_to_the_command_and_not_to_the_run(
    printed: Printed, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, flags in {"quiet": ["--quiet"], "verbose": ["--verbose"], "plain": []}.items():
        printed(*flags, name=name)
    plain, *others = (vars(read_config(tmp_path / name)) for name in ("plain", "quiet", "verbose"))
    for config in others:
        assert {**config, "output": plain["output"]} == plain
    assert train.main(["--resume", str(tmp_path / "quiet"), "--epochs", "3"]) == 0
    assert "epoch 3: " in capfd.readouterr().out


def test_they_exclude_each_other() -> None:
    with pytest.raises(InputError, match="--quiet and --verbose exclude each other"):
        parse_request(["--quiet", "--verbose"])


def test_verbose_tells_evaluations_apart(printed: Printed) -> None:
    # At this rate the first evaluation is the best, so that the end has two tests.
    lines = printed("--verbose", validation=20, learning_rate=1e-9)
    times = [line.partition(": ")[0][9:] for line in lines if "evaluation, " in line]
    validation, test = "evaluation, split validation", "evaluation, split test"
    assert times == [validation, validation, f"{test}, weights best", test]


@pytest.mark.parametrize("terminal", ["xterm", "dumb"])
def test_a_terminal_has_a_bar_that_ends_with_the_last_step(
    terminal: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setattr("distcnn.training.progress.watched_columns", lambda: 79)
    work = iter(range(1000, 0, -10))
    progress = Progress()
    clock = iter(range(1000))
    progress.start(5, 0, TimeLeft(lambda: next(work), clock=lambda: next(clock)))
    for step in range(3):
        progress.step(0.5 - step / 10, 100.0)
    progress.close()
    written = capsys.readouterr().out
    assert ("%|" in written) == (terminal == "xterm")
    if terminal == "xterm":
        assert written.endswith("| 3/5, loss 0.3000, 100 images/s\n")

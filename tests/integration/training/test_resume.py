"""A stopped or killed run that is resumed on any ranks ends like an uninterrupted one;
contradictions are refused.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from distcnn.checkpoints import CheckpointStore
from distcnn.config import Config
from distcnn.config_parsing import Request
from distcnn.errors import InputError
from distcnn.training.resume import changed_lengths, existing_run, find_resume_point, open_directory
from distcnn.training.run_files import locked, read_config, write_config
from tests.conftest import ROOT, SERIAL, MakeImageSet, as_flags, launcher_of, slow, write_image_set
from tests.support.full_disk import full_disk
from tests.support.training_fixtures import (
    assert_same_end,
    content,
    metrics,
    receipt,
    result,
    train,
    train_with_stops,
)

# With the default image set (203 examples, 8 shards) 4 steps an epoch; on one rank 8 calls of
# forward a step, and 10 in each test.
QUICK = as_flags(model="stopping:network", epochs=3, microbatch_size=8, log_every=3, check_every=2)
QUICK += ["--checkpoint-every", "3"]
CONSTANT = ["--schedule", "constant", "--warmup-steps", "0"]
EXIT_STOPPED = 85


@pytest.fixture(scope="module")
def whole(image_set: MakeImageSet, stopping: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one rank that was not stopped."""
    path = tmp_path_factory.mktemp("whole") / "run"
    SERIAL.train(1, path, "--data", str(image_set()), *QUICK, PYTHONPATH=stopping)
    assert [line["examples"] for line in receipt(path) if line["kind"] == "epoch"] == [203] * 3
    return path


@pytest.fixture(scope="module")
def stopped(
    image_set: MakeImageSet, stopping: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run on one rank that was stopped after step 6, in the second epoch."""
    path = tmp_path_factory.mktemp("stopped") / "run"
    flags = ["--data", str(image_set()), *QUICK, "--output", str(path)]
    stop = {"STOP_SIGNAL": "SIGUSR1", "STOP_AT_CALL": str(5 * 8 + 10 + 4)}
    done = train(SERIAL, 1, *flags, PYTHONPATH=stopping, **stop)
    assert done.returncode == EXIT_STOPPED, done.stderr
    assert "after step 6 of 12; checkpoint saved" in done.stderr
    assert (
        f"continue with: python -m distcnn.train --resume {path} --model stopping:network\n"
        in done.stderr
    )
    return path


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    """A copy of ``stopped`` that a test may change."""
    return Path(shutil.copytree(stopped, tmp_path / "copy"))


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 3, *slow(2, 5, 8)])
def test_a_stopped_run_continues_on_any_ranks(
    ranks: int, copy: Path, whole: Path, stopping: str
) -> None:
    configuration = (copy / "config.toml").read_text()
    done = train(launcher_of(ranks), ranks, "--resume", str(copy), PYTHONPATH=stopping)
    assert done.returncode == 0, done.stderr
    assert f"resumed  {copy}, after 6 of 12 steps, started on 1 rank" in done.stdout
    assert_same_end(copy, whole)
    starts = [
        (line["kind"], line["step"], line["world_size"])
        for line in receipt(copy)
        if line["kind"] in ("start", "resume")
    ]
    assert starts == [("start", 0, 1), ("resume", 6, ranks)]
    assert (copy / "config.toml").read_text() == configuration


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("signal", "ranks", "calls"),
    [
        # In the middle of epoch 1 (2 shards a step on rank 0), then in the middle of epoch 2.
        ("SIGUSR1", (3, 1, 2), (5, 30)),
        *slow(
            # In an epoch's last step, before its test.
            ("SIGUSR1", (1, 4, 8), (4 * 8, 2)),
            # No chance to save: the last checkpoints are of step 3 or of an epoch's end.
            ("SIGKILL", (2, 3, 1), (4 * 4 + 3, 9)),
            ("SIGKILL", (1, 5, 4), (7 * 8 + 10, 3)),
        ),
    ],
)
def test_a_run_stopped_twice_ends_as_one_never_stopped(
    signal: str,
    ranks: tuple[int, ...],
    calls: tuple[int, ...],
    image_set: MakeImageSet,
    whole: Path,
    stopping: str,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    flags = ["--data", str(image_set()), *QUICK, "--output", str(run)]
    train_with_stops(flags, run, signal, ranks, calls, stopping)
    assert_same_end(run, whole, begun_on=ranks[0])


def test_a_run_killed_before_its_first_checkpoint_begins_again(
    image_set: MakeImageSet, whole: Path, stopping: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    flags = ["--data", str(image_set()), *QUICK, "--output", str(run)]
    stop = {"STOP_SIGNAL": "SIGKILL", "STOP_AT_CALL": "17"}
    assert train(SERIAL, 1, *flags, PYTHONPATH=stopping, **stop).returncode == -9
    done = train(SERIAL, 1, "--resume", str(run), PYTHONPATH=stopping)
    assert "has no complete checkpoint: the run starts again from its first step" in done.stdout
    assert_same_end(run, whole)


def test_a_damaged_checkpoint_is_passed_over(copy: Path, whole: Path, stopping: str) -> None:
    newest = copy / "checkpoints" / "step-000000006.h5"
    newest.write_bytes(newest.read_bytes()[:-1])
    done = train(SERIAL, 1, "--resume", str(copy), PYTHONPATH=stopping)
    assert f"checkpoint {newest} is damaged" in done.stdout
    assert f"resumed  {copy}, after 4 of 12 steps" in done.stdout
    assert_same_end(copy, whole)


# -- what may change


@pytest.mark.parametrize("flags", [["--epochs", "4", "--max-steps", "9"], *slow(["--epochs", "4"])])
def test_a_finished_run_is_extended_to_the_bits_of_the_longer_one(
    flags: list[str], image_set: MakeImageSet, tmp_path: Path
) -> None:
    common = [*as_flags(data=image_set(), model="tutorial", microbatch_size=8), *CONSTANT]
    SERIAL.train(1, tmp_path / "run", *common, "--epochs", "2")
    SERIAL.train(1, tmp_path / "long", *common, *flags)
    done = train(SERIAL, 1, "--resume", str(tmp_path / "run"), *flags)
    assert done.returncode == 0, done.stderr
    assert_same_end(tmp_path / "run", tmp_path / "long")
    assert (tmp_path / "run" / "result-until-step-8.json").exists()


def test_flags_that_decide_no_bits_may_change(
    copy: Path, whole: Path, image_set: MakeImageSet, stopping: str, tmp_path: Path
) -> None:
    moved = shutil.copy(image_set(), tmp_path / "moved.h5")
    flags = as_flags(data=moved, log_every=1, eval_every=0, checkpoint_every=2, keep=9)
    flags += as_flags(resume=copy, check_every=1, stall_timeout=100)
    done = train(SERIAL, 1, *flags, PYTHONPATH=stopping)
    assert done.returncode == 0, done.stderr
    assert result(copy)["params_sha256"] == result(whole)["params_sha256"]
    assert [line["step"] for line in metrics(copy) if line["kind"] == "step"] == [
        3,
        4,
        *range(6, 13),
    ]
    assert [line["step"] for line in metrics(copy) if "test_loss" in line] == [4, 12]
    assert [line["step"] for line in receipt(copy) if line["kind"] == "weights"] == [
        2,
        4,
        *range(6, 13),
    ]
    assert CheckpointStore(copy / "checkpoints").steps() == [3, 4, 6, 8, 10, 12]
    assert f'data = "{moved}"' in (copy / "config.toml").read_text()


def test_another_output_leaves_the_run_as_it_was(
    copy: Path, whole: Path, stopping: str, tmp_path: Path
) -> None:
    newest = copy / "checkpoints" / "step-000000006.h5"
    newest.write_bytes(newest.read_bytes()[:-1])
    before = content(copy)
    done = train(SERIAL, 1, *as_flags(resume=copy, output=tmp_path / "new"), PYTHONPATH=stopping)
    assert done.returncode == 0, done.stderr
    assert f"checkpoint {newest} is damaged" in done.stdout
    assert content(copy) == before
    assert_same_end(tmp_path / "new", whole)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        path.name for path in whole.iterdir()
    }


def test_a_run_that_continues_elsewhere_and_is_killed_at_once_ends_in_the_same_bits(
    copy: Path, stopping: str, tmp_path: Path
) -> None:
    elsewhere, longer = tmp_path / "elsewhere", ["--epochs", "4"]
    flags = ["--resume", str(copy), "--output", str(elsewhere), *longer]
    stop = {"STOP_SIGNAL": "SIGKILL", "STOP_AT_CALL": "3"}
    assert train(SERIAL, 1, *flags, PYTHONPATH=stopping, **stop).returncode == -9
    assert CheckpointStore(elsewhere / "checkpoints").steps() == [4, 6]  # the best one too
    for flags in (["--resume", str(elsewhere)], ["--resume", str(copy), *longer]):
        done = train(SERIAL, 1, *flags, PYTHONPATH=stopping)
        assert (done.returncode, "after 6 of 16 steps" in done.stdout) == (0, True), done.stderr
    assert_same_end(elsewhere, copy)


@pytest.mark.parametrize("room_for", range(3))
def test_a_folder_to_continue_in_is_complete_or_absent(
    room_for: int, copy: Path, tmp_path: Path
) -> None:
    """Two checkpoints come before the configuration; without room for all three, none remains."""
    request = Request(
        {"output": str(tmp_path / "new" / "run"), "epochs": 4}, resume=str(copy), trust_model=True
    )
    point = find_resume_point(request, print)
    with (
        full_disk(room_for),
        ExitStack() as held,
        pytest.raises(InputError, match="No space left on device"),
    ):
        open_directory(point.config, point, held)
    assert not (tmp_path / "new").exists()
    with ExitStack() as held:
        path = open_directory(point.config, point, held)
    (path / "config.toml").unlink()  # then the checkpoint's configuration counts
    assert (
        find_resume_point(Request({}, resume=str(path), trust_model=True), print).config.epochs == 4
    )


def test_steps_taken_again_with_another_length_are_reported(tmp_path: Path) -> None:
    def line(kind: str, step: int, **flags: Any) -> str:
        config = dataclasses.asdict(Config(microbatch_size=8, **flags))
        values = {"kind": kind, "step": step, "configuration": config}
        return json.dumps({**values, "dataset": {"train_examples": 203}}) + "\n"

    def told(step: int, **flags: Any) -> bool:
        return "--epochs 3" in changed_lengths(tmp_path, step, Config(microbatch_size=8, **flags))

    assert not told(0, epochs=4)
    for lasting in ({}, {"schedule": "constant", "warmup_steps": 0}, {"cycle_epochs": 1}):
        last = json.dumps({"kind": "weights", "step": 14}) + "\n"
        (tmp_path / "receipt.jsonl").write_text(
            line("start", 0, epochs=3, **lasting) + line("resume", 12, epochs=4, **lasting) + last
        )
        for step, again in ((0, True), (8, True), (12, False), (14, False)):
            assert told(step, epochs=4, **lasting) == (again and not lasting)
    for damaged in ("", "{", "[]\n", "7\n", line("start", 0, epochs=3) + '{"step": "x"}\n'):
        (tmp_path / "receipt.jsonl").write_text(damaged)
        assert not told(0, epochs=4)


# -- what is refused


def refuse(run: Path, *flags: str) -> str:
    """The one line of a resume that is refused with exit code 2 and changes nothing."""
    before = content(run)
    done = train(SERIAL, 1, "--resume", str(run), *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert content(run) == before
    return done.stderr


def test_all_flags_that_contradict_the_run_are_named(copy: Path) -> None:
    given = as_flags(model="mlp", num_shards=4, microbatch_size=9, optimizer="adam", seed=1)
    given += as_flags(learning_rate=0.5, schedule="linear", reduction="fast", gradient_limit=2.0)
    line = refuse(copy, *given, "--epochs", "9")
    named = re.findall(r"(--[a-z-]+) (\S+) \(the run has", line)
    assert {word for pair in named for word in pair} == set(given)
    refused, may_change = line.split("only these may change: ")
    assert "--epochs" not in refused
    assert "--epochs, " in may_change
    assert "--threads-per-rank" not in may_change
    assert "--seed 1 (the run has 0)" in refuse(copy, "--seed", "1", "--microbatch-size", "8")


def test_a_configuration_that_contradicts_the_checkpoint_is_refused(copy: Path) -> None:
    write_config(copy, dataclasses.replace(read_config(copy), seed=3, keep=9))
    for flags in ([], ["--break-at-step", "7"]):
        line = refuse(copy, *flags)
        assert f"{copy / 'config.toml'} was changed" in line
        assert "--seed 3 (the run has 0)" in line


def test_what_is_refused_sets_no_damaged_checkpoint_aside(copy: Path) -> None:
    newest = copy / "checkpoints" / "step-000000006.h5"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert "--seed 1 (the run has 0)" in refuse(copy, "--seed", "1")
    write_config(copy, dataclasses.replace(read_config(copy), seed=3))
    assert "was changed since the checkpoint was made" in refuse(copy)


def test_a_finished_run_says_so_and_is_left_alone(whole: Path) -> None:
    before = content(whole)
    done = train(SERIAL, 1, "--resume", str(whole))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{whole} is finished" in done.stdout
    assert result(whole)["params_sha256"] in done.stdout
    assert content(whole) == before


def test_a_finished_run_is_not_said_to_be_of_another_image_set(
    finished: Path, image_set: MakeImageSet, tmp_path: Path
) -> None:
    other = write_image_set(tmp_path / "other.h5", test=78)
    assert "is not the image set the run was started with" in refuse(finished, "--data", str(other))
    done = train(
        SERIAL, 1, *as_flags(resume=finished, data=shutil.copy(image_set(), tmp_path / "same.h5"))
    )
    assert (done.returncode, f"{finished} is finished" in done.stdout) == (0, True), done.stderr


def test_a_finished_run_without_checkpoints_is_not_begun_again(
    finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    assert "no complete checkpoint" in refuse(run, "--epochs", "4")
    (run / "weights.h5").write_bytes(b"damaged")
    assert "weights.h5" in refuse(run)


def test_checkpoints_behind_a_link_are_refused(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    away = (run / "checkpoints").rename(tmp_path / "away")
    (run / "checkpoints").symlink_to(away)
    (away / f".step-000000002.h5.{0:016x}.tmp").touch()
    before = content(away)
    assert "symbolic link" in refuse(run, "--epochs", "4", "--keep", "1")
    assert content(away) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("given", [".", "checkpoints"])
def test_a_run_of_another_user_is_refused_unless_allowed(
    given: str, finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    os.chown(run / given, 65534, 65534)
    assert "--allow-other-owner" in refuse(run, "--epochs", "4")
    assert train(SERIAL, 1, "--resume", str(run), "--allow-other-owner").returncode == 0


def test_too_few_steps_are_refused(copy: Path) -> None:
    for flags in (["--epochs", "1"], ["--max-steps", "5"]):
        assert "has already taken 6 steps, more than --epochs" in refuse(copy, *flags)


def test_a_run_in_use_is_refused(copy: Path) -> None:
    with locked(copy):
        assert f"{copy} is in use by another run" in refuse(copy)


def test_another_image_set_under_the_same_path_is_refused(
    copy: Path, stopping: str, tmp_path: Path
) -> None:
    other = write_image_set(tmp_path / "set.h5", test=78)
    before = content(copy)
    done = train(SERIAL, 1, "--resume", str(copy), "--data", str(other), PYTHONPATH=stopping)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    hashes = re.search(
        r"is not the image set the run was started with \(SHA-256 of its examples (\w{64}), not"
        r" (\w{64})\)",
        done.stderr,
    )
    assert hashes
    assert hashes[1] != hashes[2] == receipt(copy)[0]["dataset"]["content_sha256"]
    assert content(copy) == before


def test_only_a_run_is_accepted(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none'} is not a folder" in refuse(tmp_path / "none")
    assert "holds no run (neither config.toml nor checkpoints)" in refuse(tmp_path)
    assert "--resume is empty" in train(SERIAL, 1, "--resume", "").stderr
    assert not list(tmp_path.iterdir())


def test_a_file_in_place_of_a_run_is_named(tmp_path: Path) -> None:
    for file in (
        tmp_path / "run" / "config.toml",
        tmp_path / "run" / "checkpoints" / "step-000000002.h5",
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
        with pytest.raises(
            InputError, match=rf"{file} is a file: name the run directory that holds it"
        ):
            existing_run(str(file))
    (tmp_path / "alone").write_text("")
    with pytest.raises(InputError, match=r"is a file: name the run directory that holds it$"):
        existing_run(str(tmp_path / "alone"))


# -- on other software


def test_a_resume_with_edited_sources_of_distcnn_says_so(killed: Path, tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "distcnn", tmp_path / "src" / "distcnn", ignore=shutil.ignore_patterns("__pycache__")
    )
    with (tmp_path / "src" / "distcnn" / "nn" / "dense.py").open("a") as file:
        file.write("# another line\n")
    code = "import sys; from distcnn import train; sys.exit(train.main())"
    done = SERIAL.run(
        1, "-P", "-c", code, "--resume", str(killed), PYTHONPATH=str(tmp_path / "src")
    )
    assert done.returncode == 0, done.stderr
    (warning,) = (line for line in done.stdout.splitlines() if line.startswith("warning: "))
    assert "sources was" in warning
    verified = SERIAL.run(1, "-m", "distcnn.verify", str(killed))
    assert verified.returncode == 0
    assert "warning: from step 10 " in verified.stdout
    assert "warning: from step 0 " not in verified.stdout


def test_a_resume_with_another_variable_for_kernels_says_so(killed: Path) -> None:
    done = train(SERIAL, 1, "--resume", str(killed), MKL_CBWR="COMPATIBLE")
    assert done.returncode == 0, done.stderr
    (warning,) = (line for line in done.stdout.splitlines() if line.startswith("warning: "))
    assert "MKL_CBWR=COMPATIBLE" in warning

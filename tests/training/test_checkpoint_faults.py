"""Damaged checkpoints of a real run: each damage is noticed, named and kept aside, and the run still ends in the same bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from distcnn.checkpoints import CheckpointStore
from tests.conftest import SERIAL, MakeImageSet
from tests.training.conftest import metrics, proof, result

SAVED = [2, 4, 6, 8, 10, 12]
"""Steps with a checkpoint: 4 steps an epoch, 3 epochs, one every 2 steps."""
FLAGS = ["--model", "tutorial", "--epochs", "3", "--microbatch-size", "8", "--seed", "3", "--log-every", "2"]
SAVING = ["--checkpoint-every", "2", "--keep", "9"]


@pytest.fixture(scope="module")
def finished(image_set: MakeImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    SERIAL.train(1, path, "--data", str(image_set()), *FLAGS, *SAVING)
    assert store_of(path).steps() == SAVED
    return path


@pytest.fixture
def killed(finished: Path, tmp_path: Path) -> Path:
    """The same run as a kill after the checkpoint of step 10 leaves it."""
    path = tmp_path / "killed"
    shutil.copytree(finished, path)
    for left in (path / "result.json", path / "weights.h5", store_of(path).path_of(12)):
        left.unlink()
    return path


def store_of(run: Path) -> CheckpointStore:
    return CheckpointStore(run / "checkpoints")


def resume(run: Path, *flags: str) -> str:
    """Go on with the run in its folder; what the command said."""
    done = SERIAL.run(1, "-m", "distcnn.train", "--resume", str(run), *flags)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def assert_same_end(run: Path, finished: Path) -> None:
    assert result(run) == result(finished)
    assert metrics(run) == metrics(finished)
    assert proof(run) == proof(finished)
    assert (run / "weights.h5").read_bytes() == (finished / "weights.h5").read_bytes()


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# -- every damage is noticed, and the checkpoint before is taken


def assert_all_noticed(run: Path, damages: Iterator[bytes]) -> None:
    """Each of ``damages``, in the place of the checkpoint of step 10."""
    store = store_of(run)
    path, whole = store.path_of(10), store.path_of(8).read_bytes()
    for number, damaged in enumerate(damages):
        path.write_bytes(damaged)
        reports: list[str] = []
        taken = store.newest(reports.append)
        assert taken is not None
        assert taken.attributes["step"] == 8, f"damage {number}"
        assert reports[0].startswith(f"warning: checkpoint {path} is damaged: ")
        assert reports[1:] == [f"the one before it is taken: {store.path_of(8)}"]
        aside = path.with_name(f"{path.name}.damaged")
        assert aside.read_bytes() == damaged
        aside.unlink()
    assert store.path_of(8).read_bytes() == whole


def test_a_checkpoint_cut_at_50_places_is_noticed(killed: Path) -> None:
    content = store_of(killed).path_of(10).read_bytes()
    assert len(content) > 100_000
    places = {0, 1, 20, 511, 512, 513, len(content) - 512, len(content) - 1, *np.linspace(2, len(content) - 2, 50).astype(int).tolist()}
    assert_all_noticed(killed, (content[:place] for place in sorted(places)))


def test_200_single_flipped_bits_are_noticed(killed: Path) -> None:
    content = store_of(killed).path_of(10).read_bytes()
    rng = np.random.default_rng(7)
    header, body = rng.choice(512 * 8, 50, replace=False), rng.choice(np.arange(512 * 8, len(content) * 8), 150, replace=False)
    assert_all_noticed(killed, (flip(content, int(bit)) for bit in np.concatenate([header, body])))


# -- the command goes on from the one before, to the same bits


def test_without_damage_the_killed_run_ends_as_the_finished_one(killed: Path, finished: Path) -> None:
    said = resume(killed)
    assert "after 10 of 12 steps" in said
    assert "damaged" not in said
    assert_same_end(killed, finished)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "header only": lambda content: content[:512],
    "last byte lost": lambda content: content[:-1],
    "a byte appended": lambda content: content + b"\0",
    "the version's digit": lambda content: flip(content, 19 * 8 + 1),
    "a bit of the padding": lambda content: flip(content, 400 * 8),
    "a bit in the middle": lambda content: flip(content, len(content) * 4),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_kept_and_the_end_is_the_same(damage: str, killed: Path, finished: Path) -> None:
    path = store_of(killed).path_of(10)
    damaged = DAMAGES[damage](path.read_bytes())
    path.write_bytes(damaged)
    said = resume(killed)
    assert f"checkpoint {path} is damaged: " in said
    assert f"; kept as {path.name}.damaged\nthe one before it is taken: {store_of(killed).path_of(8)}\n" in said
    assert "after 8 of 12 steps" in said
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    assert store_of(killed).steps() == SAVED
    assert_same_end(killed, finished)


def test_of_several_damaged_each_is_named_and_the_run_goes_on_from_the_one_before(killed: Path, finished: Path) -> None:
    store = store_of(killed)
    store.path_of(10).write_bytes(store.path_of(2).read_bytes())  # whole, but of another step
    for step in (8, 6):
        store.path_of(step).write_bytes(b"")
    said = resume(killed)
    assert [f"checkpoint {store.path_of(step)} is damaged" in said for step in (10, 8, 6, 4, 2)] == [True, True, True, False, False]
    assert "step-000000010.h5 is damaged: it is of step 2" in said
    assert "after 4 of 12 steps" in said
    assert_same_end(killed, finished)


def test_all_damaged_lets_the_run_begin_again(killed: Path, finished: Path) -> None:
    store = store_of(killed)
    for step in store.steps():
        store.path_of(step).write_bytes(flip(store.path_of(step).read_bytes(), 10_000))
    said = resume(killed)
    for step in (2, 4, 6, 8, 10):
        assert f"checkpoint {store.path_of(step)} is damaged: " in said
        assert store.path_of(step).with_name(f"step-{step:09d}.h5.damaged").exists()
    assert f"{killed} has no checkpoint that is whole: the run begins again from its first step" in said
    assert store.steps() == SAVED
    assert_same_end(killed, finished)


def test_a_damaged_checkpoint_of_a_run_that_goes_on_elsewhere_is_not_touched(killed: Path, finished: Path, tmp_path: Path) -> None:
    path = store_of(killed).path_of(10)
    path.write_bytes(path.read_bytes()[:-1])
    before = {each: each.read_bytes() for each in killed.rglob("*") if each.is_file()}
    said = resume(killed, "--output", str(tmp_path / "elsewhere"))
    assert f"checkpoint {path} is damaged: " in said
    assert {each: each.read_bytes() for each in killed.rglob("*") if each.is_file()} == before
    assert_same_end(tmp_path / "elsewhere", finished)


# -- the configuration


CONFIGS: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda content: None,
    "cut in a line": lambda content: content[: content.index(b"tutorial") + 3],
    "not UTF-8": lambda content: b"\xff" + content,
    "not TOML": lambda content: b"\0" * len(content),
    "a key with a bit flipped": lambda content: content.replace(b"\nseed", b"\nseee"),
    "a value with a bit flipped": lambda content: content.replace(b"\nepochs = 3", b"\nepochs = s"),
}


@pytest.mark.parametrize("damage", CONFIGS)
def test_without_a_readable_configuration_the_checkpoints_is_taken(damage: str, killed: Path, finished: Path) -> None:
    config = killed / "config.toml"
    content = config.read_bytes()
    damaged = CONFIGS[damage](content)
    assert damaged != content
    config.unlink()
    if damaged is not None:
        config.write_bytes(damaged)
    said = resume(killed)
    assert f"warning: {config} cannot be used (" in said
    assert "the checkpoint's configuration is taken" in said
    assert config.read_bytes() == content, "it is written anew"
    assert_same_end(killed, finished)


def test_neither_configuration_nor_whole_checkpoint_is_bad_input(killed: Path) -> None:
    (killed / "config.toml").write_bytes(b"\0")
    for path in (killed / "checkpoints").iterdir():
        path.write_bytes(b"")
    done = SERIAL.run(1, "-m", "distcnn.train", "--resume", str(killed))
    assert done.returncode == 2
    assert done.stderr.startswith(f"distcnn.train: error: {killed}: config.toml cannot be used, and there is no whole checkpoint (")
    assert done.stderr.count("\n") == 1

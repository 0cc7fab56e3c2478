"""The run directory: who gets it, and what it holds at the end whatever others do to it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from distcnn.config import Config
from distcnn.errors import InputError
from distcnn.training import results
from distcnn.training.results import damage_of, read_result
from distcnn.training.run_directory import RunDirectory, create_run_directory
from distcnn.training.run_files import locked
from tests.conftest import MakeImageSet
from tests.support.full_disk import full_disk
from tests.support.stories import Story, assert_same_weights, once
from tests.support.training_fixtures import content, metrics, receipt, store_of, table

NOBODY = 65534


# -- who gets it


def test_the_second_start_into_a_folder_is_refused_as_in_use_and_writes_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run"
    with ExitStack() as first:
        create_run_directory(Config(output=str(path), seed=1), first)
        before = content(path)
        with ExitStack() as second, pytest.raises(InputError, match=f"{path} is in use"):
            create_run_directory(Config(output=str(path), seed=2), second)
        assert content(path) == before
    with ExitStack() as later, pytest.raises(InputError, match="already holds a run"):
        create_run_directory(Config(output=str(path), seed=2), later)
    assert content(path) == before


def test_a_start_that_holds_the_folder_but_has_written_nothing_yet_keeps_others_out(
    tmp_path: Path,
) -> None:
    with locked(tmp_path), ExitStack() as held, pytest.raises(InputError, match="in use"):
        create_run_directory(Config(output=str(tmp_path)), held)
    assert [each.name for each in tmp_path.iterdir()] == [".lock"]


def test_starts_within_one_second_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "20260101-000000")
    with ExitStack() as held:
        paths = {create_run_directory(Config(), held) for _ in range(3)}
    assert len(paths) == 3


@pytest.mark.parametrize("others", ["an older run", "nothing", "no folder"])
def test_a_start_that_fails_leaves_nothing(others: str, tmp_path: Path) -> None:
    path = tmp_path / "a" / "run"
    if others != "no folder":
        path.mkdir(parents=True)
    if others == "an older run":
        (path / "result.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    with ExitStack() as held, full_disk(), pytest.raises(InputError):
        create_run_directory(Config(output=str(path)), held)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_lock_can_be_opened_by_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch(0o666)
    with locked(tmp_path):
        assert stat.S_IMODE((tmp_path / ".lock").stat().st_mode) == 0o600


def test_a_lock_that_its_holder_removes_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder is refused and removes the lock between our opening and locking it: a lock on a
    file without a name keeps nobody out.
    """
    flock, removed = fcntl.flock, list[bool]()

    def late(descriptor: int, operation: int) -> None:
        if not removed:
            (tmp_path / ".lock").unlink()
            removed.append(True)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path):
        assert removed
        with pytest.raises(InputError, match="in use"), locked(tmp_path):
            pass


@pytest.mark.parametrize("name", [".lock", "checkpoints"])
def test_links_in_the_folder_are_not_followed(name: str, tmp_path: Path) -> None:
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.mkdir()
    (victim / "step-000000001.h5").write_text("precious")
    run.mkdir()
    (run / name).symlink_to(victim if name == "checkpoints" else victim / "new")
    with ExitStack() as held, pytest.raises(InputError, match="symbolic link"):
        create_run_directory(Config(output=str(run)), held)
    assert [each.name for each in victim.iterdir()] == ["step-000000001.h5"]
    assert [each.name for each in run.iterdir()] == [name]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused_unless_allowed(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    config = Config(output=str(tmp_path))
    with ExitStack() as held:
        with pytest.raises(InputError, match="--allow-other-owner"):
            create_run_directory(config, held)
        assert not list(tmp_path.iterdir())
        assert create_run_directory(config, held, any_owner=True) == tmp_path


# -- what is there at the end


def assert_whole(path: Path, left_alone: Path) -> None:
    assert damage_of(path) is None
    assert read_result(path).params_sha256 == read_result(left_alone).params_sha256
    assert metrics(path) == metrics(left_alone)
    assert table(path) == table(left_alone)
    assert [(line["kind"], line["step"]) for line in receipt(path)] == [
        (line["kind"], line["step"]) for line in receipt(left_alone)
    ]
    for name in ("weights.h5", "weights-best.h5"):
        assert_same_weights(path / name, left_alone / name)
    assert (path / "config.toml").exists()
    assert store_of(path).load(8).attributes["step"] == 8


def removed(path: Path) -> None:
    shutil.rmtree(path)


def renamed(path: Path) -> None:
    path.rename(path.with_name("moved"))


def replaced(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()
    (path / "config.toml").write_text("of others")


@pytest.mark.parametrize(
    ("change", "step", "left"),
    [(removed, 1, None), (removed, 6, None), (renamed, 6, []), (replaced, 6, ["config.toml"])],
)
def test_a_folder_that_others_remove_or_move_is_whole_elsewhere(
    change: Callable[[Path], None],
    step: int,
    left: list[str] | None,
    story: Story,
    left_alone: Path,
) -> None:
    path = story.path
    story.train(once(step, lambda: change(path)))
    if left is None:
        assert story.path == path
        warnings = [line for line in story.said if line.startswith("warning: ")]
        assert all("was removed" in line for line in warnings)
    else:
        assert [file.name for file in path.glob("*")] == left
    if change is renamed:
        assert story.path == path.with_name("moved")
    assert_whole(story.path, left_alone)


def test_a_folder_that_cannot_be_made_again_fails_at_the_end_and_says_so(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    parent = tmp_path / "parent"

    def replace() -> None:
        shutil.rmtree(parent)
        parent.write_text("a file")

    parent.mkdir()
    with pytest.raises(InputError, match=r"cannot be written .*removed"):
        Story(image_set(), parent / "run").train(once(6, replace))


HARM: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "removed": lambda path: path.unlink(),
    "a link": lambda path: (
        path.rename(path.with_suffix(".away")),
        path.symlink_to(path.with_suffix(".away")),
    ),
    "lines of others": lambda path: path.write_text(path.read_text() + "{}\n"),
}


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.csv", "receipt.jsonl"])
@pytest.mark.parametrize("harm", HARM)
def test_files_that_others_harm_are_whole_at_the_end(
    harm: str, name: str, story: Story, left_alone: Path
) -> None:
    story.train(once(7, lambda: HARM[harm](story.path / name)))
    assert any(name in line and line.startswith("warning: ") for line in story.said)
    assert_whole(story.path, left_alone)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def directory(tmp_path: Path, said: list[str]) -> Iterator[RunDirectory]:
    with ExitStack() as held:
        path = create_run_directory(Config(output=str(tmp_path)), held)
        yield RunDirectory(path, Config(), said.append, held)


def test_an_append_that_fails_once_costs_no_line(
    directory: RunDirectory, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.add_metrics("step", step=1)
    with monkeypatch.context() as failing:
        failing.setattr("distcnn.system.files.append", fail)
        directory.add_metrics("step", step=2)
    assert len(said) == 2, "one for each file"
    directory.metrics.complete()
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2]


def test_a_rewrite_at_a_resume_that_fails_is_reported_and_done_later(
    directory: RunDirectory, said: list[str], tmp_path: Path
) -> None:
    with full_disk():
        directory.metrics.restore('{"step": 1}\n')
        with pytest.raises(OSError, match="No space left"):
            directory.metrics.complete()
    assert "metrics.jsonl cannot be written (No space left on device)" in said[0]
    directory.metrics.complete()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def fail(*_: Any) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_last_checkpoint_that_was_not_written_is_written_at_the_end(story: Story) -> None:
    story.train(once(7, lambda: shutil.rmtree(story.path / "checkpoints")))
    assert store_of(story.path).steps() == [8]


def test_results_take_the_room_of_older_checkpoints(
    image_set: MakeImageSet, left_alone: Path, tmp_path: Path
) -> None:
    """The disk has room for the results only after two older checkpoints were removed."""
    story, path = Story(image_set(), tmp_path / "run", checkpoint_every=3, keep=9), tmp_path / "run"
    write, refused = results.write_results, list[int]()

    def crowded(*arguments: Any) -> None:
        if len(store_of(path).steps()) > 2:
            refused.append(len(store_of(path).steps()))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(results, "write_results", crowded)
        story.train()
    assert refused == [4, 3]
    assert store_of(path).steps() == [6, 8]
    assert read_result(path).params_sha256 == read_result(left_alone).params_sha256


def test_a_folder_in_place_of_a_file_is_named_and_not_called_a_full_disk(story: Story) -> None:
    with pytest.raises(InputError, match=r"results cannot be written .*\(Is a directory.*--resume"):
        story.train(once(3, lambda: (story.path / "weights.h5").mkdir()))


def test_a_run_that_ends_without_any_checkpoint_says_so(story: Story) -> None:
    story.train(once(0, lambda: (story.path / "checkpoints").write_text("a file in its place")))
    assert "no checkpoint could be written" in story.said[-1]
    assert "-1" not in story.said[-1]

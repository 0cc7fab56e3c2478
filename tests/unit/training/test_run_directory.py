"""The run directory: who gets it, what is in it at the end whatever others do to it meanwhile, and
what it tells without the data.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from distcnn.checkpoints.weights import read_weights
from distcnn.config import Config
from distcnn.distributed.blas_threads import THREADS_PER_RANK
from distcnn.errors import InputError
from distcnn.training import results
from distcnn.training.loop import Loop
from distcnn.training.progress import NoProgress
from distcnn.training.results import RunResult, damage_of, read_result
from distcnn.training.resume import begin_records, open_directory
from distcnn.training.run_directory import RunDirectory, create_run_directory
from distcnn.training.run_files import locked, read_config
from distcnn.training.state import State
from tests.conftest import MakeImageSet
from tests.support.full_disk import full_disk
from tests.support.training_fixtures import metrics, prepare, receipt, store_of

NOBODY = 65534


# -- who gets it


def test_the_second_start_into_a_folder_is_told_that_it_is_in_use_and_writes_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run"
    with ExitStack() as first:
        create_run_directory(Config(output=str(path), seed=1), first)
        before = {each.name: each.read_bytes() for each in path.iterdir()}
        with ExitStack() as second, pytest.raises(InputError, match=f"{path} is in use"):
            create_run_directory(Config(output=str(path), seed=2), second)
        assert {each.name: each.read_bytes() for each in path.iterdir()} == before
    with ExitStack() as later, pytest.raises(InputError, match="already holds a run"):
        create_run_directory(Config(output=str(path), seed=2), later)
    assert {each.name: each.read_bytes() for each in path.iterdir()} == before


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
    """Between opening and locking it, the holder was refused and has removed it: the lock of a file
    without a name keeps nobody out.
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
def test_a_folder_of_another_user_is_refused_unless_told(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    config = Config(output=str(tmp_path))
    with ExitStack() as held:
        with pytest.raises(InputError, match="--allow-other-owner"):
            create_run_directory(config, held)
        assert not list(tmp_path.iterdir())
        assert create_run_directory(config, held, any_owner=True) == tmp_path


# -- what is there at the end


class Story:
    """A run in this process, to whose files a test does something at a step."""

    def __init__(self, data: Path, path: Path, **flags: Any) -> None:
        self.run = prepare(data, output=str(path), log_every=1, check_every=1, **flags)
        self.path, self.said = path, list[str]()

    def train(self, meanwhile: Callable[[int], None] = lambda step: None) -> RunResult:
        """Train to the end; before each step ``meanwhile`` is called with it. The result."""
        progress = NoProgress()
        progress.say = self.said.append  # type: ignore[method-assign]
        self.run.step.before_shard = lambda at, shard, lane: (
            meanwhile(at.step) if shard.index == 0 else None
        )
        with threadpool_limits(THREADS_PER_RANK), ExitStack() as held:
            open_directory(self.run.config, None, held)
            directory = begin_records(self.run, self.path, None, progress.say, held)
            result = Loop(self.run, State(), directory, progress).train()
            self.path = directory.location
        return result


@pytest.fixture(scope="module")
def whole(image_set: MakeImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two epochs of 4 steps to which nobody has done anything."""
    path = tmp_path_factory.mktemp("whole") / "run"
    story = Story(image_set(), path)
    story.train()
    assert story.said[-1].startswith("epoch 2: ")
    return path


def assert_same_weights(path: Path, other: Path) -> None:
    (weights, attributes), (others, expected) = map(read_weights, (path, other))
    assert attributes == expected
    assert list(weights) == list(others)
    assert all(np.array_equal(weights[name], others[name]) for name in others)


def assert_whole(path: Path, whole: Path) -> None:
    assert damage_of(path) is None
    assert read_result(path).params_sha256 == read_result(whole).params_sha256
    assert metrics(path) == metrics(whole)
    assert [(line["kind"], line["step"]) for line in receipt(path)] == [
        (line["kind"], line["step"]) for line in receipt(whole)
    ]
    for name in ("weights.h5", "weights-best.h5"):
        assert_same_weights(path / name, whole / name)
    assert (path / "config.toml").exists()
    assert store_of(path).load(8).attributes["step"] == 8


def once(at: int, work: Callable[[], object]) -> Callable[[int], None]:
    """Do ``work`` before the step ``at``, when no checkpoint is being written."""

    def meanwhile(step: int) -> None:
        if step == at:
            for thread in threading.enumerate():
                if thread.name == "checkpoint":
                    thread.join(30)
            work()

    return meanwhile


@pytest.mark.parametrize("step", [1, 6])
def test_a_folder_that_is_removed_is_made_again_with_all_that_it_held(
    step: int, image_set: MakeImageSet, whole: Path, tmp_path: Path
) -> None:
    story = Story(image_set(), tmp_path / "run")
    story.train(once(step, lambda: shutil.rmtree(tmp_path / "run")))
    assert story.path == tmp_path / "run"
    assert [line for line in story.said if line.startswith("warning: ")] == [
        line for line in story.said if "was removed" in line
    ]
    assert_whole(tmp_path / "run", whole)


def test_a_folder_that_is_renamed_is_followed(
    image_set: MakeImageSet, whole: Path, tmp_path: Path
) -> None:
    story = Story(image_set(), tmp_path / "run")
    story.train(once(6, lambda: (tmp_path / "run").rename(tmp_path / "moved")))
    assert story.path == tmp_path / "moved"
    assert not (tmp_path / "run").exists()
    assert_whole(tmp_path / "moved", whole)


def test_a_folder_of_others_in_its_place_is_let_be(
    image_set: MakeImageSet, whole: Path, tmp_path: Path
) -> None:
    def replace() -> None:
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.toml").write_text("of others")

    story = Story(image_set(), tmp_path / "run")
    story.train(once(6, replace))
    assert [each.name for each in (tmp_path / "run").iterdir()] == ["config.toml"]
    assert_whole(story.path, whole)


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


@pytest.mark.parametrize("name", ["metrics.jsonl", "receipt.jsonl"])
@pytest.mark.parametrize("harm", HARM)
def test_files_that_others_harm_are_whole_at_the_end(
    harm: str, name: str, image_set: MakeImageSet, whole: Path, tmp_path: Path
) -> None:
    story = Story(image_set(), tmp_path / "run")
    story.train(once(7, lambda: HARM[harm](tmp_path / "run" / name)))
    assert any(name in line and line.startswith("warning: ") for line in story.said)
    assert_whole(tmp_path / "run", whole)


def test_an_append_that_fails_once_costs_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as held:
        path, said = create_run_directory(Config(output=str(tmp_path)), held), list[str]()
        directory = RunDirectory(path, Config(), said.append, held)
        directory.add_metrics("step", step=1)
        with monkeypatch.context() as failing:
            failing.setattr("distcnn.system.files.append", fail)
            directory.add_metrics("step", step=2)
        assert len(said) == 1
        directory.metrics.complete()
        assert [line["step"] for line in metrics(path)] == [1, 2]


def test_a_rewrite_at_a_resume_that_fails_is_told_and_done_later(tmp_path: Path) -> None:
    with ExitStack() as held:
        path, said = create_run_directory(Config(output=str(tmp_path)), held), list[str]()
        directory = RunDirectory(path, Config(), said.append, held)
        with full_disk():
            directory.metrics.restore('{"step": 1}\n')
            with pytest.raises(OSError, match="No space left"):
                directory.metrics.complete()
        assert "metrics.jsonl cannot be written (No space left on device)" in said[0]
        directory.metrics.complete()
        assert (path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def fail(*_: Any) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_last_checkpoint_that_was_not_written_is_written_at_the_end(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    story = Story(image_set(), tmp_path / "run")
    story.train(once(7, lambda: shutil.rmtree(tmp_path / "run" / "checkpoints")))
    assert store_of(tmp_path / "run").steps() == [8]


def test_results_take_the_room_of_older_checkpoints(
    image_set: MakeImageSet, whole: Path, tmp_path: Path
) -> None:
    """The disk has room for the last checkpoint, and for the results only where two others have
    gone.
    """
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
    assert read_result(path).params_sha256 == read_result(whole).params_sha256


def test_a_folder_in_the_place_of_a_file_is_named_and_not_called_a_full_disk(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    story, path = Story(image_set(), tmp_path / "run"), tmp_path / "run"
    with pytest.raises(InputError, match=r"results cannot be written .*\(Is a directory.*--resume"):
        story.train(once(3, lambda: (path / "weights.h5").mkdir()))


def test_a_run_that_ends_without_any_checkpoint_says_so(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    story, path = Story(image_set(), tmp_path / "run"), tmp_path / "run"
    story.train(once(0, lambda: (path / "checkpoints").write_text("a file in its place")))
    assert "no checkpoint could be written" in story.said[-1]
    assert "-1" not in story.said[-1]


# -- what it tells without the data


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
    image_set: MakeImageSet, whole: Path
) -> None:
    with h5py.File(image_set()) as file:
        given = file.attrs["mean"].item(), file.attrs["std"].item()
    dataset = vars(read_result(whole).dataset)
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


def test_the_best_weights_lie_beside_the_last(overtrained: Path) -> None:
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


def test_best_weights_that_are_lost_are_told_and_an_older_file_does_not_stand_for_them(
    overtrained: Path,
) -> None:
    result, said = read_result(overtrained), list[str]()
    store_of(overtrained).path_of(result.best_step).unlink()
    weights, _ = read_weights(overtrained / "weights.h5")
    with ExitStack() as held:
        directory = RunDirectory(overtrained, read_config(overtrained), said.append, held)
        for log, name in (
            (directory.metrics, "metrics.jsonl"),
            (directory.receipt, "receipt.jsonl"),
        ):
            log.restore((overtrained / name).read_text())
        directory.finish(SimpleNamespace(named=lambda: weights), result)  # type: ignore[arg-type]
    assert "weights-best.h5 is not written" in said[0]
    assert not (overtrained / "weights-best.h5").exists()
    assert damage_of(overtrained) is None


def test_the_checksums_are_those_of_sha256sum(whole: Path) -> None:
    """As ``sha256sum --check SHA256SUMS`` reads them."""
    for line in (whole / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((whole / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(
    "altered", [{"dataset": "x"}, {"dataset": {}}, {"steps": "x"}, {"test_loss": None}]
)
def test_a_damaged_result_is_named(altered: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    result = json.loads((whole / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps({**result, **altered}))
    with pytest.raises(ValueError, match=r"^result\.json is damaged \(TypeError"):
        read_result(tmp_path)

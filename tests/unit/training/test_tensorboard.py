"""TensorBoard's files hold the metrics, each step once, and can neither end nor delay a run."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path

import pytest

import distcnn as dc
from distcnn import train
from tests.conftest import MakeImageSet, as_flags
from tests.support.event_files import event_files, events, of_metrics, scalars
from tests.support.full_disk import full_disk

SMALL = as_flags(model="tutorial", microbatch_size=8, epochs=2, log_every=3)


def fit(data: Path, callback: dc.Callback, run: Path | None, epochs: int = 2) -> None:
    trainer = dc.Trainer("tutorial", microbatch_size=8)
    trainer.fit(
        data, epochs=epochs, output=run, resume=run is not None, log_every=3, callbacks=[callback]
    )


def test_a_callback_writes_all_metrics_into_the_run_directory(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    fit(image_set(), dc.TensorBoard(), tmp_path / "run")
    found = scalars(tmp_path / "run")
    assert found == of_metrics(tmp_path / "run")
    assert [step for step, _ in found["step/loss"]] == [3, 4, 6, 8]
    assert [step for step, _ in found["epoch/test_accuracy"]] == [4, 8]
    assert {"step/learning_rate", "step/images_per_second", "epoch/train_loss"} <= found.keys()


def test_a_resumed_run_shows_each_step_once_in_one_new_file(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fit(image_set(), dc.TensorBoard(), run)
    (run / "events.out.tfevents.1.of-others").write_text("stays")
    [before] = event_files(run)
    before = before.rename(before.with_name("events.out.tfevents.1.host.1.distcnn"))
    fit(image_set(), dc.TensorBoard(), run, epochs=3)
    assert scalars(run) == of_metrics(run)
    assert [step for step, _ in scalars(run)["epoch/train_loss"]] == [4, 8, 12]
    [after] = event_files(run)
    assert after.name > before.name, "TensorBoard, which goes by names, finds the new one"
    assert (run / "events.out.tfevents.1.of-others").exists()
    start = events(after)[1]
    assert (start.step, start.session_log.status) == (0, start.session_log.START)


def test_a_run_that_began_without_is_whole_after_a_resume_with(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train.main([*SMALL, *as_flags(data=image_set(), output=run)]) == 0
    assert not event_files(run)
    assert train.main([*as_flags(resume=run, epochs=3), "--tensorboard"]) == 0
    assert scalars(run) == of_metrics(run)
    assert train.main(as_flags(resume=run, epochs=4)) == 0  # the run remembers it
    assert scalars(run) == of_metrics(run)
    assert train.main([*as_flags(resume=run, epochs=5), "--no-tensorboard"]) == 0
    assert [step for step, _ in scalars(run)["epoch/train_loss"]] == [4, 8, 12, 16]


def test_another_folder_needs_no_run_directory(image_set: MakeImageSet, tmp_path: Path) -> None:
    fit(image_set(), dc.TensorBoard(tmp_path / "boards" / "one"), None)
    assert len(scalars(tmp_path / "boards" / "one")["step/loss"]) == 4
    with pytest.raises(dc.InputError, match="has no folder"):
        fit(image_set(), dc.TensorBoard(), None)
    (tmp_path / "file").touch()
    with pytest.raises(dc.InputError, match="name another folder"):
        fit(image_set(), dc.TensorBoard(tmp_path / "file" / "inside"), None)


def test_in_a_named_folder_the_files_of_other_runs_stay(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    boards = tmp_path / "boards"
    for _ in range(2):
        fit(image_set(), dc.TensorBoard(boards), None)
    assert len(event_files(boards)) == 2
    assert len(scalars(boards)["step/loss"]) == 8


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    board = dc.TensorBoard()
    board.on_prepare(1, tmp_path)
    board.on_start(10, 0)
    board.on_log({"step": 1, "loss": 0.5})
    board.on_epoch({"step": 1, "train_loss": 0.5})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_reported_once_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board = dc.TensorBoard()
    with full_disk(), caplog.at_level(logging.INFO, "distcnn"):
        board.on_prepare(0, tmp_path)
        board.on_start(10, 0)
        board.on_log({"step": 1, "loss": 0.5})
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left on device" in caplog.text
    board.on_log({"step": 2, "loss": 0.25})
    assert scalars(tmp_path) == {"step/loss": [(1, 0.5), (2, 0.25)]}


@pytest.mark.parametrize("missing", [True, False])
def test_without_tensorboardx_one_line_says_how_to_get_it(
    missing: bool,
    image_set: MakeImageSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if missing:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if "tensorboardX" in name else find(name)
        )
    for name in [name for name in sys.modules if name.startswith("tensorboardX.proto")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    flags = [*SMALL, *as_flags(data=image_set(), output=tmp_path / "run"), "--tensorboard"]
    assert train.main(flags) == 2
    said = capfd.readouterr().err
    assert len(said.splitlines()) == 1
    assert "pip install tensorboardX" in said
    assert not (tmp_path / "run").exists()
    if missing:
        with pytest.raises(dc.InputError, match="pip install tensorboardX"):
            dc.TensorBoard()

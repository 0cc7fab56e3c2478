"""Replays of a run of 3 epochs of 4 steps, whole and in part: every change to its files is found
and named.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
from threadpoolctl import threadpool_limits

from distcnn.distributed import Communicator
from distcnn.distributed.blas_threads import THREADS_PER_RANK
from distcnn.errors import InputError
from distcnn.training import comparison
from distcnn.training.comparison import Different
from distcnn.training.replay import Replayed, replay
from distcnn.verify import unchecked
from tests.support.training_fixtures import receipt, write_receipt


@pytest.fixture(autouse=True)
def as_many_threads_as_a_rank_has() -> Iterator[None]:
    with threadpool_limits(THREADS_PER_RANK):
        yield


@pytest.mark.parametrize(
    ("first", "last", "begun", "lines"),
    [
        (0, None, 0, 10),
        (2, 3, 0, 1),
        (3, 4, 3, 2),
        (4, 8, 4, 3),
        (5, 7, 4, 1),
        (6, 8, 6, 2),
        (8, 12, 8, 4),
        (11, None, 9, 4),
    ],
)
def test_a_part_of_a_run_is_replayed_from_the_nearest_checkpoint(
    first: int, last: int | None, begun: int, lines: int, checked: Path
) -> None:
    replayed = replay(checked, None, first, last, Communicator(), print)
    assert (replayed.from_step, replayed.to_step, len(replayed.lines)) == (begun, last or 12, lines)
    assert (replayed.result is not None) == (last in (None, 12))


@pytest.mark.parametrize(("first", "last"), [(0, 1), (6, 7)])
def test_steps_of_which_nothing_is_recorded_are_refused(
    first: int, last: int, checked: Path
) -> None:
    with pytest.raises(InputError, match="nothing to compare"):
        replay(checked, None, first, last, Communicator(), print)


def test_a_missing_image_set_is_refused_and_not_made(
    checked_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even MNIST, which training would prepare."""
    text = (checked_copy / "receipt.jsonl").read_text()
    recorded = receipt(checked_copy)[0]["configuration"]["data"]
    (checked_copy / "receipt.jsonl").write_text(text.replace(recorded, "data/mnist.h5"))
    write_receipt(checked_copy, receipt(checked_copy))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError, match=r"data/mnist\.h5, which is not there.*--data"):
        replay(checked_copy, None, 0, None, Communicator(), print)
    assert not list((tmp_path / "empty").iterdir())


def test_without_checkpoints_it_begins_at_the_first_step(checked_copy: Path) -> None:
    shutil.rmtree(checked_copy / "checkpoints")
    assert replay(checked_copy, None, 8, None, Communicator(), print).from_step == 0


@pytest.mark.parametrize("last", [4, 8, 12])
def test_a_run_killed_at_an_epochs_end_is_identical(last: int, checked_copy: Path) -> None:
    lines = (checked_copy / "receipt.jsonl").read_text().splitlines(keepends=True)
    place = next(
        number
        for number, line in enumerate(receipt(checked_copy))
        if (line["kind"], line["step"]) == ("epoch", last)
    )
    (checked_copy / "result.json").unlink()
    for rest in (
        "",
        lines[place][:1],
        lines[place][:-1],
    ):  # after the line on the weights, or within that on the epoch
        (checked_copy / "receipt.jsonl").write_text("".join(lines[:place]) + rest)
        replayed = replay(checked_copy, None, 0, None, Communicator(), print)
        assert (replayed.to_step, replayed.result, len(replayed.lines)) == (last, None, place - 1)
        assert (replayed.lines[-1]["kind"], replayed.lines[-1]["step"]) == ("weights", last)


def alter(run: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    lines = receipt(run)
    change(lines)
    write_receipt(run, lines)


def test_any_hash_that_was_altered_is_found(checked_copy: Path, checked: Path) -> None:
    for place, line in enumerate(receipt(checked)):
        for name in line.get("parameters", {}):
            alter(
                checked_copy,
                lambda lines, place=place, name=name: lines[place]["parameters"].update(
                    {name: "altered"}
                ),
            )  # type: ignore[misc]
            with pytest.raises(Different, match=rf"^step {line['step']} .*: parameter {name}"):
                replay(checked_copy, None, 0, None, Communicator(), print)
            shutil.copy(checked / "receipt.jsonl", checked_copy)


def test_a_checkpoint_that_is_not_what_was_recorded_is_found(checked_copy: Path) -> None:
    alter(checked_copy, lambda lines: lines[2]["parameters"].update({"dense1.bias": "altered"}))
    with pytest.raises(Different, match=r"^step 4, in its checkpoint: parameter dense1\.bias"):
        replay(checked_copy, None, 4, 6, Communicator(), print)
    assert replay(
        checked_copy, None, 6, None, Communicator(), print
    ).result  # what lies before is not looked at


def resumed(start: dict[str, Any]) -> dict[str, Any]:
    """A line on a resume after step 6, with another image set."""
    return {
        **start,
        "kind": "resume",
        "step": 6,
        "dataset": {**start["dataset"], "content_sha256": "x"},
    }


ALTERATIONS: dict[str, tuple[Callable[[list[dict[str, Any]]], Any], str]] = {
    "params_sha256": (
        lambda lines: lines[1].update(params_sha256="x"),
        r"step 2 .*params_sha256: x in the receipt, but \w{64} in the replay",
    ),
    "the last one": (
        lambda lines: lines[-1].update(params_sha256="x"),
        r"step 12 .*params_sha256: x in the receipt, but \w{64} in the replay",
    ),
    "a line removed": (
        lambda lines: lines.pop(4),
        r"step 6 .*the replay has a line 'weights' here, but the receipt has 'weights' of step 8",
    ),
    "an epoch removed": (lambda lines: lines.pop(3), r"step 4 .*the receipt has"),
    "a line added": (
        lambda lines: lines.insert(2, lines[1]),
        r"step 4 .*the receipt has 'weights' of step 2",
    ),
    "an end added": (
        lambda lines: lines.append(lines[-1]),
        r"step 12 .*the receipt has a line 'end' of step 12, but the replay has none",
    ),
    "test_correct": (
        lambda lines: lines[3].update(test_correct=77),
        r"step 4 .*test_correct: 77 in the receipt, but \d+ in the replay",
    ),
    "order_sha256": (
        lambda lines: lines[6].update(order_sha256="x"),
        r"step 8 .*order_sha256: x in the receipt, but \w{64} in the replay",
    ),
    "train_loss": (
        lambda lines: lines[3].update(train_loss=lines[3]["train_loss"] * (1 + 1e-15)),
        r"step 4 .*train_loss: ",
    ),
    "seed": (
        lambda lines: lines[0]["configuration"].update(seed=1),
        r"step 2 .*parameter conv1\.weight: SHA-256",
    ),
    "learning rate": (
        lambda lines: lines[0]["configuration"].update(learning_rate=0.031),
        r"step 2 .*parameter conv1\.weight",
    ),
    "a learning rate too large": (
        lambda lines: lines[0]["configuration"].update(learning_rate=1e20),
        r"step \d: the replay cannot continue: step \d, shard 0: the gradient of ",
    ),
    "a resume's content": (
        lambda lines: lines.insert(5, resumed(lines[0])),
        r"step 6: the image set's content_sha256 is x in",
    ),
    "file": (
        lambda lines: lines[0]["dataset"].update(sha256="x"),
        r"step 0: the image set's sha256 is x in the receipt, but \w{64} in",
    ),
    "content": (
        lambda lines: lines[0]["dataset"].update(content_sha256="x"),
        r"step 0: the image set's content_sha256 is x in",
    ),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_what_was_altered_is_named(name: str, checked_copy: Path) -> None:
    change, message = ALTERATIONS[name]
    alter(checked_copy, change)
    with pytest.raises(Different, match=f"^{message}"):
        replay(checked_copy, None, 0, None, Communicator(), print)


# -- the other files


METRICS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "a loss": lambda lines: lines[1].update(train_loss=0.5),
    "an accuracy": lambda lines: lines[-1].update(test_accuracy=0.25),
    "a learning rate": lambda lines: lines[0].update(learning_rate=1.0),
    "a step": lambda lines: lines[2].update(step=9),
    "a key": lambda lines: lines[2].update(los=1.0),
    "a line removed": lambda lines: lines.pop(2),
    "the last removed": lambda lines: lines.pop(),
    "a line added": lambda lines: lines.append(lines[-1]),
    "another kind of line": lambda lines: lines.append([1]),
    "all removed": lambda lines: lines.clear(),
}


@pytest.mark.parametrize("first", [0, 6])
@pytest.mark.parametrize("name", METRICS)
def test_altered_metrics_are_found(name: str, first: int, checked_copy: Path) -> None:
    lines = [json.loads(line) for line in (checked_copy / "metrics.jsonl").read_text().splitlines()]
    METRICS[name](lines)
    (checked_copy / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(Different, match=r"metrics\.jsonl"):
        replay(checked_copy, None, first, None, Communicator(), print)


def test_damaged_metrics_are_found(checked_copy: Path) -> None:
    text = (checked_copy / "metrics.jsonl").read_bytes()
    for damaged in (b"", text[:-20], b"\xff" + text, b"[" * 100_000 + b"\n"):
        (checked_copy / "metrics.jsonl").write_bytes(damaged)
        with pytest.raises(Different, match=r"metrics\.jsonl"):
            replay(checked_copy, None, 0, None, Communicator(), print)


def test_metrics_of_a_run_that_was_killed_may_end_early(checked_copy: Path) -> None:
    alter(checked_copy, lambda lines: lines.pop())
    (checked_copy / "result.json").unlink()
    lines = (checked_copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (checked_copy / "metrics.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20])
    assert not replay(checked_copy, None, 0, None, Communicator(), print).result


@pytest.fixture(scope="module")
def replayed(checked: Path) -> Replayed:
    with threadpool_limits(THREADS_PER_RANK):
        return replay(checked, None, 0, None, Communicator(), print)


def problem_of_files(run: Path, replayed: Replayed) -> str | None:
    assert replayed.result is not None
    return comparison.problem_of_files(run, replayed.receipt, replayed.result)


def test_every_value_of_the_result_is_compared_or_named(
    checked: Path, replayed: Replayed, checked_copy: Path
) -> None:
    assert problem_of_files(checked, replayed) is None
    result = json.loads((checked / "result.json").read_text())
    (checked_copy / "SHA256SUMS").unlink()
    free = set()
    for name, value in result.items():
        for altered in (
            {name: "x"},
            {name: -7},
            {name: {**value, "classes": 9}} if isinstance(value, dict) else {f"{name}_": value},
        ):
            (checked_copy / "result.json").write_text(json.dumps({**result, **altered}))
            if problem_of_files(checked_copy, replayed) is None:
                free.add(name)
    assert free == {"images_per_second", "train_seconds", "test_seconds", "bookkeeping_seconds"}
    for name in result["dataset"]:
        (checked_copy / "result.json").write_text(
            json.dumps({**result, "dataset": {**result["dataset"], name: "x"}})
        )
        assert problem_of_files(checked_copy, replayed), name
    assert any("times and speeds" in each for each in unchecked(checked_copy, replayed))


def test_measured_values_are_protected_by_the_checksums(
    checked_copy: Path, replayed: Replayed
) -> None:
    text = (checked_copy / "result.json").read_text()
    (checked_copy / "result.json").write_text(
        text.replace('"train_seconds": ', '"train_seconds": 1')
    )
    assert "result.json is damaged or was edited" in (
        problem_of_files(checked_copy, replayed) or ""
    )


@pytest.mark.parametrize("name", ["weights.h5", "weights-best.h5"])
def test_both_files_of_weights_are_compared(
    name: str, checked_copy: Path, replayed: Replayed
) -> None:
    whole = (checked_copy / name).read_bytes()
    with h5py.File(checked_copy / name, "r+") as file:
        file["dense1.bias"][3] += 1
    assert "parameter dense1.bias: SHA-256" in (problem_of_files(checked_copy, replayed) or "")
    for attribute, value in (
        ("step", 3),
        ("mean", [0.0]),
        ("class_names", ["x"] * 10),
        ("image_shape", [1, 28, 27]),
        ("more", 1),
    ):
        (checked_copy / name).write_bytes(whole)
        with h5py.File(checked_copy / name, "r+") as file:
            file.attrs[attribute] = value
        assert f"{attribute}: " in (problem_of_files(checked_copy, replayed) or "")
    (checked_copy / name).write_bytes(whole[: len(whole) // 2])
    assert f"{name} is damaged" in (problem_of_files(checked_copy, replayed) or "")


def test_what_is_not_checked_is_named(checked_copy: Path, replayed: Replayed) -> None:
    part = replay(checked_copy, None, 6, 8, Communicator(), print)
    assert {
        "steps 1 to 6",
        "result.json and weights.h5, which are written at the end of a run",
    } <= set(unchecked(checked_copy, part))
    assert "steps 1 to 6" not in unchecked(checked_copy, replayed)
    (checked_copy / "weights-best.h5").unlink()
    assert "weights-best.h5, which is missing" in unchecked(checked_copy, replayed)

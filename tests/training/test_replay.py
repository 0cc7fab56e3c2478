"""Reading a receipt, replaying its run, comparing them line by line: whatever was altered is found and named."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_limits

from distcnn.config import Config
from distcnn.errors import InputError
from distcnn.parallel import SerialCommunicator
from distcnn.parallel.threads import THREADS_PER_RANK
from distcnn.training.replay import Comparison, Different, Receipt, difference, read_receipt, replay
from tests.conftest import SERIAL, MakeImageSet
from tests.training.conftest import receipt

CONFIGURATION = dataclasses.asdict(Config(seed=4))
START = {"kind": "start", "step": 0, "configuration": CONFIGURATION}
RESUME = {"kind": "resume", "step": 4, "configuration": {**CONFIGURATION, "epochs": 9}}


def weights(step: int, **parameters: str) -> dict[str, Any]:
    return {"kind": "weights", "step": step, "params_sha256": "all", "parameters": parameters or {"w": "1", "b": "2"}}


def write(folder: Path, *lines: Any, rest: str = "") -> Path:
    (folder / "receipt.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + rest)
    return folder


def test_a_receipt_gives_its_lines_and_the_configuration_at_each_step(tmp_path: Path) -> None:
    read = read_receipt(write(tmp_path, START, weights(2), RESUME, weights(6)))
    assert (len(read.lines), read.last_step) == (4, 6)
    assert [read.configuration_at(step).epochs for step in (0, 3, 4, 6)] == [3, 3, 9, 9]
    assert read.configuration_at(0) == Config(seed=4)


@pytest.mark.parametrize("rest", ["", "{", '{"kind": "weights", "st', json.dumps(weights(6)), "\x00\x00"])
def test_a_last_line_that_was_cut_off_does_not_count(rest: str, tmp_path: Path) -> None:
    assert read_receipt(write(tmp_path, START, weights(2), rest=rest)).last_step == 2


@pytest.mark.parametrize(
    ("lines", "rest", "message"),
    [
        ([], "", r"its first line must be of kind 'start', and each must name its step"),
        ([], json.dumps(START), r"its first line must be of kind 'start'"),
        ([weights(2)], "", r"its first line must be of kind 'start'"),
        ([START, {"kind": "weights", "step": "2"}], "", r"each must name its step"),
        ([START, {"kind": "weights"}], "", r"KeyError: 'step'"),
        ([START, {"step": 2}], "", r"KeyError: 'kind'"),
        ([START, 7], "", r"TypeError"),
        ([START, "weights"], "", r"TypeError"),
        ([START], "hello\n", r"JSONDecodeError"),
        ([START], "\n", r"JSONDecodeError"),
        ([{"kind": "start", "step": 0}], "", r"KeyError: 'configuration'"),
        ([{**START, "configuration": {"colour": 3}}], "", r"TypeError: .*'colour'"),
        ([{**START, "configuration": {"epochs": 0}}], "", r"InputError: --epochs is 0"),
        ([START, {**RESUME, "configuration": {"momentum": 2}}], "", r"InputError: --momentum is 2"),
    ],
)
def test_what_is_no_receipt_is_refused(lines: list[Any], rest: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"receipt\.jsonl is no receipt.*{message}"):
        read_receipt(write(tmp_path, *lines, rest=rest))


def test_a_receipt_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"receipt\.jsonl cannot be read \(No such file or directory\): name a run directory"):
        read_receipt(tmp_path)
    (tmp_path / "receipt.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match=r"is no receipt \(UnicodeDecodeError"):
        read_receipt(tmp_path)


@pytest.mark.parametrize(("first", "last"), [(-1, 6), (0, 7), (7, None), (6, None), (4, 4), (5, 4)])
def test_steps_that_the_receipt_does_not_cover_are_refused(first: int, last: int | None, tmp_path: Path) -> None:
    write(tmp_path, START, weights(6))
    with pytest.raises(
        InputError, match=rf"--from-step {first} --to-step {6 if last is None else last}: the receipt covers the steps 0 to 6"
    ):
        replay(tmp_path, None, first, last, SerialCommunicator(), print)


# -- the comparison


def add(comparison: Comparison, line: dict[str, Any]) -> None:
    comparison.add_receipt(**line)


def test_lines_that_agree_are_kept_and_starts_do_not_count() -> None:
    lines = [START, weights(2), RESUME, weights(6), {"kind": "end", "step": 6, "params_sha256": "all"}]
    comparison = Comparison(Receipt(lines), 0, 6)
    for line in (lines[1], lines[3], lines[4]):
        add(comparison, line)
    comparison.close()
    assert comparison.compared == [lines[1], lines[3], lines[4]]


def test_only_the_steps_asked_for_are_compared() -> None:
    comparison = Comparison(Receipt([START, weights(2), weights(4), weights(6), weights(8)]), 2, 6)
    for step in (4, 6):
        add(comparison, weights(step))
    comparison.close()


@pytest.mark.parametrize(
    ("replayed", "message"),
    [
        (weights(4, w="1", b="3"), r"step 4 \(the last that agrees: step 2\): parameter b: SHA-256 2 in the receipt, 3 replayed"),
        (weights(4, w="0", b="3"), r"parameter w: SHA-256 1 in the receipt, 0 replayed"),
        (weights(4, w="1", b="2", c="5"), r"parameter c: SHA-256 None in the receipt, 5 replayed"),
        (weights(4, w="1"), r"parameter b: SHA-256 2 in the receipt, None replayed"),
        (weights(4) | {"params_sha256": "other"}, r"params_sha256: all in the receipt, other replayed, though every parameter agrees"),
        (weights(5), r"step 5 .*the replay has a line 'weights' here, the receipt has 'weights' of step 4"),
        ({"kind": "epoch", "step": 4}, r"the replay has a line 'epoch' here, the receipt has 'weights' of step 4"),
    ],
)
def test_a_line_that_differs_is_named(replayed: dict[str, Any], message: str) -> None:
    comparison = Comparison(Receipt([START, weights(2), weights(4)]), 0, 4)
    add(comparison, weights(2))
    with pytest.raises(Different, match=message):
        add(comparison, replayed)


def test_a_line_too_many_or_too_few_is_named() -> None:
    comparison = Comparison(Receipt([START, weights(2)]), 0, 4)
    with pytest.raises(
        Different, match=r"^step 2 \(the last that agrees: nothing\): the receipt has a line 'weights' of step 2, the replay"
    ):
        comparison.close()
    add(comparison, weights(2))
    with pytest.raises(
        Different, match=r"^step 4 \(the last that agrees: step 2\): the replay has a line 'weights' here, the receipt has none"
    ):
        add(comparison, weights(4))


def test_values_are_compared_bit_for_bit() -> None:
    loss = 0.1 + 0.2
    recorded = {"kind": "epoch", "step": 4, "train_loss": 0.3}
    assert difference(recorded, {**recorded, "train_loss": loss}) == f"train_loss: 0.3 in the receipt, {loss} replayed"
    comparison = Comparison(Receipt([START, json.loads(json.dumps({**recorded, "train_loss": loss}))]), 0, 4)
    add(comparison, {**recorded, "train_loss": loss})
    comparison.close()


# -- replays of a run of 3 epochs of 4 steps


@pytest.fixture(autouse=True)
def as_many_threads_as_a_rank_has() -> Iterator[None]:
    with threadpool_limits(THREADS_PER_RANK):
        yield


@pytest.fixture(scope="module")
def run(image_set: MakeImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of the steps 3, 4, 6, 8, 9, 12."""
    path = tmp_path_factory.mktemp("run") / "run"
    flags = [
        "--model",
        "tutorial",
        "--epochs",
        "3",
        "--microbatch-size",
        "8",
        "--check-every",
        "2",
        "--checkpoint-every",
        "3",
        "--keep",
        "9",
    ]
    SERIAL.train(1, path, "--data", str(image_set()), *flags)
    return path


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of ``run`` to do anything with."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("first", "last", "begun", "lines"),
    [
        (0, None, 0, 10),
        (0, 1, 0, 0),
        (2, 3, 0, 1),
        (3, 4, 3, 2),
        (4, 8, 4, 3),
        (5, 7, 4, 1),
        (6, 7, 6, 0),
        (6, 8, 6, 2),
        (8, 12, 8, 4),
        (11, None, 9, 4),
    ],
)
def test_a_part_of_a_run_is_replayed_from_the_nearest_checkpoint(first: int, last: int | None, begun: int, lines: int, run: Path) -> None:
    replayed = replay(run, None, first, last, SerialCommunicator(), print)
    assert (replayed.from_step, replayed.to_step, len(replayed.lines)) == (begun, last or 12, lines)
    assert replayed.reached_end == (last in (None, 12))


def test_without_checkpoints_it_begins_at_the_first_step(copy: Path) -> None:
    shutil.rmtree(copy / "checkpoints")
    assert replay(copy, None, 8, None, SerialCommunicator(), print).from_step == 0


def alter(run: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    lines = receipt(run)
    change(lines)
    write(run, *lines)


def test_any_hash_that_was_altered_is_found(copy: Path, run: Path) -> None:
    for place, line in enumerate(receipt(run)):
        for name in line.get("parameters", {}):
            alter(copy, lambda lines, place=place, name=name: lines[place]["parameters"].update({name: "altered"}))  # type: ignore[misc]
            with pytest.raises(
                Different, match=rf"^step {line['step']} .*: parameter {name}: SHA-256 altered in the receipt, \w{{64}} repl"
            ):
                replay(copy, None, 0, None, SerialCommunicator(), print)
            shutil.copy(run / "receipt.jsonl", copy)


def test_a_checkpoint_that_is_not_what_was_recorded_is_found(copy: Path) -> None:
    alter(copy, lambda lines: lines[2]["parameters"].update({"dense1.bias": "altered"}))
    with pytest.raises(Different, match=r"^step 4, in its checkpoint: parameter dense1\.bias: SHA-256 altered in the receipt"):
        replay(copy, None, 4, 6, SerialCommunicator(), print)
    assert replay(copy, None, 6, None, SerialCommunicator(), print).reached_end  # what lies before is not looked at


ALTERATIONS: dict[str, tuple[Callable[[list[dict[str, Any]]], Any], str]] = {
    "params_sha256": (lambda lines: lines[1].update(params_sha256="x"), r"step 2 .*params_sha256: x in the receipt, \w{64} replayed"),
    "the last one": (lambda lines: lines[-1].update(params_sha256="x"), r"step 12 .*params_sha256: x in the receipt, \w{64} replayed"),
    "a line removed": (lambda lines: lines.pop(4), r"step 6 .*the replay has a line 'weights' here, the receipt has 'weights' of step 8"),
    "an epoch removed": (lambda lines: lines.pop(3), r"step 4 .*the receipt has"),
    "a line added": (lambda lines: lines.insert(2, lines[1]), r"step 4 .*the receipt has 'weights' of step 2"),
    "an end added": (lambda lines: lines.append(lines[-1]), r"step 12 .*the receipt has a line 'end' of step 12, the replay has none"),
    "test_correct": (lambda lines: lines[3].update(test_correct=77), r"step 4 .*test_correct: 77 in the receipt, \d+ replayed"),
    "order_sha256": (lambda lines: lines[6].update(order_sha256="x"), r"step 8 .*order_sha256: x in the receipt, \w{64} replayed"),
    "train_loss": (lambda lines: lines[3].update(train_loss=lines[3]["train_loss"] * (1 + 1e-15)), r"step 4 .*train_loss: "),
    "seed": (lambda lines: lines[0]["configuration"].update(seed=1), r"step 2 .*parameter conv1\.weight: SHA-256"),
    "learning rate": (lambda lines: lines[0]["configuration"].update(learning_rate=0.031), r"step 2 .*parameter conv1\.weight"),
    "file": (lambda lines: lines[0]["dataset"].update(sha256="x"), r"step 0: the image set: its sha256 is x in the receipt, \w{64} in"),
    "content": (lambda lines: lines[0]["dataset"].update(content_sha256="x"), r"step 0: the image set: its content_sha256 is x in"),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_what_was_altered_is_named(name: str, copy: Path) -> None:
    change, message = ALTERATIONS[name]
    alter(copy, change)
    with pytest.raises(Different, match=f"^{message}"):
        replay(copy, None, 0, None, SerialCommunicator(), print)

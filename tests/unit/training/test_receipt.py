"""Reading a receipt, and comparing it line by line with a replay: every difference is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from distcnn.config import Config
from distcnn.distributed import Communicator
from distcnn.errors import InputError
from distcnn.training.comparison import Comparison, Different, difference
from distcnn.training.receipt import Receipt, read_receipt
from distcnn.training.replay import replay

CONFIGURATION = dataclasses.asdict(Config(seed=4))
START = {"kind": "start", "step": 0, "configuration": CONFIGURATION}
RESUME = {"kind": "resume", "step": 4, "configuration": {**CONFIGURATION, "epochs": 9}}


def weights(step: int, **parameters: str) -> dict[str, Any]:
    return {
        "kind": "weights",
        "step": step,
        "params_sha256": "all",
        "parameters": parameters or {"w": "1", "b": "2"},
    }


def write(folder: Path, *lines: Any, rest: str = "") -> Path:
    (folder / "receipt.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + rest)
    return folder


def test_a_receipt_gives_its_lines_and_the_configuration_at_each_step(tmp_path: Path) -> None:
    read = read_receipt(write(tmp_path, START, weights(2), RESUME, weights(6)))
    assert (len(read.lines), read.last_step) == (4, 6)
    assert [read.configuration_at(step).epochs for step in (0, 3, 4, 6)] == [3, 3, 9, 9]
    assert read.configuration_at(0) == Config(seed=4)


@pytest.mark.parametrize(
    "rest", ["", "{", '{"kind": "weights", "st', json.dumps(weights(6)), "\x00\x00"]
)
def test_a_last_line_that_was_cut_off_does_not_count(rest: str, tmp_path: Path) -> None:
    assert read_receipt(write(tmp_path, START, weights(2), rest=rest)).last_step == 2


@pytest.mark.parametrize(
    ("lines", "rest", "message"),
    [
        ([], "", r"its first line must be of kind 'start'"),
        ([], json.dumps(START), r"its first line must be of kind 'start'"),
        ([weights(2)], "", r"its first line must be of kind 'start'"),
        ([START, {"kind": "weights", "step": "2"}], "", r"each line must name its step"),
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
def test_only_a_receipt_is_accepted(
    lines: list[Any], rest: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"receipt\.jsonl is damaged.*{message}"):
        read_receipt(write(tmp_path, *lines, rest=rest))


def test_a_receipt_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"receipt\.jsonl cannot be read"):
        read_receipt(tmp_path)
    (tmp_path / "receipt.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match=r"is damaged \(UnicodeDecodeError"):
        read_receipt(tmp_path)


@pytest.mark.parametrize(("first", "last"), [(-1, 6), (0, 7), (7, None), (6, None), (4, 4), (5, 4)])
def test_steps_that_the_receipt_does_not_cover_are_refused(
    first: int, last: int | None, tmp_path: Path
) -> None:
    write(tmp_path, START, weights(6))
    with pytest.raises(
        InputError,
        match=(
            rf"--from-step {first} --to-step {6 if last is None else last}: the receipt covers"
            r" steps 0 to 6"
        ),
    ):
        replay(tmp_path, None, first, last, Communicator(), print)


# -- the comparison


def add(comparison: Comparison, line: dict[str, Any]) -> None:
    comparison.add_receipt(**line)


def test_lines_that_agree_are_kept_and_starts_do_not_count() -> None:
    lines = [
        START,
        weights(2),
        RESUME,
        weights(6),
        {"kind": "end", "step": 6, "params_sha256": "all"},
    ]
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
        (
            weights(4, w="1", b="3"),
            r"step 4 \(.*: step 2\): parameter b: SHA-256 2 in the receipt, but 3 in the replay",
        ),
        (weights(4, w="0", b="3"), r"parameter w: SHA-256 1 in the receipt, but 0 in the replay"),
        (
            weights(4, w="1", b="2", c="5"),
            r"parameter c: SHA-256 None in the receipt, but 5 in the replay",
        ),
        (weights(4, w="1"), r"parameter b: SHA-256 2 in the receipt, but None in the replay"),
        (
            weights(4) | {"params_sha256": "other"},
            r"params_sha256: all in the receipt, but other in the replay",
        ),
        (
            weights(5),
            r"step 5 .*has a line 'weights' here, but the receipt has 'weights' of step 4",
        ),
        (
            {"kind": "epoch", "step": 4},
            r"the replay has a line 'epoch' here, but the receipt has 'weights' of step 4",
        ),
    ],
)
def test_a_line_that_differs_is_named(replayed: dict[str, Any], message: str) -> None:
    comparison = Comparison(Receipt([START, weights(2), weights(4)]), 0, 4)
    add(comparison, weights(2))
    with pytest.raises(Different, match=message):
        add(comparison, replayed)


def test_a_line_too_many_or_too_few_is_named() -> None:
    comparison = Comparison(Receipt([START, weights(2)]), 0, 4)
    with pytest.raises(Different, match=r"^step 2 .* the receipt has a line .weights. of step 2"):
        comparison.close()
    add(comparison, weights(2))
    with pytest.raises(Different, match=r"^step 4 .*step 2.* the receipt has none"):
        add(comparison, weights(4))


def test_values_are_compared_bit_for_bit() -> None:
    loss = 0.1 + 0.2
    recorded = {"kind": "epoch", "step": 4, "train_loss": 0.3}
    assert (
        difference(recorded, {**recorded, "train_loss": loss}, "the receipt")
        == f"train_loss: 0.3 in the receipt, but {loss} in the replay"
    )
    comparison = Comparison(
        Receipt([START, json.loads(json.dumps({**recorded, "train_loss": loss}))]), 0, 4
    )
    add(comparison, {**recorded, "train_loss": loss})
    comparison.close()

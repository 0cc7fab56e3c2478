"""The receipt's chain of hashes: no line of it can be changed without that being found."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import distcnn as dc
from distcnn.config import Config
from distcnn.distributed import Communicator
from distcnn.training.comparison import problem_of_files
from distcnn.training.line_files import ChainedLog
from distcnn.training.receipt import MALFORMED, NO_LINE, PREVIOUS, parse_receipt, read_receipt
from distcnn.training.replay import replay
from distcnn.training.results import read_result
from distcnn.training.starts import is_edited
from tests.conftest import MakeImageSet
from tests.support.training_fixtures import copy_as_killed, receipt, store_of, write_receipt

LINES: list[dict[str, Any]] = [
    {"kind": "start", "step": 0, "configuration": {}},
    {"kind": "weights", "step": 2, "params_sha256": "a"},
    {"kind": "resume", "step": 2, "configuration": {"epochs": 5}},
    {"kind": "weights", "step": 4, "params_sha256": "b"},
    {"kind": "epoch", "step": 4, "train_loss": 0.1 + 0.2},
    {"kind": "end", "step": 4, "params_sha256": "b"},
]


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    write_receipt(tmp_path, LINES)
    return (tmp_path / "receipt.jsonl").read_bytes()


def problem_of(content: bytes) -> str:
    """Why it is refused, or where its chain is broken."""
    try:
        return parse_receipt(content.decode()).problem
    except (*MALFORMED, UnicodeDecodeError) as error:
        return f"damaged: {type(error).__name__}"


def chained(texts: list[str]) -> bytes:
    """Lines, whatever they hold, in a chain without a break."""
    content, before = b"", NO_LINE
    for text in texts:
        line = f'{text[:-1]}, "{PREVIOUS}": "{before}"' + "}"
        before = hashlib.sha256(line.encode()).hexdigest()
        content += line.encode() + b"\n"
    return content


PORTABLE_START = {"kind": "start", "step": 0, "configuration": {"arithmetic": "portable"}}


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (2, '{"kind": "weights", "step": 2, "params_sha256": "b", "params_sha256": "a"}'),
        (2, '{"kind": "weights",  "step": 2, "params_sha256": "a"}'),
        (2, '{"kind": "weights", "step": 2, "params_sha256": "\\u0061"}'),
        (1, '{"kind": "start", "step": -1, "configuration": {}}'),
        (2, '{"kind": "start", "step": 0, "configuration": {}}'),
        (4, '{"kind": "start", "step": 2, "configuration": {}}'),
    ],
)
def test_lines_that_no_run_writes_are_found(number: int, text: str) -> None:
    texts = [json.dumps(line) for line in LINES]
    assert problem_of(chained(texts)) == ""
    texts[number - 1] = text
    assert f"line {number}" in problem_of(chained(texts))


def test_the_receipt_of_a_portable_run_has_no_resume_that_changes_nothing() -> None:
    epochs = {"arithmetic": "portable", "epochs": 5}
    changed = {"kind": "resume", "step": 2, "configuration": epochs}
    same = {"kind": "resume", "step": 2, "configuration": PORTABLE_START["configuration"]}
    texts = [json.dumps(line) for line in (PORTABLE_START, changed)]
    assert problem_of(chained(texts)) == ""
    texts = [json.dumps(line) for line in (PORTABLE_START, same)]
    assert "line 2" in problem_of(chained(texts))


def test_each_line_has_the_hash_of_the_one_before(content: bytes) -> None:
    before = NO_LINE
    for line in content.splitlines():
        assert json.loads(line)[PREVIOUS] == before
        before = hashlib.sha256(line).hexdigest()
    receipt = parse_receipt(content.decode())
    assert (receipt.sha256, receipt.problem, receipt.lines) == (before, "", LINES)


def test_a_change_of_any_byte_is_found(content: bytes) -> None:
    whole, last_line = parse_receipt(content.decode()), content.rindex(b"\n", 0, -1) + 1
    for place in range(len(content) - 1):
        altered = bytearray(content)
        altered[place] ^= 1
        if problem_of(bytes(altered)):
            continue
        assert place >= last_line, "the hash in the line after is another"
        assert parse_receipt(altered.decode()).sha256 != whole.sha256


def test_lines_that_are_removed_added_or_moved_are_found(content: bytes) -> None:
    lines = content.splitlines(keepends=True)
    unchained = (json.dumps(LINES[1]) + "\n").encode()
    for place in range(len(lines)):
        if place < len(lines) - 1:
            moved = [*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]]
            assert problem_of(b"".join(moved))
            assert problem_of(b"".join([*lines[:place], *lines[place + 1 :]]))
        for added in (*lines, unchained):
            assert problem_of(b"".join([*lines[:place], added, *lines[place:]]))
    assert problem_of(content + unchained)


def test_the_step_of_the_first_broken_line_is_named(content: bytes) -> None:
    altered = content.replace(b'"params_sha256": "b", "prev', b'"params_sha256": "c", "prev', 1)
    assert problem_of(altered).startswith("step 4: receipt.jsonl was changed: its line 5 ")
    altered = content.replace(b'"params_sha256": "a"', b'"params_sha256": "c"')
    assert problem_of(altered).startswith("step 2: receipt.jsonl was changed: its line 3 ")


def test_a_kill_at_any_byte_leaves_a_chain_that_continues(content: bytes, tmp_path: Path) -> None:
    """The receipt is cut to its lines at the checkpoint, whatever is left of the file."""
    file = tmp_path / "receipt.jsonl"
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(ends[0], len(content), 7):
        file.write_bytes(content[:cut])
        assert read_receipt(tmp_path).problem == ""
        at_checkpoint = max(count for count, end in enumerate(ends, 1) if end <= cut)
        log = ChainedLog("receipt.jsonl", lambda: tmp_path, print)
        log.restore(content[: ends[at_checkpoint - 1]].decode())
        for line in LINES[at_checkpoint:]:
            log.add(line)
        assert file.read_bytes() == content
        assert log.sha256 == parse_receipt(content.decode()).sha256


def test_a_receipt_of_an_older_version_is_read_and_continued(tmp_path: Path) -> None:
    """It has no chain; the lines added to it are chained from its last line on."""
    file = tmp_path / "receipt.jsonl"
    old = "".join(f"{json.dumps(line)}\n" for line in LINES[:3])
    assert parse_receipt(old).problem == ""
    log = ChainedLog("receipt.jsonl", lambda: tmp_path, print)
    log.restore(old)
    for line in LINES[3:]:
        log.add(line)
    assert parse_receipt(file.read_text()) == dataclasses.replace(
        parse_receipt(old), lines=LINES, sha256=log.sha256
    )
    lines = file.read_bytes().splitlines(keepends=True)
    for place in range(2, len(lines) - 1):  # from the last line without a chain on
        altered = [*lines[:place], lines[place].replace(b'"kind"', b'"Kind"'), *lines[place + 1 :]]
        assert problem_of(b"".join(altered))
        assert problem_of(b"".join([*lines[:place], *lines[place + 1 :]]))


def unchained(text: str) -> str:
    lines = [json.loads(line) for line in text.splitlines()]
    return "".join(
        f"{json.dumps({name: line[name] for name in line if name != PREVIOUS})}\n" for line in lines
    )


@pytest.fixture
def older(left_alone: Path, tmp_path: Path) -> Path:
    """A run of a version without chains, as it was before its last checkpoint."""
    run = copy_as_killed(left_alone, tmp_path / "older", lost=8)
    (run / "receipt.jsonl").write_text(unchained((run / "receipt.jsonl").read_text()))
    for step in store_of(run).steps():
        saved = store_of(run).load(step)
        texts = {**saved.texts, "receipt": unchained(saved.texts["receipt"])}
        store_of(run).save(step, dataclasses.replace(saved, texts=texts))
    return run


def test_a_run_of_an_older_version_is_verified_and_resumed(
    older: Path, left_alone: Path, image_set: MakeImageSet
) -> None:
    begun = receipt(older)
    assert replay(older, None, 0, None, Communicator(), print).lines
    result = dc.Trainer("tutorial", microbatch_size=8).fit(image_set(), epochs=2, resume=older)
    assert result.params_sha256 == read_result(left_alone).params_sha256
    lines = (older / "receipt.jsonl").read_text().splitlines()
    added = [place for place, line in enumerate(lines) if PREVIOUS in line]
    assert added == list(range(added[0], len(lines)))
    assert receipt(older)[: added[0]] == begun[: added[0]]
    assert replay(older, None, 0, None, Communicator(), print).result
    older.joinpath("receipt.jsonl").write_text(unchained("\n".join(lines)))
    replayed = replay(older, None, 0, None, Communicator(), print)
    assert replayed.result
    problem = problem_of_files(older, replayed.receipt, replayed.result)
    assert problem
    assert problem.startswith("receipt_sha256: "), "a chain that was taken away is missed"


@pytest.mark.parametrize("stated", [None, 7, [], {}, "", "A" * 64, NO_LINE])
def test_any_other_value_breaks_the_chain(stated: Any, content: bytes) -> None:
    lines = [json.loads(line) for line in content.splitlines()]
    lines[3][PREVIOUS] = stated
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    assert parse_receipt(text).problem.startswith("step 2: receipt.jsonl was changed: its line 4 ")


def test_a_file_that_was_edited_is_told_from_one_that_was_cut_off(
    content: bytes, tmp_path: Path
) -> None:
    file, text = tmp_path / "receipt.jsonl", content.decode()
    for left in (b"", content[:-1], content, content + b'{"kind'):
        file.write_bytes(left)
        assert not is_edited(file, text)
    file.write_bytes(content.replace(b"weights", b"Weights"))
    assert is_edited(file, text)
    assert not is_edited(tmp_path / "missing.jsonl", text)


def test_the_configuration_is_read_as_before(content: bytes) -> None:
    receipt = parse_receipt(content.decode())
    assert receipt.configuration_at(4) == Config(epochs=5)
    assert receipt.sessions == receipt.starts == [LINES[0], LINES[2]]

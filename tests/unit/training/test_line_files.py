"""``metrics.csv`` has the numbers of ``metrics.jsonl``, one row a line, in fixed columns."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from distcnn.training.line_files import COLUMNS, MetricsTable
from tests.support.full_disk import full_disk

LINES = [
    {"kind": "step", "step": 50, "epoch": 1, "loss": 0.1 + 0.2, "images_per_second": 1e3},
    {"kind": "epoch", "step": 60, "epoch": 1, "train_loss": float("nan"), "test_accuracy": 0.5},
]
ROWS = [["step", "50", "1", "0.30000000000000004", *[""] * 7, "1000.0"]]
ROWS += [["epoch", "60", "1", "", "", "nan", *[""] * 4, "0.5", ""]]


def table(folder: Path, said: list[str]) -> MetricsTable:
    return MetricsTable("metrics.csv", lambda: folder, said.append, COLUMNS)


def rows(folder: Path) -> list[list[str]]:
    text = (folder / "metrics.csv").read_bytes().decode()
    assert "\r" not in text
    return list(csv.reader(text.splitlines()))


def test_rows_have_all_digits_and_blanks_where_nothing_was_measured(tmp_path: Path) -> None:
    made = table(tmp_path, [])
    for number, line in enumerate(LINES, 1):
        made.add(line)
        assert rows(tmp_path) == [list(COLUMNS), *ROWS[:number]], "complete after every line"


def test_a_resume_restores_the_rows_of_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("left over by a kill, cut o")
    made, text = table(tmp_path, []), "".join(f"{json.dumps(line)}\n" for line in LINES)
    made.restore(text)
    assert rows(tmp_path) == [list(COLUMNS), *ROWS]
    made.add(LINES[0])
    assert rows(tmp_path) == [list(COLUMNS), *ROWS, ROWS[0]]


def test_a_full_disk_loses_no_row(tmp_path: Path) -> None:
    said: list[str] = []
    made = table(tmp_path, said)
    with full_disk():
        made.add(LINES[0])
        with pytest.raises(OSError, match="No space left"):
            made.complete()
    assert "metrics.csv cannot be written (No space left on device)" in said[0]
    made.add(LINES[1])
    assert rows(tmp_path) == [list(COLUMNS), *ROWS]

"""The confusion matrix and what is read from it, against numbers counted by hand."""

from __future__ import annotations

import numpy as np

from distcnn.report.confusion import by_class, confusions, matrix
from distcnn.score import Score

SCORE = Score(np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]]), 0.5, ())
NAMES = ("cat", "dog", "eel")


def test_the_diagonal_is_shaded_by_recall_and_mistakes_by_their_number() -> None:
    found = matrix(SCORE, NAMES)
    assert found is not None
    assert [[cell.count for cell in row] for row in found.rows] == SCORE.confusion.tolist()
    assert [[cell.shade for cell in row] for row in found.rows] == [
        [0.8, 1, 0],
        [0.5, 0.75, 0],
        [0, 0, 0],
    ]


def test_a_matrix_of_many_classes_is_left_out() -> None:
    many = Score(np.eye(21, dtype=np.int64), 0.0, ())
    assert matrix(many, tuple(map(str, range(21)))) is None


def test_precision_and_recall_of_each_class() -> None:
    assert list(by_class(SCORE, NAMES).rows) == [
        ("cat", "10", "88.9%", "80.0%", "84.2%"),
        ("dog", "4", "60.0%", "75.0%", "66.7%"),
        ("eel", "0", "none", "none", "none"),
    ]


def test_of_many_classes_those_of_the_lowest_recall_are_listed() -> None:
    counts = np.diag(np.full(50, 9))
    counts[7] = 0
    counts[7, 3] = 4
    table = by_class(Score(counts, 0.0, ()), tuple(map(str, range(50))))
    assert table.rows[0][0] == "7"
    assert len(table.rows) < 50
    assert "of 50" in table.caption


def test_the_most_common_mistakes_come_first() -> None:
    found = confusions(SCORE, NAMES)
    assert found is not None
    assert list(found.rows) == [("cat", "dog", "2", "20.0%"), ("dog", "cat", "1", "25.0%")]
    assert confusions(Score(np.eye(3, dtype=np.int64), 0.0, ()), NAMES) is None

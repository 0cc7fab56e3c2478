"""The confusion matrix as a table whose cells are shaded, results by class, and common mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distcnn.report.charts import Table
from distcnn.report.inspection import Inspection
from distcnn.score import Score
from distcnn.training.results import RunResult

MOST_NUMBERED = 20
"""Classes up to which the whole matrix is written out."""
MOST_ROWS = 30
CONFUSIONS = 12


@dataclass(frozen=True)
class Cell:
    """A count; ``shade`` from 0 to 1, which the page turns into a colour."""

    count: int
    shade: float
    is_correct: bool


@dataclass(frozen=True)
class Matrix:
    """Rows are the true classes, columns the predicted ones."""

    names: tuple[str, ...]
    rows: list[list[Cell]]


def matrix(score: Score, names: Sequence[str]) -> Matrix | None:
    """The matrix, if it is small enough to read. The diagonal is shaded by recall, the rest by
    their counts as fractions of the largest of them.
    """
    counts = score.confusion
    if len(counts) > MOST_NUMBERED:
        return None
    wrong = counts - np.diag(counts.diagonal())
    most = max(int(wrong.max()), 1)
    rows = [
        [
            Cell(
                int(count),
                round(count / max(int(row.sum()), 1) if label == column else count / most, 3),
                label == column,
            )
            for column, count in enumerate(row)
        ]
        for label, row in enumerate(counts)
    ]
    return Matrix(tuple(names), rows)


def note(result: RunResult | None, found: Inspection) -> str:
    """Which images the score is of, and whether it is the recorded one."""
    score = found.score
    if score is None or result is None:
        return ""
    which = f"All {score.examples:,} test images"
    if score.examples < found.test_examples:
        which = f"{score.examples:,} of the {found.test_examples:,} test images"
    low, high = score.interval
    told = (
        f"{which} were classified again for this page, with the last weights: {score.correct:,}"
        f" correctly, {score.accuracy:.2%} (95% confidence interval {low:.2%} to {high:.2%})"
    )
    if found.of_other_data:
        return f"{told}. This is not the image set of the run: its SHA-256 is another."
    if score.examples < found.test_examples:
        return f"{told}."
    if score.correct == result.test_correct:
        return f"{told}, as many as the run recorded."
    return (
        f"{told}. The run recorded {result.test_correct:,}: its data, software or processor differ"
        " from those here."
    )


def by_class(score: Score, names: Sequence[str]) -> Table:
    """Examples, precision and recall of each class; of many, the classes of the lowest recall."""
    order = np.arange(len(names))
    caption = "By class"
    if len(names) > MOST_ROWS:
        order = np.argsort(np.nan_to_num(score.recall, nan=2), kind="stable")[:MOST_ROWS]
        caption = f"The {MOST_ROWS} classes of {len(names):,} with the lowest recall"
    examples = score.confusion.sum(axis=1)
    rows = [
        (
            names[label],
            f"{examples[label]:,}",
            _share(score.precision[label]),
            _share(score.recall[label]),
            _share(score.f1[label]),
        )
        for label in order.tolist()
    ]
    return Table(caption, ("class", "test images", "precision", "recall", "F1"), rows)


def confusions(score: Score, names: Sequence[str]) -> Table | None:
    """The most common mistakes; None if there is none."""
    totals = score.confusion.sum(axis=1)
    rows = [
        (names[label], names[predicted], f"{count:,}", _share(count / totals[label]))
        for label, predicted, count in score.confusions(CONFUSIONS)
    ]
    header = ("true class", "predicted", "images", "share of the class")
    return Table("Most common confusions", header, rows, text_columns=True) if rows else None


def _share(fraction: float) -> str:
    return "none" if math.isnan(fraction) else f"{fraction:.1%}"

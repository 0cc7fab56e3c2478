"""Predictions as a table, as CSV and as JSON, line by line as they are made."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from distcnn.datasets.inputs import Unreadable
from distcnn.system.wording import aligned, printable, width_of

Top = Sequence[tuple[str, float]]
"""The most probable classes of an image, with their probabilities."""


def titles(classes: int, separator: str) -> list[str]:
    """The columns' names: those of the second class end in 2, and so on."""
    ends = ["", *(f"{separator}{rank}" for rank in range(2, classes + 1))]
    return ["file", *(f"{name}{end}" for end in ends for name in ("class", "probability"))]


class Table:
    """Aligned columns, each image with its ``top`` classes."""

    is_raw = False

    def __init__(self, class_names: Sequence[str], top: int) -> None:
        self._titles = titles(top, " ")
        longest = [0, *[max(width_of(printable(name)) for name in class_names), 0] * top]
        self._widths = [
            max(pair) for pair in zip(longest, map(width_of, self._titles), strict=True)
        ]

    def head(self, longest_name: int) -> list[str]:
        """The lines before the first image; names have at most ``longest_name`` columns."""
        self._widths[0] = max(self._widths[0], longest_name)
        return [self._line(self._titles)] if longest_name else []

    def row(self, name: str, top: Top) -> str:
        """The line on an image."""
        cells = [printable(name)]
        for place, (class_name, probability) in enumerate(top, start=1):
            cells += [printable(class_name), f"{probability:.4f}".rjust(self._widths[2 * place])]
        return self._line(cells)

    def foot(self, unreadable: Sequence[Unreadable]) -> list[str]:
        """The lines after the last image."""
        return []

    def _line(self, cells: Sequence[str]) -> str:
        return aligned(cells, self._widths, left=len(cells))


class CSV:
    """Comma-separated values, a row for each image; names are as they are, whatever they contain,
    except on a terminal.
    """

    is_raw = True

    def __init__(self, classes: int) -> None:
        self._classes = classes

    def head(self, longest_name: int) -> list[str]:
        return [self._line(titles(self._classes, "_"))]

    def row(self, name: str, top: Top) -> str:
        return self._line([name, *(cell for pair in top for cell in pair)])

    def foot(self, unreadable: Sequence[Unreadable]) -> list[str]:
        return []

    def _line(self, cells: Sequence[object]) -> str:
        text = io.StringIO()
        csv.writer(text).writerow(cells)
        return text.getvalue().removesuffix("\r\n")


class JSON:
    """One document, a line for each image."""

    is_raw = False

    def __init__(self, run: str, weights: str) -> None:
        self._run, self._weights, self._separator = run, weights, ""

    def head(self, longest_name: int) -> list[str]:
        about = json.dumps({"run": self._run, "weights": self._weights})
        return [f'{about[:-1]}, "predictions": [']

    def row(self, name: str, top: Top) -> str:
        classes = [{"class": each, "probability": value} for each, value in top]
        entry = {"file": name, **classes[0]} | ({"top": classes} if len(top) > 1 else {})
        separator, self._separator = self._separator, ", "
        return separator + json.dumps(entry)

    def foot(self, unreadable: Sequence[Unreadable]) -> list[str]:
        failed = [{"file": each.name, "reason": each.reason} for each in unreadable]
        return [f'], "unreadable": {json.dumps(failed)}}}']


Format = Table | CSV | JSON

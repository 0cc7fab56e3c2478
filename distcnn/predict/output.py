"""Predictions as a table, as CSV and as JSON, part by part as they are made."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distcnn.datasets.inputs import Unreadable
from distcnn.system.wording import aligned, printable, width_of

Top = Sequence[tuple[str, float]]
"""The most probable classes of an image, with their probabilities."""
Rows = Iterable[tuple[str, Top]]
"""Names of images with their classes."""
PROBABILITY = "probability"


@dataclass
class Text:
    """A table of aligned columns."""

    run: str
    weights: str
    class_names: Sequence[str]
    top: int
    longest_name: int = 0

    @property
    def classes(self) -> int:
        """Classes to print of each image."""
        return min(self.top, len(self.class_names))

    def header(self) -> list[str]:
        """The lines before the first image."""
        if not self.longest_name:  # there are no images
            return []
        names = ("class", PROBABILITY)
        more = [f"{name} {rank}" for rank in range(2, self.classes + 1) for name in names]
        return [self._line(["file", *names, *more])]

    def rows(self, rows: Rows) -> list[str]:
        """The lines on some images."""
        lines = []
        for name, top in rows:
            cells = [cell for each, value in top for cell in (printable(each), f"{value:.4f}")]
            lines.append(self._line([printable(name), *cells]))
        return lines

    def footer(self, unreadable: Sequence[Unreadable]) -> list[str]:
        """The lines after the last image."""
        return []

    def _line(self, cells: Sequence[str]) -> str:
        name = max(width_of(printable(each)) for each in self.class_names)
        widths = [max(self.longest_name, len("file"))]
        for rank in range(1, self.classes + 1):
            number = f" {rank}" if rank > 1 else ""
            widths += [max(name, len(f"class{number}")), len(f"{PROBABILITY}{number}")]
        shown = [
            cell.rjust(width) if place and place % 2 == 0 else cell
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return aligned(shown, widths, left=len(cells))


class CSV(Text):
    """Comma-separated values, a row for each image."""

    def header(self) -> list[str]:
        more = (f"class_{n},{PROBABILITY}_{n}" for n in range(2, self.classes + 1))
        return [",".join([f"file,class,{PROBABILITY}", *more])]

    def rows(self, rows: Rows) -> list[str]:
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        for name, top in rows:
            cells = [cell for each, value in top for cell in (printable(each), value)]
            writer.writerow([printable(name), *cells])
        return lines.getvalue().splitlines()


class JSON(Text):
    """One document, a line for each image."""

    _separator = ""

    def header(self) -> list[str]:
        about = json.dumps({"run": self.run, "weights": self.weights})
        return [f'{about[:-1]}, "predictions": [']

    def rows(self, rows: Rows) -> list[str]:
        lines = []
        for name, top in rows:
            classes = [{"class": each, PROBABILITY: value} for each, value in top]
            entry = {"file": name, **classes[0]}
            if self.classes > 1:
                entry["top"] = classes
            lines.append(self._separator + json.dumps(entry))
            self._separator = ", "
        return lines

    def footer(self, unreadable: Sequence[Unreadable]) -> list[str]:
        failed = [{"file": each.name, "reason": each.reason} for each in unreadable]
        return [f'], "unreadable": {json.dumps(failed)}}}']


FORMATS = {"text": Text, "csv": CSV, "json": JSON}

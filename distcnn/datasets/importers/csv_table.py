"""CSV files: one image in a row, its label in the first, the last or a named column."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from distcnn.datasets.importers.idx import unpacked
from distcnn.datasets.importers.named_arrays import split_of
from distcnn.datasets.importers.source import (
    Array,
    ArrayStack,
    Examples,
    Options,
    Source,
    damage_named,
    join,
    require_room,
)
from distcnn.errors import InputError
from distcnn.system.files import open_named
from distcnn.system.wording import counted, first_few

DELIMITERS = ",;\t "
LABEL_NAMES = ("label", "labels", "class", "target", "y", "digit", "letter", "emotion", "category")
FIRST, LAST = "first", "last"
MOST_LINE_BYTES = 2**25
"""Far more than an image of the largest size; longer lines are never read."""
ROWS_AT_ONCE = 2000
LOOK_ROWS = 2000
"""How many rows are looked at to find the column of the labels."""


@dataclass(frozen=True)
class Layout:
    """How rows are read: ``label`` is the label's column of ``columns``, ``left_out`` are others
    without pixels.
    """

    delimiter: str
    columns: int
    header: bool
    label: int
    label_name: str
    left_out: tuple[int, ...] = ()


def read_csv(paths: Sequence[Path], options: Options) -> Source:
    """CSV files as a source; their names may say which split they are."""
    parts: dict[str, list[Examples]] = {}
    notes = []
    for path in paths:
        split = split_of(path.name) or "train"
        with damage_named(path):
            layout = find_layout(path, options.labels)
            parts.setdefault(split, []).append(_read(path, layout))
        header = "header" if layout.header else "no header"
        notes.append(
            f"{split} split: {path.name}, {len(parts[split][-1].labels):,} rows, {header}, labels"
            f" in {layout.label_name}"
        )
    examples = {split: join(found) for split, found in parts.items()}
    is_emnist = all("emnist" in path.name.lower() for path in paths)
    return Source("CSV", examples, transposed=is_emnist, notes=notes)


def find_layout(path: Path, wanted: str | None) -> Layout:
    """Find header, delimiter and the label's column; ``wanted`` is its name, "first" or "last"."""
    with ExitStack() as held:
        lines = list(islice(_lines(path, held), LOOK_ROWS))
    if len(lines) < 2:
        raise InputError(f"{path} has {counted(len(lines), 'line')}: it must have a row per image")
    counts = Counter(lines[0])
    delimiter = max(DELIMITERS, key=lambda mark: counts[mark])
    rows = [_fields(line, delimiter) for line in lines]
    columns = len(rows[0])
    if columns < 3:
        raise InputError(
            f"{path}: line 1 has {counted(columns, 'column')}: a row must hold a label and all"
            " pixels of an image, separated by commas"
        )
    texts = sum(not _is_number(field) for field in rows[1])
    if texts > len(rows[1]) / 2:
        raise InputError(
            f"{path} holds text, not numbers: a row must hold a label and all pixels of an image"
        )
    header = sum(not _is_number(field) for field in rows[0]) > 1
    names = [field.strip().strip('"').lower() for field in rows[0]] if header else []
    label, left_out = _by_header(path, names, wanted) if header else (None, ())
    if label is None:
        label = _by_content(path, rows[header:], columns, wanted)
    place = {0: "the first column", columns - 1: "the last column"}.get(label, "a column")
    name = f"column '{names[label]}'" if header else place
    return Layout(delimiter, columns, header, label, name, left_out)


def _by_header(
    path: Path, names: Sequence[str], wanted: str | None
) -> tuple[int | None, tuple[int, ...]]:
    """The label's column and those that hold no pixels, by the names of the columns."""
    kinds = [re.sub(r"[\d_x.]+", "#", name) for name in names]
    pixels = Counter(kinds).most_common(1)[0][0]
    others = [i for i, kind in enumerate(kinds) if kind != pixels]
    if wanted in (FIRST, LAST):
        label = 0 if wanted == FIRST else len(names) - 1
    elif wanted:
        if wanted.lower() not in names:
            listed = first_few((names[i] for i in others), 8)
            raise InputError(f"{path} has no column '{wanted}': choose one of {listed}")
        label = names.index(wanted.lower())
    else:
        found = [i for i in others if names[i] in LABEL_NAMES] or others
        if len(found) != 1:
            if not others:
                return None, ()
            listed = first_few((names[i] for i in found), 8)
            raise InputError(
                f"{path} has several columns beside the pixels ({listed}): name that of the labels"
                " with --labels NAME"
            )
        label = found[0]
    return label, tuple(i for i in others if i != label)


def _by_content(path: Path, rows: Sequence[Sequence[str]], columns: int, wanted: str | None) -> int:
    """The label's column, the first or the last one, by the values in it."""
    if wanted in (FIRST, LAST):
        return 0 if wanted == FIRST else columns - 1
    if wanted:
        raise InputError(
            f"{path} has no header, so no column '{wanted}': give --labels first or --labels last"
        )
    full = [row for row in rows if len(row) == columns]
    found = [index for index in (0, columns - 1) if _are_labels([row[index] for row in full])]
    if len(found) != 1:
        problem = "neither the first nor the last column looks like one of labels"
        problem = "the first and the last column both look like labels" if found else problem
        raise InputError(f"{path}: {problem}: give --labels first or --labels last")
    return found[0]


def _are_labels(fields: Sequence[str]) -> bool:
    """Whether these may be labels: text, or nearly all whole numbers from 0 or 1 to the largest."""
    if not all(map(_is_number, fields)):
        return True
    values = {float(field) for field in fields}
    if len(values) < 2 or not all(value.is_integer() for value in values):
        return False
    low, high = min(values), max(values)
    return low in (0, 1) and len(values) >= 0.8 * (high - low + 1)


def _read(path: Path, layout: Layout) -> Examples:
    """All rows of a file. ``InputError`` names the line of a row that is not like the first."""
    labels: list[str] = []
    images: list[Array] = []
    line, size = 1 + layout.header, 0
    with ExitStack() as held:
        lines = _lines(path, held)
        list(islice(lines, int(layout.header)))
        while rows := list(islice(lines, ROWS_AT_ONCE)):
            texts, pixels = _parse(path, rows, layout, line)
            labels += texts
            images.append(pixels)
            size += pixels.nbytes
            require_room(str(path), size)
            line += len(rows)
    is_number = all(map(_is_number, labels))
    found = np.array(labels, np.float64) if is_number else np.array(labels)
    return Examples(str(path), ArrayStack(np.concatenate(images)), found)


def _parse(path: Path, rows: Sequence[str], layout: Layout, line: int) -> tuple[list[str], Array]:
    """Labels and pixels of some rows, of which the first is line ``line`` of the file."""
    labels, pixels = [], []
    skipped = {layout.label, *layout.left_out}
    for number, row in enumerate(rows, line):
        fields = _fields(row, layout.delimiter)
        if len(fields) != layout.columns:
            raise InputError(
                f"{path}, line {number}: {counted(len(fields), 'column')} instead of"
                f" {layout.columns:,}: it is damaged"
            )
        labels.append(fields[layout.label].strip())
        pixels.append(layout.delimiter.join(f for i, f in enumerate(fields) if i not in skipped))
    for kind in (np.uint8, np.int64, np.float64):
        try:
            found = np.loadtxt(pixels, kind, delimiter=layout.delimiter, comments=None, ndmin=2)
        except (ValueError, OverflowError):
            continue
        return labels, found
    for number, row in enumerate(pixels, line):
        bad = next((f for f in row.split(layout.delimiter) if not _is_number(f)), None)
        if bad is not None:
            raise InputError(f"{path}, line {number}: {bad[:20]!r} is not a number")
    raise InputError(
        f"{path}, lines {line} to {line + len(rows) - 1} cannot be read: it is damaged"
    )


def _lines(path: Path, held: ExitStack) -> Iterator[str]:
    """The lines of a file, gzipped or not, without empty ones."""
    stream = unpacked(held.enter_context(open_named(path)), held)
    while raw := stream.readline(MOST_LINE_BYTES):
        if len(raw) == MOST_LINE_BYTES:
            raise InputError(f"{path} has a line of more than {len(raw):,} bytes: not an image")
        if text := raw.decode("utf-8-sig", "backslashreplace").strip():
            yield text


def _fields(line: str, delimiter: str) -> list[str]:
    if '"' in line:
        return next(csv.reader(io.StringIO(line), delimiter=delimiter))
    return line.split() if delimiter == " " else line.split(delimiter)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

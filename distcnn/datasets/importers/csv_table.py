"""CSV files: one image in a row, its label in the first, the last or a named column.

The pixels are in columns of their own, or all in one, as a text with blanks (FER2013).
"""

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

DELIMITERS = ",;\t"
LABEL_NAMES = ("label", "labels", "class", "target", "y", "digit", "letter", "emotion", "category")
SEPARATORS = str.maketrans("[],", "   ")
FIRST, LAST = "first", "last"
LEAST_NUMBERED = 8
"""A row 0, 1, 2 ... of more columns is one of column numbers."""
MOST_LINE_BYTES = 2**25
"""Far more than an image of the largest size; longer lines are never read."""
ROWS_AT_ONCE = 2000
LOOK_ROWS = 2000
"""How many rows are looked at to find the column of the labels."""


@dataclass(frozen=True)
class Layout:
    """How rows are read: ``label`` is the label's column of ``columns``, ``left_out`` are others
    without pixels; ``packed`` holds all pixels, and ``split`` says which split a row is in, where
    there are such columns.
    """

    delimiter: str
    columns: int
    header: bool
    label: int
    label_name: str
    left_out: tuple[int, ...] = ()
    packed: int | None = None
    split: int | None = None


def read_csv(paths: Sequence[Path], options: Options) -> Source:
    """CSV files as a source; their names, or a column, may say which split they are."""
    parts: dict[str, list[Examples]] = {}
    notes = []
    for path in paths:
        with damage_named(path):
            layout = find_layout(path, options.labels)
            found = _read(path, layout)
        header = "header" if layout.header else "no header"
        for split, part in found.items():
            parts.setdefault(split, []).append(part)
            notes.append(
                f"{split} split: {path.name}, {len(part.labels):,} rows, {header}, labels in"
                f" {layout.label_name}"
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
    delimiter = delimiter if counts[delimiter] else " "
    rows = [_fields(line, delimiter) for line in lines]
    columns = len(rows[0])
    packed = next((i for i, field in enumerate(rows[1]) if _is_packed(field)), None)
    if columns < 3 and packed is None:
        raise InputError(
            f"{path}: line 1 has {counted(columns, 'column')}: a row must hold a label and all"
            " pixels of an image, separated by commas"
        )
    texts = sum(not _is_number(field) for field in rows[1])
    if texts > len(rows[1]) / 2 and packed is None:
        raise InputError(
            f"{path} holds text, not numbers: a row must hold a label and all pixels of an image"
        )
    header = _is_header(rows[0]) if packed is None else not _is_packed(rows[0][packed])
    names = [field.strip().strip('"').lower() for field in rows[0]] if header else []
    body = [row for row in rows[header:] if len(row) == columns]
    if packed is None:
        kinds = [re.sub(r"[\d_x.]+", "#", name) for name in names]
        pixels = Counter(kinds).most_common(1)[0][0] if kinds else ""
        others = [i for i, kind in enumerate(kinds) if kind != pixels]
    else:
        others = [i for i in range(columns) if i != packed]
    split = next((i for i in others if body and all(split_of(row[i]) for row in body)), None)
    candidates = [i for i in others if i != split]
    label = _label_of(path, names, columns, candidates, wanted)
    if label is None:
        label = _by_content(path, body, columns)
    place = {0: "the first column", columns - 1: "the last column"}.get(label, "a column")
    name = f"column '{names[label]}'" if header else place
    left_out = tuple(i for i in others if i != label)
    return Layout(delimiter, columns, header, label, name, left_out, packed, split)


def _is_header(fields: Sequence[str]) -> bool:
    """Whether a row is one of names: texts, the columns' numbers, or values that pandas took for
    names and made different (0, 0.1, 0.2).
    """
    numbers = [field.strip() for field in fields if _is_number(field)]
    if len(fields) - len(numbers) > 1:
        return True
    if len(numbers) > LEAST_NUMBERED and numbers in (
        [str(first + i) for i in range(len(numbers))] for first in (0, 1)
    ):
        return True
    seen: Counter[str] = Counter()
    for number in numbers:
        value, _, repeated = number.rpartition(".")
        if number in seen or (value in seen and repeated != str(seen[value])):
            return False
        seen[value if value in seen else number] += 1
    return max(seen.values(), default=0) > 1


def _label_of(
    path: Path, names: Sequence[str], columns: int, candidates: Sequence[int], wanted: str | None
) -> int | None:
    """The label's column: what is wanted, or the only one without pixels, or that of such a name.

    None if that does not say it.
    """
    if wanted in (FIRST, LAST):
        return 0 if wanted == FIRST else columns - 1
    listed = first_few(
        (names[i] if names else str(i + 1) for i in candidates if not names or names[i]), 8
    )
    if wanted and not names:
        raise InputError(
            f"{path} has no header, so no column '{wanted}': give --labels first or --labels last"
        )
    if wanted:
        if wanted.lower() not in names:
            there = f": choose {'one of ' if len(candidates) > 1 else ''}{listed}" if listed else ""
            raise InputError(f"{path} has no column '{wanted}'{there}")
        return names.index(wanted.lower())
    found = [i for i in candidates if names and names[i] in LABEL_NAMES] or candidates
    if len(found) > 1:
        remedy = "NAME" if names else "first or --labels last"
        raise InputError(
            f"{path} has several columns besides the pixels ({listed}): name that of the labels"
            f" with --labels {remedy}"
        )
    return found[0] if found else None


def _by_content(path: Path, rows: Sequence[Sequence[str]], columns: int) -> int:
    """The label's column, the first or the last one, by the values in it."""
    found = [index for index in (0, columns - 1) if _are_labels([row[index] for row in rows])]
    if len(found) != 1:
        problem = "the first and the last column both look like labels"
        if not found:
            problem = "neither the first nor the last column looks like labels; if one is"
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


def _read(path: Path, layout: Layout) -> dict[str, Examples]:
    """All rows of a file by split. ``InputError`` names the line of a row that is not like the
    first.
    """
    labels: list[str] = []
    splits: list[str] = []
    images: list[Array] = []
    line, size = 1 + layout.header, 0
    own = split_of(path.name) or "train"
    with ExitStack() as held:
        lines = _lines(path, held)
        list(islice(lines, int(layout.header)))
        while texts := list(islice(lines, ROWS_AT_ONCE)):
            rows = [_fields(text, layout.delimiter) for text in texts]
            images.append(_parse(path, rows, layout, line))
            labels += [row[layout.label].strip() for row in rows]
            if "" in labels:
                raise InputError(f"{path}, row {labels.index('') + 1} of the images has no label")
            splits += [own if layout.split is None else split_of(row[layout.split]) for row in rows]
            size += images[-1].nbytes
            require_room(str(path), size)
            line += len(rows)
    if "" in splits:
        row = splits.index("") + 1
        raise InputError(f"{path}, row {row}: a column that names the splits has another value")
    is_number = all(map(_is_number, labels))
    found = np.array(labels, np.float64) if is_number else np.array(labels)
    if len({each.shape[1] for each in images}) > 1:
        raise InputError(f"{path} has images of several sizes: all must have the same size")
    pixels, names = np.concatenate(images), np.array(splits)
    if len(set(splits)) == 1:
        return {splits[0]: Examples(str(path), ArrayStack(pixels), found)}
    return {
        split: Examples(str(path), ArrayStack(pixels[names == split]), found[names == split])
        for split in dict.fromkeys(splits)
    }


def _parse(path: Path, rows: Sequence[Sequence[str]], layout: Layout, line: int) -> Array:
    """The pixels of some rows, of which the first is line ``line`` of the file."""
    pixels, skipped = [], {layout.label, *layout.left_out}
    for number, fields in enumerate(rows, line):
        if len(fields) != layout.columns:
            raise InputError(
                f"{path}, line {number}: {counted(len(fields), 'column')} instead of"
                f" {layout.columns:,}: it is damaged"
            )
        if layout.packed is None:
            pixels.append([field for i, field in enumerate(fields) if i not in skipped])
        else:
            pixels.append(_unpacked(fields[layout.packed]))
        if len(pixels[-1]) != len(pixels[0]):
            raise InputError(
                f"{path}, line {number}: {counted(len(pixels[-1]), 'pixel')} instead of"
                f" {len(pixels[0]):,}: all images must have the same size"
            )
    texts = list(map(",".join, pixels))
    for kind in (np.uint8, np.int64, np.float64):
        try:
            return np.loadtxt(texts, kind, delimiter=",", comments=None, ndmin=2)
        except (ValueError, OverflowError):
            continue
    for number, fields in enumerate(pixels, line):
        bad = next((field for field in fields if not _is_number(field)), None)
        if bad is not None:
            what = f"{bad[:20]!r} is not a number" if bad.strip() else "a pixel is missing"
            raise InputError(f"{path}, line {number}: {what}")
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


def _unpacked(field: str) -> list[str]:
    """The pixels in a text such as "0 255 17" or "[0, 255, 17]"."""
    return field.translate(SEPARATORS).split()


def _is_packed(field: str) -> bool:
    """Whether a field holds all pixels of an image."""
    pixels = _unpacked(field)
    return len(pixels) > 3 and all(map(_is_number, pixels))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

"""Numbers, names, paths and commands in text for people."""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Iterable, Sequence


def counted(number: int, what: str) -> str:
    """A number with its noun: "1 step", "1,407 steps", "10 classes"."""
    return f"{number:,} {plural(number, what)}"


def plural(number: float, what: str) -> str:
    """The noun alone: "core" for 1, "cores" for 0, 0.5 and 2; "classes", "batches", "epochs"."""
    return what if number == 1 else what + ("es" if what.endswith(("s", "x", "sh", "tch")) else "s")


def being(number: int, what: str) -> str:
    """A number with its noun and verb: "1 image is", "2 images are"."""
    return f"{counted(number, what)} {'is' if number == 1 else 'are'}"


def duration(seconds: float) -> str:
    """Seconds in two units at most: "3.5 s", "48 s", "1 min 12 s", "2 h 5 min", "1 day 3 h"."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds) if seconds < 3600 else 60 * round(seconds / 60)
    days, hours = divmod(whole // 3600, 24)
    minutes, rest = divmod(whole % 3600, 60)
    parts = [counted(days, "day")] if days else []
    units = ((hours, "h"), (minutes, "min"), (rest, "s"))
    parts += [f"{number} {unit}" for number, unit in units if number]
    return " ".join(parts[:2])


def table(rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Rows as lines of aligned columns: the first ``left`` to the left, numbers to the right."""
    cells = list(rows)
    widths = [max(map(width_of, column)) for column in zip(*cells, strict=True)]
    return [aligned(row, widths, left) for row in cells]


def aligned(row: Sequence[str], widths: Sequence[int], left: int = 1) -> str:
    """A line of a ``table`` with columns of these widths."""
    padded = []
    for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
        space = " " * (width - width_of(cell))
        padded.append(cell + space if place < left else space + cell)
    return "  ".join(padded).rstrip()


def width_of(text: str) -> int:
    """Columns of a terminal: Chinese characters, for one, take two."""
    return len(text) + sum(unicodedata.east_asian_width(character) in "WF" for character in text)


def first_few(names: Iterable[object], most: int = 5) -> str:
    """The first few of ``names``, and how many more there are: "a, b, c, d, e and 7 more"."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def number_ranges(numbers: Iterable[int]) -> str:
    """Write numbers in ascending order with their ranges shortened: "0-3, 7"."""
    pairs: list[list[int]] = []
    for number in sorted(numbers):
        if pairs and number == pairs[-1][1] + 1:
            pairs[-1][1] = number
        else:
            pairs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in pairs)


def printable(text: str, keep: str = "") -> str:
    r"""Escape characters that could control a terminal or start a line, except those of ``keep``.

    Names and paths come from files and command lines that others wrote. Bytes of a path that are
    not valid text become ``\xe9``.
    """
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # how Python keeps a byte that it cannot decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) == "Zs":  # a space of another width
        return character
    return character.encode("unicode_escape").decode()


def shell_command(words: Iterable[str]) -> str:
    """Write ``words`` as a shell command on one line, to be copied from the screen."""
    return " ".join(map(shell_word, words))


def shell_word(text: str) -> str:
    """Write ``text`` as one word of a shell command, whatever it contains."""
    if text.isprintable():
        return shlex.quote(text)
    raw = text.encode(errors="surrogateescape")
    plain = (chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in raw)
    return f"$'{''.join(plain)}'"

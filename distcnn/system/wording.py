"""How numbers, names and paths are written in text for people. Standard library only."""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Iterable


def counted(number: int, what: str) -> str:
    """The number with its noun: "1 step", "1,407 steps", "10 classes"."""
    return f"{number:,} {plural(number, what)}"


def plural(number: float, what: str) -> str:
    """The noun alone, as ``number`` needs it: "core" for 1, "cores" for 0, 0.5 and 2; also
    "classes" and "batches".
    """
    return what if number == 1 else what + ("es" if what.endswith(("s", "x", "ch", "sh")) else "s")


def being(number: int, what: str) -> str:
    """The number with its noun and verb: "1 image is", "2 images are"."""
    return f"{counted(number, what)} {'is' if number == 1 else 'are'}"


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
    r"""``text`` with every character that could steer a terminal or start a new line as an escape:
    ``\x1b``, ``\n``, ``\u202e``.

    Names and paths come from files and command lines that others wrote. Bytes of a path that are
    not valid text are shown as ``\xe9``. Characters in ``keep`` stay.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    if (
        0xDC80 <= ord(character) <= 0xDCFF
    ):  # how Python keeps a byte of a path that it cannot decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) == "Zs":  # a space of another width
        return character
    return character.encode("unicode_escape").decode()


def shell_command(words: Iterable[str]) -> str:
    """``words`` as a shell command on one line."""
    return " ".join(map(shell_word, words))


def shell_word(text: str) -> str:
    """``text`` as a word of a shell command on one line, which can be copied from the screen
    whatever the text holds.
    """
    if text.isprintable():
        return shlex.quote(text)
    raw = text.encode(errors="surrogateescape")
    return (
        "$'"
        + "".join(
            chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}"
            for byte in raw
        )
        + "'"
    )

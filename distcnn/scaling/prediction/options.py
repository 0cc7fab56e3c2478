"""The flags of a prediction, which stand beside a sweep's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from distcnn.cli.parser import Parser
from distcnn.errors import InputError

MOST_RANKS = 1_000_000


@dataclass(frozen=True)
class Wanted:
    """For which numbers of ranks, between which networks (as given), how many ranks of a host,
    shards in strong scaling, training examples.

    0: as measured.
    """

    ranks: tuple[int, ...]
    networks: tuple[str, ...] = ()
    ranks_per_host: int = 0
    num_shards: int = 0
    examples: int = 0


def take_flags(arguments: Sequence[str]) -> tuple[Wanted | None, list[str]]:
    """What is wanted, None without ``--predict``; and the arguments that are not about it.

    ``InputError`` names what is wrong.
    """
    parser = Parser(prog="python -m distcnn.scaling", add_help=False)
    add_flags(parser)
    known, others = parser.parse_known_args(arguments)
    numbers = {
        "--ranks-per-host": known.ranks_per_host,
        "--predict-shards": known.predict_shards,
        "--predict-examples": known.predict_examples,
    }
    if known.predict is None:
        for flag, value in (("--network", known.network), *numbers.items()):
            if value is not None:
                raise InputError(
                    f"{flag} is about a prediction: say for which numbers of ranks, such as"
                    " --predict 4,8,...,4096"
                )
        return None, others
    for flag, value in numbers.items():
        if value is not None and value < 1:
            raise InputError(f"{flag} is {value}: it must be at least 1")
    return (
        Wanted(
            parse_ranks(known.predict),
            tuple(known.network or ()),
            *(value or 0 for value in numbers.values()),
        ),
        others,
    )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Also for the help of the sweep."""
    group = parser.add_argument_group(
        "prediction", "from what was measured to numbers of ranks never run (docs/prediction.md)"
    )
    group.add_argument(
        "--predict", metavar="4,8,...,4096", help="predict time and efficiency on so many ranks"
    )
    group.add_argument(
        "--network",
        action="append",
        metavar="latency=1ms,bandwidth=10Gbit|FILE",
        help=(
            "what lies between hosts: latency one way (s, ms, us; a bare number is seconds) and"
            " bandwidth of a host's link (bit, kbit, Mbit, Gbit a second; a bare number is bits a"
            " second), also algorithm=ring and name=...; or what python -m"
            " distcnn.scaling.interconnect_test --json wrote; may be given several times (default:"
            " as measured, where ranks of the sweep lay on several hosts)"
        ),
    )
    group.add_argument(
        "--ranks-per-host",
        type=int,
        metavar="N",
        help="on how many ranks a host is filled (default: as calibrated)",
    )
    group.add_argument(
        "--predict-shards",
        type=int,
        metavar="N",
        help="shards of strong scaling (default: as measured)",
    )
    group.add_argument(
        "--predict-examples",
        type=int,
        metavar="N",
        help="as if the training set had so many (default: as many as it has)",
    )


def parse_ranks(text: str) -> tuple[int, ...]:
    """``"4,8,...,64"`` in ascending order: "..." goes on as the two numbers before it did, by
    factor or else by difference.
    """
    wrong = InputError(
        f"--predict is {text!r}: it must be numbers of ranks, each from 1 to {MOST_RANKS:,}, such"
        " as 4,16,64 or 4,8,...,4096 (where ... is between two rising numbers before it and one"
        " behind)"
    )
    words = [each.strip() for each in text.split(",")]
    found: list[int] = []
    for index, word in enumerate(words):
        if word in ("...", "…"):
            last = words[index + 1] if index + 1 < len(words) else ""
            if len(found) < 2 or found[-1] <= found[-2] or not _is_number(last):
                raise wrong
            found += _going_on(found[-2], found[-1], int(last))
        elif _is_number(word):
            found.append(int(word))
        else:
            raise wrong
    if not all(1 <= each <= MOST_RANKS for each in found):
        raise wrong
    return tuple(sorted(set(found)))


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 10


def _going_on(before: int, last: int, end: int) -> list[int]:
    found = [before, last]
    while len(found) < 100:
        following = (
            found[-1] * last // before
            if last % before == 0 and before
            else found[-1] + last - before
        )
        if following >= end:
            break
        found.append(following)
    assert all(later > earlier for earlier, later in pairwise(found))
    return found[2:]

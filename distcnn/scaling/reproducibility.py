"""The check that points which computed the same ended with the same bits.

Pure functions of records.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distcnn.scaling.points import Point
from distcnn.scaling.sweep_directory import Record
from distcnn.system.wording import counted
from distcnn.training.fingerprint import differences

SAME, DIFFERENT, ALONE, UNPROMISED = "same", "DIFFERENT", "alone", "unpromised"
MOST_NAMED = 6
"""Points that a line names."""


@dataclass(frozen=True)
class Bits:
    """What was found: a word for each point, a line for each group of measurements whose bits
    should be the same and are not.
    """

    words: dict[Point, str]
    differences: list[str]

    def of(self, point: Point) -> str:
        """The word of ``point``; ``-`` when it has no result."""
        return self.words.get(point, "-")


def compare_bits(records: Iterable[Record]) -> Bits:
    """Measurements of the same shards and microbatches took the same steps, whatever their ranks
    and mode: they must agree.

    Those of ``--reduction fast`` need not.
    """
    groups: dict[tuple[int, int], list[Record]] = defaultdict(list)
    words: dict[Point, str] = {}
    for each in records:
        if each.result is not None:
            point = each.measurement.point
            if each.result["reduction"] == "exact":
                groups[point.num_shards, point.microbatch_size].append(each)
            else:
                words[point] = UNPROMISED
    problems = []
    for group in groups.values():
        most = reference_hash(group)
        for each in group:
            differs = _hash(each) != most
            if differs or words.get(each.measurement.point) != DIFFERENT:
                words[each.measurement.point] = (
                    DIFFERENT if differs else SAME if len(group) > 1 else ALONE
                )
        if any(_hash(each) != most for each in group):
            problems.append(_in_words(group, most))
    return Bits(words, problems)


def reference_hash(group: Sequence[Record]) -> str:
    """The hash that most measurements have; of equally many the first's."""
    return Counter(map(_hash, group)).most_common(1)[0][0]


def _in_words(group: Sequence[Record], most: str) -> str:
    point = group[0].measurement.point
    of = defaultdict(list)
    for each in group:
        of[_hash(each)].append(each)
    sides = [
        f"{name[:16]} ({_names(of[name])})" for name in sorted(of, key=lambda name: name != most)
    ]
    software = (
        software_of(of[most][0]),
        software_of(next(each for each in group if _hash(each) != most)),
    )
    changed = "; ".join(differences(*software))
    why = f"; the software or the processor was not the same: {changed}" if changed else ""
    return (
        f"bits differ at {counted(point.num_shards, 'shard')} of {point.microbatch_size}: weights"
        f" {', '.join(sides)}{why}"
    )


def software_of(record: Record) -> dict[str, str]:
    """The fingerprint under which it was measured."""
    assert record.result is not None
    software: dict[str, str] = record.result.get("software", {})
    return software


def _names(records: Sequence[Record]) -> str:
    """``strong, 2 ranks, repeats 1 3; weak, 1 rank, repeat 2``."""
    repeats: dict[Point, list[int]] = defaultdict(list)
    for each in records:
        repeats[each.measurement.point].append(each.measurement.repeat)
    names = [
        f"{point.mode}, {counted(point.ranks, 'rank')}, repeat{'s' if len(each) > 1 else ''}"
        f" {' '.join(map(str, sorted(each)))}"
        for point, each in repeats.items()
    ]
    more = len(names) - MOST_NAMED
    return "; ".join(names[:MOST_NAMED]) + (f"; and {more} more points" if more > 0 else "")


def _hash(record: Record) -> str:
    assert record.result is not None
    name: str = record.result["params_sha256"]
    return name

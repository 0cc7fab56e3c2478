"""Two runs side by side, from their records: where they part, and what differs between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distcnn.config import as_flag
from distcnn.system.files import read_bytes, reading
from distcnn.system.wording import counted, first_few
from distcnn.training.line_files import SPEED
from distcnn.training.receipt import MALFORMED, Line, Receipt, read_receipt, whole_lines
from distcnn.training.results import METRICS
from distcnn.user_code import compare_sources

NOT_COMPARED = {"output", "source", "expect_ranks"}
"""Settings of one start alone."""
LOCATIONS = {"path", "source"}
"""What the record of an image set may have that says nothing on its content. (Its content_sha256
depends on how it is shared out among shards and microbatches.)
"""
ORDER = ("step", "weights", "epoch", "end")
"""Kinds of lines, in the order in which those of one step are made."""
Key = tuple[int, int, str, int]
"""Step, place in ``ORDER``, where the line is, and for means over steps: since which step."""


@dataclass(frozen=True)
class Records:
    """What a run has recorded."""

    name: str
    receipt: Receipt
    metrics: list[Line]

    @property
    def extent(self) -> str:
        """How far it went, as text."""
        ended = "finished" if self.receipt.ended else "not finished"
        return f"{counted(self.receipt.last_step, 'step')}, {ended}"


def read_records(directory: Path) -> Records:
    """The records in ``directory``. ``InputError`` when they cannot be read."""
    receipt = read_receipt(directory)
    with reading(directory / METRICS, *MALFORMED):
        metrics = whole_lines(read_bytes(directory / METRICS).decode())
        for line in metrics:
            if line["kind"] not in ORDER or not isinstance(line["step"], int):
                raise ValueError("a line has no step, or another kind")
    return Records(str(directory), receipt, metrics)


@dataclass(frozen=True)
class RecordsCompared:
    """How far the lines agree that both runs have recorded."""

    compared: list[str]
    """The kind of each line that was compared and agrees."""
    same_until: int | None
    """The last step at which they agree; None if there is none before they part."""
    part_at: int | None
    """The first step at which they do not; None if there is none."""
    difference: str
    """The first value that differs there, as text."""
    weights_part: str
    """The first recorded weights that differ, as text; empty if none do."""

    @property
    def text(self) -> str:
        """What was compared."""
        hashes = self.compared.count("weights")
        others = counted(len(self.compared) - hashes, "other line")
        return f"compared: {counted(hashes, 'weight hash')}, {others}"


def compare_records(one: Records, other: Records) -> RecordsCompared:
    """Compare every line that both have."""
    first, second = _points(one), _points(other)
    agree: list[Key] = []
    part_at, text, weights = None, "", ""
    for key in sorted(first.keys() & second.keys()):
        found = _difference(first[key], second[key], (one.name, other.name))
        if not found and part_at is None:
            agree.append(key)
        elif found and part_at is None:
            part_at, text = key[0], found
        if found and key[1] == ORDER.index("weights"):
            weights = f"step {key[0]}: {found}"
            break
    kinds = [ORDER[place] for _, place, *_ in agree]
    until = [step for step, *_ in agree if part_at is None or step < part_at]
    return RecordsCompared(kinds, until[-1] if until else None, part_at, text, weights)


def first_and_more(parameters: Sequence[str]) -> str:
    """The first of the parameters, and how many more there are."""
    more = f" and {len(parameters) - 1} more" if len(parameters) > 1 else ""
    return f"parameter {parameters[0]}{more}"


def different_networks(one: Records, other: Records) -> str:
    """A text if the networks have parameters of other names; else empty."""
    before, now = (
        {name for line in each.receipt.lines for name in line.get("parameters", {})}
        for each in (one, other)
    )
    if not (before and now and before != now):
        return ""
    alone = [
        f"{first_few(sorted(names))} only in {each.name}"
        for names, each in ((before - now, one), (now - before, other))
        if names
    ]
    return f"the networks have different parameters: {'; '.join(alone)}"


def _points(records: Records) -> dict[Key, Line]:
    """The lines that can be compared: a mean over steps only with one since the same step."""
    found: dict[Key, Line] = {}
    since = 0
    for line in records.metrics:
        found[line["step"], ORDER.index(line["kind"]), METRICS, since] = line
        since = line["step"]
    for line in records.receipt.lines:
        if line["kind"] in ORDER:
            found[line["step"], ORDER.index(line["kind"]), "receipt", 0] = line
    return found


def _difference(one: Line, other: Line, names: tuple[str, str]) -> str:
    """The first value that differs, as text; what only one has does not count."""
    before, now = one.get("parameters", {}), other.get("parameters", {})
    if different := [name for name in before if before[name] != now.get(name)]:
        return f"other weights: {first_and_more(different)}"
    for value in [each for each in one if each in other and each not in (SPEED, "parameters")]:
        if one[value] != other[value]:
            return f"{value} is {one[value]} in {names[0]}, {other[value]} in {names[1]}"
    return ""


def differences_of_settings(one: Records, other: Records) -> list[str]:
    """What differs in configuration, data, software and environment, a line each."""
    names = one.name, other.name
    starts = one.receipt.starts, other.receipt.starts
    sessions = one.receipt.sessions, other.receipt.sessions
    lines = _configuration(one, other)
    first = [each[0].get("model_sources", {}) for each in starts]
    if changes := str(compare_sources(*first)):
        lines.append(f"source of the model, from {one.name} to {other.name}: {changes}")
    lines += _values("initial weights", names, starts, lambda line: line.get("initial_weights"))
    shares = [
        (config.num_shards, config.microbatch_size)
        for config in (each.receipt.configuration_at(0) for each in (one, other))
    ]
    skipped = LOCATIONS if shares[0] == shares[1] else LOCATIONS | {"content_sha256"}
    lines += _values("data", names, starts, lambda line: line.get("dataset"), skipped)
    lines += _values("software", names, sessions, lambda line: line.get("software"))

    def environment(line: Line) -> Line:
        return {**line.get("machine", {}), "ranks": line.get("world_size", "?")}

    return lines + _values("environment", names, sessions, environment, {"started"})


def _configuration(one: Records, other: Records) -> list[str]:
    """A line for each flag that differs, from the step on at which it does."""
    lines: list[str] = []
    last = min(one.receipt.last_step, other.receipt.last_step)
    starts = (*one.receipt.starts, *other.receipt.starts)
    known: dict[str, tuple[Any, Any]] = {}
    for step in sorted({line["step"] for line in starts if line["step"] <= last}):
        before, now = (asdict(each.receipt.configuration_at(step)) for each in (one, other))
        for name in before.keys() - NOT_COMPARED:
            pair = before[name], now[name]
            if pair[0] == pair[1] or known.get(name) == pair:
                continue
            known[name] = pair
            since = f" (from step {step} on)" if step else ""
            values = [each if each != "" else "''" for each in pair]
            lines.append(
                f"configuration: {as_flag(name)} is {values[0]} in {one.name},"
                f" {values[1]} in {other.name}{since}"
            )
    return sorted(lines)


def _values(
    topic: str,
    names: tuple[str, str],
    lines: tuple[Sequence[Line], Sequence[Line]],
    part: Callable[[Line], Line | None],
    skipped: Iterable[str] = (),
) -> list[str]:
    """A line for each value of the ``part`` of the start lines that differs; where the starts of
    one run differ, in the order of its starts.
    """
    found: list[dict[str, str]] = []
    for starts in lines:
        values: dict[str, list[str]] = {}
        for each in map(part, starts):
            for name, value in (each or {}).items():
                seen = values.setdefault(name, [])
                if (text := str(value)) not in seen:
                    seen.append(text)
        found.append({name: ", then ".join(seen) for name, seen in values.items()})
    missing = "not recorded"
    return [
        f"{topic}: {name} is {found[0].get(name, missing)} in {names[0]},"
        f" {found[1].get(name, missing)} in {names[1]}"
        for name in {**found[0], **found[1]}
        if found[0].get(name) != found[1].get(name) and name not in skipped
    ]

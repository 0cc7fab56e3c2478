"""Two runs side by side, from their records: where they part, and what differs between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from distcnn.config import as_flag
from distcnn.distributed import Communicator
from distcnn.system.files import read_bytes, reading
from distcnn.system.wording import counted, first_few
from distcnn.training.fingerprint import LABELS
from distcnn.training.line_files import SPEED
from distcnn.training.receipt import MALFORMED, Line, Receipt, read_receipt, whole_lines
from distcnn.training.results import ENVIRONMENT, METRICS, RECEIPT
from distcnn.user_code import compare_sources

NOT_COMPARED = {"output", "source", "expect_ranks"}
"""Settings of one start alone."""
ORDER = ("step", "weights", "epoch", "end")
"""Kinds of lines, in the order in which those of one step are made."""


class Key(NamedTuple):
    """What a line is on; only lines on the same can be compared."""

    step: int
    place: int
    """In ``ORDER``."""
    file: str
    since: int
    """Of a mean over steps, the step after which it begins."""


@dataclass(frozen=True)
class Records:
    """What a run has recorded."""

    name: str
    receipt: Receipt
    metrics: list[Line]

    @property
    def last_step(self) -> int:
        """The last step of which anything is recorded."""
        return self.receipt.last_step

    @property
    def extent(self) -> str:
        """How far it went, as text."""
        ended = "finished" if self.receipt.ended else "not finished"
        return f"{counted(self.last_step, 'step')}, {ended}"


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

    agreeing: list[Key]
    """The lines before the first that differs, or all."""
    differing: list[tuple[Key, str]]
    """Those that differ, with their first value that does."""

    @property
    def compared(self) -> str:
        """What agrees, as text."""
        hashes = sum(ORDER[key.place] == "weights" for key in self.agreeing)
        others = counted(len(self.agreeing) - hashes, "other line")
        return f"compared: {counted(hashes, 'weight hash')}, {others}"

    def extent(self, one: Records, other: Records) -> str:
        """How far two runs are identical of which nothing differs, as the end of a text."""
        if one.last_step == other.last_step:
            return f": steps 0 to {one.last_step}"
        shorter, longer = sorted((one, other), key=lambda each: each.last_step)
        last = self.agreeing[-1].step
        if last == shorter.last_step:
            return f" up to step {last}, where {shorter.name} ends"
        return (
            f" up to step {last}, the last that both recorded; {shorter.name} ends at step"
            f" {shorter.last_step}, {longer.name} at step {longer.last_step}"
        )

    @property
    def part_at(self) -> int:
        """The step of the first line that differs."""
        return self.differing[0][0].step

    @property
    def text(self) -> str:
        """The first difference."""
        return f"step {self.part_at}: {self.differing[0][1]}"

    def lines(self) -> Iterator[str]:
        """Lines on what differs."""
        before = [key.step for key in self.agreeing if key.step < self.part_at]
        until = f"the same up to step {before[-1]}; " if before else ""
        yield f"records: {until}{self.text}"
        for key, text in self.differing:
            if ORDER[key.place] == "weights":
                if text != self.differing[0][1]:
                    yield f"records: the first weights that differ: step {key.step}: {text}"
                break


def compare_records(one: Records, other: Records) -> RecordsCompared:
    """Compare every line that both have."""
    first, second = _lines(one), _lines(other)
    found = RecordsCompared([], [])
    for key in sorted(first.keys() & second.keys()):
        if difference := _difference(first[key], second[key], (one.name, other.name)):
            found.differing.append((key, difference))
        elif not found.differing:
            found.agreeing.append(key)
    return found


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


def _lines(records: Records) -> dict[Key, Line]:
    """The lines by what they are on."""
    found: dict[Key, Line] = {}
    since = 0
    for file, lines in ((METRICS, records.metrics), (RECEIPT, records.receipt.lines)):
        for line in lines:
            if line["kind"] in ORDER:
                place = ORDER.index(line["kind"])
                found[Key(line["step"], place, file, since)] = line
                since = line["step"] if file == METRICS else 0
        since = 0
    return found


def _difference(one: Line, other: Line, names: tuple[str, str]) -> str:
    """The first value that differs, as text; what only one has does not count."""
    before, now = one.get("parameters", {}), other.get("parameters", {})
    if different := [name for name in before if before[name] != now.get(name)]:
        return f"the weights differ: {first_and_more(different)}"
    for value in [each for each in one if each in other and each not in (SPEED, "parameters")]:
        if one[value] != other[value]:
            return f"{value} is {one[value]} in {names[0]}, {other[value]} in {names[1]}"
    return ""


def differences_of_settings(one: Records, other: Records) -> list[str]:
    """What differs in configuration, data, software and environment, a line each."""
    configs = [each.receipt.configuration_at(0) for each in (one, other)]
    skipped = {"path", "source", "started"}
    if len({(config.num_shards, config.microbatch_size) for config in configs}) > 1:
        skipped.add("content_sha256")  # which depends on how the examples are shared out

    def listed(topic: str, part: Callable[[Line], Line]) -> list[str]:
        """A line for each value that differs; those of all starts of a run, in their order."""
        before, now = (_values(map(part, each.receipt.sessions)) for each in (one, other))
        return [
            f"{topic}: {name} is {before.get(name, missing)} in {one.name},"
            f" {now.get(name, missing)} in {other.name}"
            for name in {**before, **now}
            if before.get(name) != now.get(name) and name not in skipped
            if not lacking or (name in before and name in now)
        ]

    missing = "not recorded"
    lacking = [each.name for each in (one, other) if each.receipt.lacks_environment]
    sources = (each.receipt.sessions[-1].get("model_sources", {}) for each in (one, other))
    changes = str(compare_sources(*sources))
    return [
        *(f"{each}: {ENVIRONMENT} is missing: what it says is not compared" for each in lacking),
        *_configuration(one, other),
        *([f"source of the model, from {one.name} to {other.name}: {changes}"] if changes else []),
        *listed("initial weights", lambda start: start.get("initial_weights", {})),
        *listed("data", lambda start: start.get("dataset", {})),
        *listed("software", _software),
        *listed("environment", _environment),
    ]


def _software(start: Line) -> Line:
    """The software of a start, as it is printed."""
    recorded = start.get("software", {})
    return {LABELS.get(name, name): value or "none" for name, value in recorded.items()}


def _environment(start: Line) -> Line:
    """The ranks and hosts of a start, as they are printed."""
    machine = dict(start.get("machine", {}))
    found = {"number of ranks": start["world_size"]} if "world_size" in start else {}
    if isinstance(hosts := machine.pop("ranks_by_host", None), dict):
        found["placement"] = ", ".join(
            f"{counted(ranks, 'rank') if isinstance(ranks, int) else ranks} on {host}"
            for host, ranks in hosts.items()
        )
    if mpi := machine.pop("mpi", ""):
        found["MPI"] = "none" if mpi == Communicator.description else mpi
    return found | machine


def _values(parts: Iterable[Line]) -> dict[str, str]:
    """The different values under each name, in their order."""
    found: dict[str, list[str]] = {}
    for part in parts:
        for name, value in part.items():
            if str(value) not in found.setdefault(name, []):
                found[name].append(str(value))
    return {name: ", then ".join(values) for name, values in found.items()}


def _configuration(one: Records, other: Records) -> list[str]:
    """A line for each flag that differs, and for each step from which on it does."""
    lines: dict[str, int] = {}
    last = min(one.receipt.last_step, other.receipt.last_step)
    starts = (*one.receipt.starts, *other.receipt.starts)
    for step in sorted({line["step"] for line in starts if line["step"] <= last}):
        before, now = (asdict(each.receipt.configuration_at(step)) for each in (one, other))
        for name in [each for each in before if each not in NOT_COMPARED]:
            if before[name] != now[name]:
                was, is_now = (each if each != "" else "''" for each in (before[name], now[name]))
                text = f"{as_flag(name)} is {was} in {one.name}, {is_now} in {other.name}"
                lines.setdefault(f"configuration: {text}", step)
    return [f"{text} (from step {step} on)" if step else text for text, step in lines.items()]

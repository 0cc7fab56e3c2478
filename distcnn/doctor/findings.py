"""Findings of the checks, how those of several ranks are merged, and the report made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distcnn.system.console import say
from distcnn.system.files import write_atomically
from distcnn.system.wording import counted, number_ranges, plural, printable

GOOD, WARNING, BAD = "good", "warning", "bad"
MOST_HOSTS_NAMED = 8
STATE_WIDTH, NAME_WIDTH = 9, 15


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``measured`` goes into the JSON report."""

    state: str
    name: str
    text: str
    remedy: str = ""
    measured: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def lines(self) -> Iterator[str]:
        """Yield the finding, and its remedy if it has one, as they are printed."""
        yield f"{self.state:<{STATE_WIDTH}}{self.name:<{NAME_WIDTH}}{printable(self.text)}"
        if self.remedy:
            yield f"{'':<{STATE_WIDTH + NAME_WIDTH}}-> {printable(self.remedy)}"


@dataclass(frozen=True)
class Same:
    """A value that must be the same on all ranks: why, and the remedy and state if it is not. Only
    native arithmetic depends on one that is ``of_native``.
    """

    name: str
    value: str
    why: str
    remedy: str
    state: str = BAD
    of_native: bool = False


Found = Iterator[Finding | Same]


@dataclass(frozen=True)
class Ranks:
    """The hosts of the known ranks, by rank; ``declared`` is the number of all if not all are.
    ``is_portable``: they will train in portable arithmetic.
    """

    hosts: Mapping[int, str]
    declared: int = 0
    is_portable: bool = False

    def text(self, ranks: Iterable[int]) -> str:
        """Name ranks, as in "on ranks 2-3 (host b)"; empty if there is only one rank in all."""
        ordered, world_size = sorted(ranks), max(self.declared, len(self.hosts))
        if world_size <= 1:
            return ""
        if len(ordered) == world_size:
            return "on all ranks"
        hosts = dict.fromkeys(self.hosts[rank] for rank in ordered)
        names = f"{plural(len(hosts), 'host')} {', '.join(hosts)}"
        where = names if len(hosts) <= MOST_HOSTS_NAMED else f"{len(hosts)} hosts"
        return f"on {plural(len(ordered), 'rank')} {number_ranges(ordered)} ({where})"

    def merge(self, found: Mapping[int, Iterable[Finding | Same]]) -> list[Finding]:
        """Join equal findings of several ranks, and compare values; name the ranks of each."""
        ranks_of: dict[Finding | Same, list[int]] = {}
        for rank, findings in sorted(found.items()):
            for finding in findings:
                ranks_of.setdefault(finding, []).append(rank)
        merged: list[Finding] = []
        values: dict[str, dict[Same, str]] = {}
        for finding, ranks in ranks_of.items():
            where = self.text(ranks)
            if isinstance(finding, Finding):
                text = f"{finding.text}, {where}".removesuffix(", ")
                merged.append(replace(finding, text=text))
            else:
                text = f"{finding.value} {where}".rstrip()
                values.setdefault(finding.name, {})[finding] = text
        for name, texts in values.items():
            same, text = next(iter(texts)), ", ".join(texts.values())
            if len(texts) == 1:
                merged.append(Finding(GOOD, name, text))
            elif same.of_native and self.is_portable:
                merged.append(Finding(GOOD, name, f"{text}: portable runs do not depend on it"))
            else:
                merged.append(Finding(same.state, name, f"{text}: {same.why}", same.remedy))
        names = [finding.name for finding in ranks_of]
        return sorted(merged, key=lambda finding: names.index(finding.name))


def attempt(check: Callable[..., Found], *arguments: Any) -> Found:
    """What ``check`` finds on this rank. An exception in it becomes a finding."""
    try:
        yield from check(*arguments)
    except Exception as error:
        text = f"the check itself failed: {root_cause(error)}"
        remedy = "follow the error message, and please report it"
        yield Finding(BAD, check.__name__, text, remedy)


def root_cause(error: BaseException) -> str:
    """Describe the first exception of a chain in one line.

    Libraries wrap the reason for a failed import in pages of advice.
    """
    while cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {'; '.join(lines[:2])}" if lines else type(error).__name__


class Report:
    """The findings so far, printed as they are added unless ``silent``."""

    def __init__(self, silent: bool = False) -> None:
        self.findings: list[Finding] = []
        self._silent = silent

    def add(self, *findings: Finding) -> None:
        self.findings += findings
        if not self._silent:
            say(*(line for finding in findings for line in finding.lines()))

    def end(self, json_path: str = "") -> None:
        """Write the JSON report if it has a path; print the number of findings in each state."""
        if not self._silent:
            if json_path:
                self._write(Path(json_path))
            good, warnings, bad = self.counts.values()
            say(f"{good} good, {counted(warnings, 'warning')}, {bad} bad")

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings in each state."""
        states = [finding.state for finding in self.findings]
        return {state: states.count(state) for state in (GOOD, WARNING, BAD)}

    def _write(self, path: Path) -> None:
        names = ("name", "state", "text", "remedy")
        findings = [{name: getattr(found, name) for name in names} for found in self.findings]
        content = {"kind": "distcnn.doctor", "counts": self.counts, "findings": findings}
        for found in self.findings:
            content.update(found.measured)
        try:
            write_atomically(path, f"{json.dumps(content, indent=1)}\n".encode())
        except OSError as error:
            text = f"{path} cannot be written ({error.strerror})"
            self.add(Finding(BAD, "json", text, "choose another file with --json"))

"""Checks, their findings, and the report made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from distcnn.system.console import say
from distcnn.system.files import write_atomically
from distcnn.system.wording import counted, number_ranges, plural, printable

T = TypeVar("T")

GOOD, WARNING, BAD = "good", "warning", "bad"
STATES = (GOOD, WARNING, BAD)
MOST_HOSTS_NAMED = 3
STATE_WIDTH, NAME_WIDTH = 9, 15


@dataclass(frozen=True)
class Options:
    """The doctor's flags.

    Args:
        data: path of the image set; empty: training's default.
        output: folder for results; empty: training's default.
        json: path of the JSON report; empty: none.
        threads: BLAS threads of each rank; 0: one for each core the rank may use.
    """

    data: str = ""
    output: str = ""
    json: str = ""
    threads: int = 1


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        name: subject, such as "numpy" or "memory".
        state: ``GOOD``, ``WARNING`` or ``BAD``.
        text: what was found.
        remedy: what to do about it; empty if good.
        measured: numbers for the JSON report, by key.
    """

    name: str
    state: str
    text: str
    remedy: str = ""
    measured: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @staticmethod
    def good(name: str, text: str, **measured: Any) -> Finding:
        """A finding that needs no action."""
        return Finding(name, GOOD, text, measured=measured)

    @staticmethod
    def warning(name: str, text: str, remedy: str, **measured: Any) -> Finding:
        """A finding with which training works, but may be slow or fail later."""
        return Finding(name, WARNING, text, remedy, measured)

    @staticmethod
    def bad(name: str, text: str, remedy: str, **measured: Any) -> Finding:
        """A finding with which training fails, or its results are not reproducible."""
        return Finding(name, BAD, text, remedy, measured)

    def lines(self) -> Iterator[str]:
        """Yield the finding, and its remedy if it has one, as lines of the printed report."""
        yield f"{self.state:<{STATE_WIDTH}}{self.name:<{NAME_WIDTH}}{printable(self.text)}"
        if self.remedy:
            yield f"{'':<{STATE_WIDTH + NAME_WIDTH}}-> {printable(self.remedy)}"


@dataclass(frozen=True)
class Places:
    """Where the ranks run.

    Args:
        hosts: host name of each rank that is known: all ranks, or before MPI has started those
            of this host.
        world_size: number of ranks, if more than those known.
    """

    hosts: Mapping[int, str]
    world_size: int = 0

    @property
    def total(self) -> int:
        """Number of ranks, known or not."""
        return max(self.world_size, len(self.hosts))

    @property
    def ranks_of_host(self) -> dict[str, list[int]]:
        """The ranks of each host, in order of the lowest."""
        found: dict[str, list[int]] = {}
        for rank, host in sorted(self.hosts.items()):
            found.setdefault(host, []).append(rank)
        return found

    def ranks_text(self, ranks: Iterable[int]) -> str:
        """Name ranks, as in "on ranks 2-3 (host b)"; empty if there is only one rank in all."""
        ordered = sorted(ranks)
        if self.total <= 1:
            return ""
        if len(ordered) == self.total:
            return "on all ranks"
        hosts = dict.fromkeys(self.hosts[rank] for rank in ordered)
        names = f"{plural(len(hosts), 'host')} {', '.join(hosts)}"
        where = names if len(hosts) <= MOST_HOSTS_NAMED else f"{len(hosts)} hosts"
        return f"on {plural(len(ordered), 'rank')} {number_ranges(ordered)} ({where})"

    def gathered(self, findings: Mapping[int, Iterable[Finding]]) -> list[Finding]:
        """Merge equal findings of several ranks into one that names the ranks.

        Args:
            findings: what each rank found, by rank.
        """
        ranks_of: dict[Finding, list[int]] = {}
        for rank, found in sorted(findings.items()):
            for finding in found:
                ranks_of.setdefault(finding, []).append(rank)
        names = list(dict.fromkeys(finding.name for finding in ranks_of))
        return [
            replace(finding, text=f"{finding.text}, {self.ranks_text(ranks)}".removesuffix(", "))
            for name in names
            for finding, ranks in ranks_of.items()
            if finding.name == name
        ]

    def compared(
        self, name: str, values: Mapping[int, str], why: str, remedy: str, state: str = BAD
    ) -> Finding:
        """Compare a value between ranks.

        Args:
            name: subject of the finding.
            values: the value of each rank.
            why: why a difference matters.
            remedy: what to do about a difference.
            state: how bad a difference is.

        Returns:
            A good finding if all are equal, else one that says which ranks have which value.
        """
        ranks_of: dict[str, list[int]] = {}
        for rank, value in sorted(values.items()):
            ranks_of.setdefault(value, []).append(rank)
        parts = (f"{value} {self.ranks_text(r)}".rstrip() for value, r in ranks_of.items())
        text = ", ".join(parts)
        if len(ranks_of) <= 1:
            return Finding.good(name, text)
        return Finding(name, state, f"{text}: {why}", remedy)


@dataclass(frozen=True)
class Failed:
    """Takes the place of the facts of a rank where ``collect`` raised an exception."""

    reason: str


@dataclass(frozen=True)
class Check(Generic[T]):
    """A check of one subject. An exception in it becomes a finding.

    Args:
        name: used in error messages.
        collect: gathers this rank's facts. Checks that run before MPI has started take the
            options; the others take the communicator and the options.
        evaluate: turns the facts of all ranks into findings, on rank 0.
    """

    name: str
    collect: Callable[..., T]
    evaluate: Callable[[Places, Mapping[int, T]], Iterable[Finding]]

    def collected(self, *arguments: Any) -> T | Failed:
        """Collect this rank's facts."""
        try:
            return self.collect(*arguments)
        except Exception as error:
            return Failed(root_cause(error))

    def evaluated(self, places: Places, everyone: Mapping[int, T | Failed]) -> list[Finding]:
        """Evaluate the facts of all ranks that could collect them, and report the others."""
        failed = {
            rank: [self._failure(facts.reason)]
            for rank, facts in everyone.items()
            if isinstance(facts, Failed)
        }
        facts = {rank: facts for rank, facts in everyone.items() if not isinstance(facts, Failed)}
        try:
            found = list(self.evaluate(places, facts)) if facts else []
        except Exception as error:
            found = [self._failure(root_cause(error))]
        return [*found, *places.gathered(failed)]

    def _failure(self, reason: str) -> Finding:
        text = f"the check itself failed: {reason}"
        return Finding.bad(self.name, text, "follow the error message, and please report it")


def root_cause(error: BaseException) -> str:
    """Describe the first exception of a chain in one line.

    Libraries wrap the reason for a failed import in pages of advice.
    """
    while cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {'; '.join(lines[:2])}" if lines else type(error).__name__


@dataclass
class Report:
    """The findings so far, printed as they are added if ``live``."""

    live: bool = False
    findings: list[Finding] = field(default_factory=list)

    def add(self, *findings: Finding) -> None:
        """Append findings."""
        self.findings += findings
        if self.live:
            say(*(line for finding in findings for line in finding.lines()))

    def summary(self) -> str:
        """Count the findings, as in "12 good, 1 warning, 0 bad"."""
        good, warnings, bad = self.counts.values()
        return f"{good} good, {counted(warnings, 'warning')}, {bad} bad"

    def text(self) -> str:
        """The whole report as printed."""
        lines = [line for finding in self.findings for line in finding.lines()]
        return "\n".join([*lines, self.summary()])

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings in each state."""
        states = [finding.state for finding in self.findings]
        return {state: states.count(state) for state in STATES}

    @property
    def exit_code(self) -> int:
        """1 if something is bad, else 0."""
        return int(self.counts[BAD] > 0)

    def as_dict(self) -> dict[str, Any]:
        """The JSON report: ``findings``, their ``counts``, and everything measured."""
        measured = {key: value for found in self.findings for key, value in found.measured.items()}
        names = ("name", "state", "text", "remedy")
        findings = [{name: getattr(found, name) for name in names} for found in self.findings]
        return {"kind": "distcnn.doctor", "counts": self.counts, "findings": findings, **measured}

    def write(self, path: str) -> None:
        """Write the JSON report to ``path``; if that fails, add a finding that says so."""
        try:
            write_atomically(Path(path), (json.dumps(self.as_dict(), indent=1) + "\n").encode())
        except OSError as error:
            text = f"{path} cannot be written ({error.strerror})"
            self.add(Finding.bad("json", text, "choose another file with --json"))

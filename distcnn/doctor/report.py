"""The report, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distcnn.doctor.finding import BAD, GOOD, WARNING, Finding
from distcnn.system import launcher
from distcnn.system.files import write_atomically
from distcnn.system.wording import counted, printable

KIND = "distcnn.doctor"
STATE_WIDTH, NAME_WIDTH = 9, 15
COLOURS = {GOOD: "32", WARNING: "33", BAD: "31;1"}


@dataclass
class Report:
    """Findings so far, and the numbers behind them."""

    findings: list[Finding] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)

    def text(self, colours: bool = False) -> str:
        """A line each, with its remedy below; the last one counts."""
        lines = [line for finding in self.findings for line in _lines(finding, colours)]
        return "\n".join([*lines, summary(self.findings)])

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` writes."""
        counts = {
            state: sum(each.state == state for each in self.findings)
            for state in (GOOD, WARNING, BAD)
        }
        return {
            "kind": KIND,
            "counts": counts,
            "findings": [asdict(each) for each in self.findings],
            **self.numbers,
        }

    @staticmethod
    def of(content: dict[str, Any]) -> Report:
        """From what ``as_dict`` gave."""
        numbers = {
            key: value
            for key, value in content.items()
            if key not in ("kind", "counts", "findings")
        }
        return Report([Finding(**each) for each in content["findings"]], numbers)

    def write(self, path: str) -> None:
        """As JSON, whole or not at all; where that cannot be, one more finding says so."""
        try:
            write_atomically(Path(path), (json.dumps(self.as_dict(), indent=1) + "\n").encode())
        except OSError as error:
            self.findings.append(
                Finding(
                    "json",
                    BAD,
                    f"--json: {path} cannot be written ({error.strerror})",
                    "name another file",
                )
            )


def summary(findings: Iterable[Finding]) -> str:
    """How many there are of each: "12 good, 1 warning, 0 bad"."""
    states = [each.state for each in findings]
    return (
        f"{states.count(GOOD)} good, {counted(states.count(WARNING), 'warning')},"
        f" {states.count(BAD)} bad"
    )


def wants_colours(terminal: bool, environment: Mapping[str, str]) -> bool:
    """Only on a terminal. Under a launcher none: Open MPI's gives its ranks one, wherever the
    output goes.
    """
    return (
        terminal
        and not launcher.declared(environment)
        and "NO_COLOR" not in environment
        and environment.get("TERM") != "dumb"
    )


def _lines(finding: Finding, colours: bool) -> list[str]:
    state = f"{finding.state:<{STATE_WIDTH}}"
    if colours:
        state = f"\033[{COLOURS[finding.state]}m{state}\033[0m"
    lines = [f"{state}{finding.name:<{NAME_WIDTH}}{printable(finding.text)}"]
    if finding.remedy:
        lines.append(f"{'':<{STATE_WIDTH + NAME_WIDTH}}-> {printable(finding.remedy)}")
    return lines

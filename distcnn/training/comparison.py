"""Compares a run's records with those of a replay."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcnn.checkpoints import Checkpoint
from distcnn.config import Config
from distcnn.errors import InputError
from distcnn.system.files import read_bytes
from distcnn.training.results import METRICS, RECEIPT, RESULT
from distcnn.training.run_directory import NoRunDirectory

Line = dict[str, Any]
STARTS = ("start", "resume")
SPEED = "images_per_second"
"""The value in a line of metrics that a replay cannot reproduce."""


class Different(Exception):
    """The replay is not what the receipt says; its text names the first step, and the parameter,
    that differ.
    """


@dataclass(frozen=True)
class Receipt:
    """The lines of a ``receipt.jsonl``, in order."""

    lines: list[Line]

    @property
    def last_step(self) -> int:
        """The step of the last line."""
        return int(self.lines[-1]["step"])

    @property
    def ended(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.lines[-1]["kind"] == "end")

    def configuration_at(self, step: int) -> Config:
        """The one in force in the steps from ``step`` on: of the last start or resume at or before
        it.
        """
        found = [line for line in self.lines if line["kind"] in STARTS and line["step"] <= step]
        return Config.from_record(found[-1]["configuration"])


def read_receipt(directory: Path) -> Receipt:
    """The receipt in ``directory``.

    ``InputError`` when there is none or it is not one. A last line cut off by a kill does not
    count.
    """
    path = directory / RECEIPT
    try:
        text = read_bytes(path).decode()
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        good = (
            bool(lines)
            and lines[0]["kind"] == "start"
            and all(isinstance(line["step"], int) for line in lines)
        )
        for line in lines:
            if line["kind"] in STARTS:
                Config.from_record(line["configuration"])
            if not all(
                isinstance(line.get(name, {}), dict)
                for name in ("dataset", "software", "parameters")
            ):
                raise TypeError(f"a line of step {line['step']} has a value of another type")
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): name a run directory of distcnn.train"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is not a receipt ({type(error).__name__}: {error}): it was altered by hand, or"
            " comes from another program"
        ) from error
    if not good:
        raise InputError(
            f"{path} is not a receipt: its first line must be of kind 'start', and each line must"
            " name its step"
        )
    return Receipt(lines)


def missing_end(directory: Path, receipt: Receipt) -> str:
    """A text where the receipt lacks the end of a run that is over, as ``result.json`` shows; else
    an empty one.
    """
    if receipt.ended or not (directory / RESULT).exists():
        return ""
    return (
        f"{RECEIPT} has no line after step {receipt.last_step}, although the run has finished"
        f" ({RESULT}): its end was cut off"
    )


class MetricsComparison:
    """Compares the replay's lines of metrics with those in ``metrics.jsonl``, speeds aside.

    ``Different`` at the first that is another.
    """

    def __init__(self, recorded: list[Line], may_end_early: bool) -> None:
        self._recorded, self._may_end_early = recorded, may_end_early
        self._compared = 0

    def add(self, replayed: Line) -> None:
        """Compare the next line of the replay."""
        if self._compared == len(self._recorded):
            if self._may_end_early:
                return
            raise Different(
                f"step {replayed['step']}: {METRICS} lacks the line {replayed['kind']!r}"
            )
        recorded = self._recorded[self._compared]
        for name in dict.fromkeys([*replayed, *recorded]):
            if name != SPEED and recorded.get(name) != replayed.get(name):
                raise Different(
                    f"step {replayed['step']}: {name} is {recorded.get(name)} in {METRICS},"
                    f" but {replayed.get(name)} in the replay"
                )
        self._compared += 1

    def close(self) -> None:
        """``Different`` when recorded lines are left that the replay did not produce."""
        if self._compared < len(self._recorded):
            line = self._recorded[self._compared]
            raise Different(
                f"step {line['step']}: {METRICS} has a line {line.get('kind')!r} that the replay"
                " lacks"
            )


def read_metrics(
    directory: Path, checkpoint: Checkpoint | None, to_step: int
) -> tuple[list[Line], str]:
    """The lines of ``metrics.jsonl`` that a replay from ``checkpoint`` to ``to_step`` must produce,
    and a text on what is wrong with them, or an empty one.
    """
    begun = checkpoint.texts["metrics"] if checkpoint else ""
    try:
        text = read_bytes(directory / METRICS).decode()
        if not text.startswith(begun):
            return (
                [],
                (
                    f"{METRICS} does not begin with the lines in the checkpoint of step"
                    f" {checkpoint and checkpoint.attributes['step']}"
                ),
            )
        lines = [json.loads(line) for line in text[len(begun) : text.rfind("\n") + 1].splitlines()]
        return [line for line in lines if line["step"] <= to_step], ""
    except OSError as error:
        return [], f"{METRICS} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return [], f"{METRICS} is damaged ({type(error).__name__}: {error})"


class Comparison(NoRunDirectory):
    """Takes the replay's lines and compares each with the recorded one.

    ``Different`` on all ranks at the first that is not the same.
    """

    def __init__(
        self,
        receipt: Receipt,
        from_step: int,
        to_step: int,
        metrics: MetricsComparison | None = None,
    ) -> None:
        self._recorded = [
            line
            for line in receipt.lines
            if line["kind"] not in STARTS and from_step < line["step"] <= to_step
        ]
        self._cut_off = to_step == receipt.last_step and not receipt.ended
        self.compared: list[Line] = []
        self._metrics = metrics

    def add_metrics(self, kind: str, **values: Any) -> None:
        """Compare one line of ``metrics.jsonl``."""
        if self._metrics:
            self._metrics.add({"kind": kind, **json.loads(json.dumps(values))})

    def add_receipt(self, kind: str, step: int, **values: Any) -> None:
        """Compare one line of the replay."""
        replayed = {"kind": kind, "step": step, **json.loads(json.dumps(values))}
        recorded = (
            self._recorded[len(self.compared)] if len(self.compared) < len(self._recorded) else None
        )
        if recorded is None and self._cut_off:
            return  # the run was killed before it wrote this line
        if recorded != replayed:
            raise Different(self._at(step) + difference(recorded, replayed))
        self.compared.append(replayed)

    def close(self) -> None:
        """``Different`` when the receipt has lines that the replay did not produce."""
        if len(self.compared) < len(self._recorded):
            line = self._recorded[len(self.compared)]
            raise Different(
                self._at(line["step"])
                + f"the receipt has a line {line['kind']!r} of step {line['step']}, but the replay"
                " has none"
            )
        if self._metrics:
            self._metrics.close()

    def _at(self, step: int) -> str:
        before = f"step {self.compared[-1]['step']}" if self.compared else "none"
        return f"step {step} (last recorded step that matches: {before}): "


def difference(recorded: Line | None, replayed: Line) -> str:
    """What is not the same in two lines, in words: the first parameter, else the first value."""
    if recorded is None or (recorded.get("kind"), recorded.get("step")) != (
        replayed["kind"],
        replayed["step"],
    ):
        has = f"{recorded.get('kind')!r} of step {recorded.get('step')}" if recorded else "none"
        return f"the replay has a line {replayed['kind']!r} here, but the receipt has {has}"
    hashes = recorded.get("parameters", {}), replayed.get("parameters", {})
    for name in dict.fromkeys([*hashes[1], *hashes[0]]):
        if hashes[0].get(name) != hashes[1].get(name):
            return (
                f"parameter {name}: SHA-256 {hashes[0].get(name)} in the receipt,"
                f" but {hashes[1].get(name)} in the replay"
            )
    name = next(
        name
        for name in dict.fromkeys([*replayed, *recorded])
        if recorded.get(name) != replayed.get(name)
    )
    agrees = "; all parameters match" if hashes[1] else ""
    return (
        f"{name}: {recorded.get(name)} in the receipt, but {replayed.get(name)} in the"
        f" replay{agrees}"
    )

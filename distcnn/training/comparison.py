"""Compares what a run recorded with a replay: its lines one by one, at the end its files."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from distcnn.checkpoints import Checkpoint
from distcnn.checkpoints.weights import BEST_WEIGHTS, WEIGHTS, array_sha256, read_weights
from distcnn.errors import InputError
from distcnn.system.files import read_bytes, reading
from distcnn.training import results
from distcnn.training.checkpointing import RunRecorder
from distcnn.training.line_files import SPEED, columns_of, table_of
from distcnn.training.receipt import MALFORMED, STARTS, Line, Receipt, rewritten_line, whole_lines
from distcnn.training.results import (
    ENVIRONMENT,
    METRICS,
    METRICS_TABLE,
    RECEIPT,
    RESULT,
    TIMINGS,
    RunResult,
)

NOT_REPLAYED = (
    *(SPEED, "train_seconds", "test_seconds", "bookkeeping_seconds", "seconds_to_target"),
    "spot_checks",
)
"""What a replay cannot reproduce, or does not do."""
OF_MACHINES = ENVIRONMENT, TIMINGS
"""Files of a portable run of which a replay reproduces nothing."""
THE_RECEIPT = "the receipt"


class Different(Exception):
    """The replay differs from the records; the text names the first step and value that do."""


def difference(recorded: Line, replayed: Line, source: str, may_lack: bool = False) -> str:
    """The first value that differs, as text, hashes of parameters first; empty if none does."""
    before, now = _named(recorded), _named(replayed)
    # What an older version did not write may be missing: SHA256SUMS shows what was removed.
    names = sorted(
        before if may_lack else {**now, **before},
        key=lambda name: (not name.startswith("parameter "), not name.startswith("params_")),
    )
    name = next((each for each in names if before.get(each) != now.get(each)), None)
    if name is None:
        return ""
    return f"{name} {before.get(name)} in {source}, but {now.get(name)} in the replay"


def _named(values: Line) -> Line:
    """The values by the names that messages give them."""
    named: Line = {}
    for name, value in values.items():
        if not isinstance(value, dict):
            named[f"{name}:"] = value
        elif name == "parameters":
            named |= {f"parameter {key}: SHA-256": sha256 for key, sha256 in value.items()}
        else:
            named |= {f"{name}.{key}:": each for key, each in value.items()}
    return named


class Comparison(RunRecorder):
    """Compares each line of a replay with the recorded one; ``Different`` if it is another."""

    problem = ""
    """The first difference, where it is not raised."""

    def __init__(
        self, receipt: Receipt, from_step: int, to_step: int, metrics: Iterable[Line] = ()
    ) -> None:
        lines = [
            line
            for line in receipt.lines
            if line["kind"] not in STARTS and from_step < line["step"] <= to_step
        ]
        if not receipt.is_portable:
            metrics = (_without(line, SPEED) for line in metrics)
        self._left = {THE_RECEIPT: deque(lines), METRICS: deque(metrics)}
        self._was_killed = to_step == receipt.last_step and not receipt.ended
        self._matched = dict.fromkeys(self._left, "none")
        self.compared: list[Line] = []
        """The receipt's lines that were compared."""

    def add_metrics(self, kind: str, **values: Any) -> None:
        self._compare(METRICS, {"kind": kind, **_without(values, SPEED)})

    def add_receipt(self, kind: str, step: int, **values: Any) -> None:
        line = self._compare(THE_RECEIPT, {"kind": kind, "step": step, **values})
        if line:
            self.compared.append(line)

    def close(self) -> None:
        """``Different`` when lines were recorded that the replay did not produce."""
        for source, left in self._left.items():
            if left:
                has = f"{source} has a line {left[0].get('kind')!r} of step {left[0]['step']}"
                self._fail(source, left[0]["step"], f"{has}, but the replay has none")

    def _compare(self, source: str, values: Line) -> Line | None:
        """The line, once it is the next one recorded; None where the run was killed before it."""
        if not self._left[source] and self._was_killed:
            return None
        replayed: Line = json.loads(json.dumps(values))
        recorded = self._left[source].popleft() if self._left[source] else {}
        kind, step = replayed["kind"], replayed["step"]
        if (recorded.get("kind"), recorded.get("step")) != (kind, step):
            has = f"{recorded.get('kind')!r} of step {recorded.get('step')}" if recorded else "none"
            self._fail(source, step, f"the replay has a line {kind!r} here, but {source} has {has}")
        if text := difference(recorded, replayed, source):
            self._fail(source, step, text)
        if json.dumps(recorded, sort_keys=True) != json.dumps(replayed, sort_keys=True):
            self._fail(source, step, f"numbers of the line {kind!r} have other types in {source}")
        self._matched[source] = f"step {step}"
        return replayed

    def _fail(self, source: str, step: int, text: str) -> NoReturn:
        before = self._matched[source]
        raise Different(f"step {step} (last recorded step that matches: {before}): {text}")


class Noting(Comparison):
    """Notes the first difference, and compares nothing after it, so that the replay can go on."""

    def close(self) -> None:
        if not self.problem:
            try:
                super().close()
            except Different as found:
                self.problem = str(found)

    def _compare(self, source: str, values: Line) -> Line | None:
        if not self.problem:
            try:
                return super()._compare(source, values)
            except Different as found:
                self.problem = str(found)
        return None


def require_metrics(directory: Path) -> None:
    """``InputError`` if ``directory`` has no metrics: a receipt alone is not a run."""
    if not os.path.lexists(directory / METRICS):
        raise InputError(
            f"{directory / METRICS} is missing: name the whole run directory of distcnn.train"
        )


def cut_off(directory: Path, receipt: Receipt) -> str:
    """A text if the receipt of a finished run has lost its end; else empty."""
    if receipt.ended or not (directory / RESULT).exists():
        return ""
    return (
        f"{RECEIPT} has no line after step {receipt.last_step}, although the run has finished"
        f" ({RESULT}): its end was cut off"
    )


def read_metrics(directory: Path, checkpoint: Checkpoint | None, to_step: int) -> list[Line]:
    """The lines, without speeds, that a replay from ``checkpoint`` to ``to_step`` must produce."""
    begun = checkpoint.texts["metrics"] if checkpoint else ""
    with reading(METRICS, *MALFORMED):
        text = read_bytes(directory / METRICS).decode()
        if checkpoint and not text.startswith(begun):
            raise ValueError(
                f"it does not begin with the lines in the checkpoint of step {checkpoint.step}"
            )
        if problem := rewritten_line(METRICS, text):
            raise ValueError(problem)
        lines = whole_lines(text[len(begun) :])
        return [line for line in lines if line["step"] <= to_step]


def _without(values: Line, *names: str) -> Line:
    return {name: value for name, value in values.items() if name not in names}


def problem_of_files(run: Path, receipt: Receipt, replayed: RunResult) -> str | None:
    """What is wrong with the files in ``run`` if its replay came to the result ``replayed``."""
    files = [(WEIGHTS, replayed.steps, False)]
    if (run / BEST_WEIGHTS).exists():
        files.append((BEST_WEIGHTS, replayed.best_step, True))
    try:
        expected = _expected_result(receipt, replayed, results.read_result(run))
        found = _without(json.loads(read_bytes(run / RESULT)), *NOT_REPLAYED)
        problem = difference(found, expected.to_json(), RESULT, may_lack=True)
        for name, step, is_best in files:
            if not problem and (line := receipt.weights_at(step)):
                parameters, attributes = read_weights(run / name)
                # A parameter must not be missing.
                hashes = dict.fromkeys(line["parameters"]) | {
                    name: array_sha256(values) for name, values in parameters.items()
                }
                found = {**attributes, "parameters": hashes}
                replay = {**results.weights_attributes(expected, is_best), **line}
                problem = difference(found, replay, name, may_lack=True)
        problem = problem or _problem_of_table(run, receipt)
    except InputError as error:
        return str(error)
    if not problem and (damage := results.damage_of(run, may_lack=OF_MACHINES)):
        return f"{damage}; all that was replayed is as recorded, the weights too"
    return problem or None


def _problem_of_table(run: Path, receipt: Receipt) -> str:
    """What is wrong with ``metrics.csv``: it must have the numbers of ``metrics.jsonl``. Runs of
    older versions have none.
    """
    if not (run / METRICS_TABLE).exists():
        return ""
    metrics, columns = read_bytes(run / METRICS).decode(), columns_of(receipt.configuration_at(0))
    same = read_bytes(run / METRICS_TABLE) == table_of(metrics, columns)
    return "" if same else f"{METRICS_TABLE} does not have the numbers of {METRICS}"


def _expected_result(receipt: Receipt, replayed: RunResult, found: RunResult) -> RunResult:
    """``replayed`` with what the run alone knows: its ranks and the names of model and image set.

    The receipt of a portable run has nothing of its machine: that is taken from the result found.
    """
    recorded, configuration = (receipt.starts[-1][name] for name in ("dataset", "configuration"))
    names = {name: recorded.get(name) for name in ("name", "source")}
    path, world_size = configuration.get("data", ""), receipt.lines[0].get("world_size", 0)
    if receipt.is_portable:
        names = {name: getattr(found.dataset, name) for name in ("name", "source", "sha256")}
        path, world_size = found.dataset.path, found.world_size
    return dataclasses.replace(
        replayed,
        receipt_sha256=receipt.sha256,
        model=configuration["model"],
        world_size=world_size,
        dataset=dataclasses.replace(replayed.dataset, path=path, **names),
    )

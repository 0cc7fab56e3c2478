"""Compares the files of a finished run, ``result.json`` and the weights, with a replay."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from distcnn.checkpoints.weights import BEST_WEIGHTS, WEIGHTS, array_sha256, read_weights
from distcnn.training.comparison import SPEED
from distcnn.training.receipt import Line, Receipt
from distcnn.training.replay import Replayed
from distcnn.training.results import (
    RESULT,
    SUMS,
    RunResult,
    damage_by_sums,
    describe,
    read_result_values,
)

MEASURED = (SPEED, "train_seconds", "seconds_to_target")
"""What a replay cannot reproduce."""


def problem_of_files(run: Path, replayed: Replayed) -> str | None:
    """What is wrong with the files of the finished run in ``run``, which must be of the end that
    was replayed; None if nothing is.
    """
    assert replayed.result is not None
    receipt, expected = replayed.receipt, _expected_result(replayed.receipt, replayed.result)
    last = next(line for line in reversed(receipt.lines) if line["kind"] == "weights")
    weights = {WEIGHTS: (last, describe(expected, expected.steps, expected.test_accuracy))}
    best = _line_of_best(replayed)
    if best and (run / BEST_WEIGHTS).exists():
        about = describe(expected, expected.best_step, expected.best_test_accuracy)
        weights[BEST_WEIGHTS] = best, about
    try:
        found = read_result_values(run)
        found = {"params_sha256": found["params_sha256"], **found}  # the hash says most
        problem = _problem_of_result(found, expected.to_json())
        for name, (line, attributes) in weights.items():
            problem = problem or _problem_of_weights(run / name, line, attributes)
    except ValueError as error:
        return str(error)
    return problem or damage_by_sums(run)


def unchecked(run: Path, replayed: Replayed) -> list[str]:
    """What the replay did not check, as text."""
    found = [f"steps 1 to {replayed.from_step}"] if replayed.from_step else []
    found += ["checkpoints (each is checked when it is read)", "traces and pictures"]
    if not replayed.reached_end:
        return [*found, f"{RESULT} and {WEIGHTS}, which are written at the end of a run"]
    if not (run / BEST_WEIGHTS).exists():
        found.append(f"{BEST_WEIGHTS}, which is missing")
    elif not _line_of_best(replayed):
        found.append(BEST_WEIGHTS)
    about_times = f"they match {SUMS}" if (run / SUMS).exists() else f"{SUMS} is missing"
    return [*found, f"times and speeds ({about_times})"]


def _line_of_best(replayed: Replayed) -> Line | None:
    assert replayed.result is not None
    best = ("weights", replayed.result.best_step)
    lines = replayed.receipt.lines
    return next((line for line in lines if (line["kind"], line["step"]) == best), None)


def _expected_result(receipt: Receipt, result: RunResult) -> RunResult:
    """``result`` with what the run alone knows: its ranks and the names of model and image set."""
    recorded, configuration = (receipt.starts[-1][name] for name in ("dataset", "configuration"))
    dataset = dataclasses.replace(
        result.dataset,
        name=recorded.get("name"),
        source=recorded.get("source"),
        path=configuration["data"],
    )
    return dataclasses.replace(
        result,
        model=configuration["model"],
        world_size=receipt.lines[0].get("world_size", 0),
        dataset=dataset,
    )


def _problem_of_result(
    found: dict[str, Any], expected: dict[str, Any], within: str = ""
) -> str | None:
    """The first value that differs.

    What an older version did not write may be missing: SHA256SUMS shows what was removed.
    """
    for name, value in found.items():
        if name in MEASURED:
            continue
        if isinstance(value, dict) and isinstance(expected.get(name), dict):
            if problem := _problem_of_result(value, expected[name], f"{within}{name}."):
                return problem
        elif name not in expected or value != expected[name]:
            return f"{within}{name} is {value} in {RESULT}, but {expected.get(name)} in the replay"
    return None


def _problem_of_weights(file: Path, line: Line, attributes: dict[str, Any]) -> str | None:
    parameters, found = read_weights(file)
    for name, sha256 in line["parameters"].items():
        now = array_sha256(parameters[name]) if name in parameters else None
        if now != sha256:
            return f"parameter {name}: SHA-256 {now} in {file.name}, but {sha256} in the replay"
    for name, value in found.items():
        expected = line["params_sha256"] if name == "params_sha256" else attributes.get(name)
        if value != expected:
            return f"{name} is {value} in {file.name}, but {expected} in the replay"
    return None

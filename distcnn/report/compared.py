"""Several runs side by side, and whether they have the same weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from distcnn.config import Config, as_flag
from distcnn.report.charts import Table
from distcnn.report.facts import ranks_of, version_of
from distcnn.report.records import RunRecords
from distcnn.system.wording import counted, first_few

HASH_DIGITS = 12
NONE = "none"


def comparison(runs: Sequence[RunRecords]) -> list[Table]:
    """The results of all runs side by side, and the settings in which they differ."""
    labels = tuple(run.label for run in runs)
    compared = [_results(run) for run in runs]
    results = [(name, *(cells[name] for cells in compared)) for name in compared[0]]
    results = [row for row in results if set(row[1:]) != {NONE}]
    tables = [Table("The runs side by side", ("quantity", *labels), results)]
    if different := [*_different(runs, free=False), *_different(runs, free=True)]:
        tables.append(Table("Settings that differ", ("setting", *labels), different))
    return tables


def _different(runs: Sequence[RunRecords], free: bool) -> list[tuple[str, ...]]:
    """The settings in which ``runs`` differ; ``free`` ones do not change the weights."""
    configs = [dataclasses.asdict(run.config) if run.config else {} for run in runs]
    rows = [
        (
            f"{as_flag(field.name)}{' (no effect on the weights)' if free else ''}",
            *(_shown(config.get(field.name, "unknown")) for config in configs),
        )
        for field in dataclasses.fields(Config)
        if field.metadata["group"].free == free and field.name != "output"
    ]
    return [row for row in rows if len(set(row[1:])) > 1]


def _results(run: RunRecords) -> dict[str, str]:
    result, loss = run.result, run.history["loss"]
    validation = run.history["validation_accuracy"]
    return {
        "Test accuracy": f"{result.test_accuracy:.2%}" if result else "not finished",
        "Test loss": f"{result.test_loss:.4f}" if result else "",
        "Validation accuracy": f"{validation[-1][1]:.2%}" if validation else NONE,
        "Training loss at the end": f"{loss[-1][1]:.4f}" if loss else "",
        "Steps": f"{run.last_step:,}",
        "Ranks": ranks_of(run),
        "Images per second": f"{result.images_per_second:,.0f}" if result else "",
        "Seconds in steps": f"{result.train_seconds:,.1f}" if result else "",
        "Weights (SHA-256)": result.params_sha256[:HASH_DIGITS] if result else "",
        "distcnn": version_of(run),
    }


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def agreement(runs: Sequence[RunRecords]) -> list[str]:
    """Which runs ended with the same weights, and at which step others differ from the first."""
    ends: dict[str, list[RunRecords]] = {}
    for run in runs:
        ends.setdefault(run.result.params_sha256 if run.result else run.label, []).append(run)
    told = []
    for group in (group for group in ends.values() if len(group) > 1):
        who = f"The runs {first_few((run.label for run in group[:-1]), 20)} and {group[-1].label}"
        if len(group) == len(runs):
            who = "Both runs" if len(runs) == 2 else f"All {len(runs)} runs"
        told.append(f"{who} ended with the same weights, bit for bit.")
    told += [_divergence(runs[0], group[0]) for group in list(ends.values())[1:]]
    return list(filter(None, told))


def _divergence(one: RunRecords, other: RunRecords) -> str:
    """Up to which step the weights of two runs were the same; empty if that is not on record."""
    before, after = recorded_weights(one), recorded_weights(other)
    common = sorted(before.keys() & after.keys())
    differing = [step for step in common if before[step] != after[step]]
    both, number = f"{one.label} and {other.label}", counted(len(common), "step")
    if not common:
        return ""
    if not differing:
        return (
            f"{both} had the same weights, bit for bit, at every step for which both have a record"
            f" ({number}, the last is {common[-1]:,})."
        )
    same = [step for step in common if step < differing[0]]
    if not same and _different([one, other], free=False):
        return ""  # as is to be expected
    until = f"the same up to step {same[-1]:,}, and " if same else ""
    return (
        f"The weights of {both} were {until}different at step {differing[0]:,}. Both runs recorded"
        f" their weights at {number}."
    )


def recorded_weights(run: RunRecords) -> dict[int, Any]:
    """The hash of the weights at each step for which the receipt has one."""
    lines = run.receipt.lines if run.receipt else []
    return {line["step"]: line.get("params_sha256") for line in lines if line["kind"] == "weights"}

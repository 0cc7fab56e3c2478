"""What ``benchmarks.soak`` compares: everything in a run directory that must not depend on ranks,
kills and times.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py

from distcnn.checkpoints import CheckpointError, CheckpointStore
from distcnn.training.receipt import PREVIOUS

TIMES = {"images_per_second", "train_seconds", "test_seconds", "bookkeeping_seconds"}
OF_STARTS = {"world_size", "receipt_sha256"}
PROOFS = {"weights", "epoch", "end"}
"""Kinds of lines of the receipt that a resumed run repeats; the others describe starts."""


def artifacts(run: Path) -> dict[str, Any]:
    """The content of a finished run, except for times and starts."""
    result = json.loads((run / "result.json").read_text())
    return {
        "params_sha256": result["params_sha256"],
        "result.json": {
            key: value for key, value in result.items() if key not in TIMES | OF_STARTS
        },
        "metrics.jsonl": [
            {key: value for key, value in line.items() if key not in TIMES}
            for line in _lines(run / "metrics.jsonl")
        ],
        "receipt.jsonl": [
            {key: value for key, value in line.items() if key != PREVIOUS}
            for line in _lines(run / "receipt.jsonl")
            if line["kind"] in PROOFS
        ],
        "weights.h5": _weights(run / "weights.h5"),
        "weights-best.h5": _weights(run / "weights-best.h5"),
    }


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """The differences from the uninterrupted run, as text."""
    return [
        f"{name}: {_first_difference(expected[name], found[name])}"
        for name in expected
        if found[name] != expected[name]
    ]


def damaged_checkpoints(run: Path) -> tuple[list[Path], list[Path]]:
    """All checkpoints that cannot be loaded, and those of them that are newer than the newest valid
    one, so that a resume must report them.
    """
    store = CheckpointStore(run / "checkpoints")
    damaged, newest_good = [], -1
    for step in store.steps():
        try:
            store.load(step)
            newest_good = step
        except CheckpointError:
            damaged.append(step)
    return [store.path_of(step) for step in damaged], [
        store.path_of(step) for step in damaged if step > newest_good
    ]


def _first_difference(expected: Any, found: Any) -> str:
    if isinstance(expected, dict):
        key = next(key for key in [*expected, *found] if expected.get(key) != found.get(key))
        return f"{key} is {_short(found.get(key))}, not {_short(expected.get(key))}"
    if isinstance(expected, list):
        same = next(
            (
                line
                for line in range(min(len(expected), len(found)))
                if expected[line] != found[line]
            ),
            min(len(expected), len(found)),
        )
        return (
            f"{len(found)} lines, not {len(expected)}; line {same + 1} is"
            f" {_short(found[same:][:1])}, not {_short(expected[same:][:1])}"
        )
    return f"{_short(found)}, not {_short(expected)}"


def _short(value: Any) -> str:
    return str(value)[:300]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _weights(path: Path) -> dict[str, Any]:
    with h5py.File(path, "r") as file:
        arrays = {
            name: (values.shape, str(values.dtype), values[()].tobytes())
            for name, values in file.items()
        }
        return {
            **arrays,
            "names in order": list(file),
            "attributes": {name: str(value) for name, value in file.attrs.items()},
        }

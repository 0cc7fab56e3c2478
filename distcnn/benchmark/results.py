"""What the benchmark measures: the content of ``--json``, and what tables and pictures show."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcnn.errors import InputError
from distcnn.profiling.step_times import REST, WAITING
from distcnn.spans import ALLREDUCE, BACKWARD, FORWARD, LEDGER, LOCAL_SUM, LOSS, READ_DATA, UPDATE
from distcnn.system.files import read_bytes

KIND = "distcnn.benchmark"
ORDER = (READ_DATA, LEDGER, LOSS, LOCAL_SUM, WAITING, ALLREDUCE, UPDATE)
"""The order of rows that belong to no layer; then come others, and the rest."""


@dataclass(frozen=True)
class LayerSeconds:
    """One layer in one step of a rank."""

    name: str
    forward_seconds: float
    backward_seconds: float


@dataclass(frozen=True)
class PartSeconds:
    """A part of a step that belongs to no layer."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Bound:
    """What the products of im2col alone take in one step, on the slowest rank.

    Args:
        seconds: median over turns.
        fraction: of the step of the same turn; above 1 the step is faster.
        fraction_turns: of each turn.
        operations: multiplications and additions.
        gflop_per_second: of one rank.
    """

    seconds: float
    fraction: float
    fraction_turns: list[float]
    operations: int
    gflop_per_second: float


@dataclass(frozen=True)
class RankTimes:
    """One rank: a step with its parts, in seconds, and the most memory it had."""

    step_seconds: float
    parts: dict[str, float]
    peak_memory_bytes: int


@dataclass(frozen=True)
class Measurement:
    """All that was measured; ``docs/speed.md`` says what each field means.

    Times are of one step: ``step_seconds`` without a listener, all others with one, on rank 0.
    ``*_turns`` have an item for each turn, of which the plain name is the median.
    """

    model: str
    parameters: int
    data: str
    world_size: int
    global_batch_size: int
    overlap: bool
    steps_per_turn: int
    images_per_second: float
    images_per_second_turns: list[float]
    step_seconds: float
    step_seconds_turns: list[float]
    gemm_bound_fraction: float
    bound: Bound
    split_seconds: float
    split_steps: int
    split_images: int
    layers: list[LayerSeconds]
    parts: list[PartSeconds]
    exact_sum_fraction: float
    communication_fraction: float
    allreduce_seconds: float
    waited_seconds: float
    late_ranks_seconds: float
    evaluation_images_per_second: float
    evaluation_images_per_second_turns: list[float]
    peak_memory_bytes: int
    ranks: list[RankTimes]
    machine: dict[str, str | int]
    flags: dict[str, Any]
    kind: str = KIND


def split_rows(parts: Mapping[str, float]) -> tuple[list[LayerSeconds], list[PartSeconds]]:
    """The rows of a split, from the seconds of each part.

    A layer that is computed inside another one (a ReLU after a max pooling) has no row.
    """
    layers: dict[str, dict[str, float]] = {}
    others = []
    others_first = [name for name in parts if name != REST]
    for name in dict.fromkeys((*ORDER, *others_first, REST)):
        if name not in parts:
            continue
        seconds = parts[name]
        layer, _, direction = name.rpartition(" ")
        if direction in (FORWARD, BACKWARD):
            layers.setdefault(layer, {})[f"{direction}_seconds"] = seconds
        else:
            others.append(PartSeconds(name, seconds))
    nothing = {f"{FORWARD}_seconds": 0.0, f"{BACKWARD}_seconds": 0.0}
    return [LayerSeconds(name, **nothing | row) for name, row in layers.items()], others


def write_results(path: str | Path, results: Measurement) -> None:
    """``InputError`` when it cannot be written."""
    try:
        content = json.dumps(dataclasses.asdict(results), indent=1)
        Path(path).write_text(content + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"--json: {path} cannot be written ({error.strerror}): name another file"
        ) from error


def read_results(path: str | Path) -> Measurement:
    """What ``--json`` wrote. ``InputError`` when the file is something else."""
    try:
        content = json.loads(read_bytes(Path(path), follow=True))
        if content["kind"] != KIND:
            raise ValueError(f"its kind is {content['kind']!r}")
        return Measurement(
            **content
            | {
                "layers": [LayerSeconds(**row) for row in content["layers"]],
                "parts": [PartSeconds(**row) for row in content["parts"]],
                "bound": Bound(**content["bound"]),
                "ranks": [RankTimes(**row) for row in content["ranks"]],
            }
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read as a measurement ({error}): name a file that this version of"
            " distcnn.benchmark --json wrote"
        ) from error

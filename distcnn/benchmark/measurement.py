"""What the benchmark measures: the content of ``--json``, and the parts that tables and pictures
show.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distcnn.errors import InputError
from distcnn.profiling.step_times import REST, WAITING, StepTimes
from distcnn.spans import ALLREDUCE, BACKWARD, FORWARD, LEDGER, LOCAL_SUM, LOSS, READ_DATA, UPDATE
from distcnn.system.files import read_bytes

KIND = "distcnn.benchmark"
ORDER = (READ_DATA, LEDGER, LOSS, LOCAL_SUM, WAITING, ALLREDUCE, UPDATE)
"""Order of the parts that belong to no layer; others follow, then the rest."""


@dataclass(frozen=True)
class Measurement:
    """Everything that was measured; ``docs/speed.md`` says what each field means.

    Fields in ``*_turns`` have an item for each turn; the name without it is the median. Those in
    ``*_ranks`` have an item for each rank.
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
    evaluation_images_per_second: float
    evaluation_images_per_second_turns: list[float]
    gemm_bound_seconds: float
    gemm_bound_fraction: float
    gemm_bound_fraction_turns: list[float]
    gemm_operations: int
    split_ranks: list[StepTimes]
    split_steps: int
    split_images: int
    exact_sum_fraction: float
    communication_fraction: float
    peak_memory_bytes: int
    peak_memory_bytes_ranks: list[int]
    machine: dict[str, str | int]
    flags: dict[str, Any]
    kind: str = KIND

    @property
    def split(self) -> StepTimes:
        """Rank 0's step with a listener, by part."""
        return self.split_ranks[0]


@dataclass(frozen=True)
class StepPart:
    """A layer, or another part of a step: seconds by direction; layers have two."""

    name: str
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Of both directions."""
        return sum(self.seconds.values())


def step_parts(parts: Mapping[str, float]) -> list[StepPart]:
    """The parts of a step, in the order in which they are shown: layers, others, the rest.

    A layer that is computed inside another one (a ReLU after a max pooling) is not among them.
    """
    layers: dict[str, StepPart] = {}
    others = {name: seconds for name, seconds in parts.items() if name != REST}
    for name in parts:
        layer, _, direction = name.rpartition(" ")
        if direction in (FORWARD, BACKWARD):
            row = layers.setdefault(layer, StepPart(layer))
            row.seconds[direction] = others.pop(name)
    order = [name for name in dict.fromkeys((*ORDER, *others)) if name in others]
    rest = {REST: parts[REST]} if REST in parts else {}
    found = {name: others[name] for name in order} | rest
    return [*layers.values(), *(StepPart(name, {"": seconds}) for name, seconds in found.items())]


def write_measurement(path: str | Path, measurement: Measurement) -> None:
    """``InputError`` when it cannot be written."""
    try:
        content = json.dumps(dataclasses.asdict(measurement), indent=1)
        Path(path).write_text(content + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"--json: {path} cannot be written ({error.strerror}): name another file"
        ) from error


def read_measurement(path: str | Path) -> Measurement:
    """What ``--json`` wrote. ``InputError`` when the file is something else."""
    try:
        content = json.loads(read_bytes(Path(path), follow=True))
        if content["kind"] != KIND:
            raise ValueError(f"its kind is {content['kind']!r}")
        splits = [StepTimes(**split) for split in content["split_ranks"]]
        return Measurement(**{**content, "split_ranks": splits})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read as a measurement ({error}): name a file that this version of"
            " distcnn.benchmark --json wrote"
        ) from error

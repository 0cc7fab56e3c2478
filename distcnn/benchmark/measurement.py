"""What the benchmark measures: the content of ``--json``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcnn.profiling.step_times import REST, WAITING, StepTimes
from distcnn.spans import ALLREDUCE, BACKWARD, FORWARD, LEDGER, LOCAL_SUM, LOSS, READ_DATA, UPDATE
from distcnn.system.files import explaining, read_bytes, reading

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

    @property
    def split(self) -> StepTimes:
        """Rank 0's step with a listener, by part."""
        return self.split_ranks[0]

    def rows(self) -> dict[str, dict[str, float]]:
        """Rank 0's parts of a step, in the order in which they are shown: layers, others, the rest.

        Titles, with seconds by direction ("" outside of layers). A layer that is computed inside
        another one (a ReLU after a max pooling) is not among them.
        """
        titles = {LOCAL_SUM: f"{self.flags['reduction']} sum"}
        titles |= {WAITING: "late ranks", REST: "rest (Python)"}
        layers: dict[str, dict[str, float]] = {}
        others: dict[str, float] = {}
        for name, seconds in self.split.parts.items():
            layer, _, direction = name.rpartition(" ")
            if direction in (FORWARD, BACKWARD):
                layers.setdefault(layer, {})[direction] = seconds
            else:
                others[name] = seconds
        more = sorted(others.keys() - {*ORDER, REST})
        shown = [name for name in (*ORDER, *more, REST) if name in others]
        return layers | {titles.get(name, name): {"": others[name]} for name in shown}


def write_measurement(path: str | Path, measurement: Measurement) -> None:
    content = json.dumps(dataclasses.asdict(measurement), indent=1)
    with explaining(f"--json: {path} cannot be written", "name another file"):
        Path(path).write_text(content + "\n", encoding="utf-8")


def read_measurement(path: str | Path) -> Measurement:
    remedy = "name a file that this version of distcnn.benchmark --json wrote"
    with reading(path, ValueError, KeyError, TypeError, remedy=remedy):
        content = json.loads(read_bytes(Path(path), follow=True))
        splits = [StepTimes(**split) for split in content["split_ranks"]]
        return Measurement(**{**content, "split_ranks": splits})

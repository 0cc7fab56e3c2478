"""What the ranks of a point hand to the sweep: its name, its groups of time, and whether a text is
one.
"""

from __future__ import annotations

import json
import math
from typing import Any

from distcnn.scaling.points import Point
from distcnn.system.wording import counted

KIND = "distcnn.scaling.worker"
GROUPS = ("compute", "local_sum", "communication", "waiting", "data")
"""Of a step's time: layers, loss and update; checking and adding up gradients on this rank; the sum
over ranks; waiting for the last rank; taking examples. They add up to the step."""

Result = dict[str, Any]


def read_result(text: str, point: Point) -> Result:
    """The result in ``text``. ``ValueError`` says what it lacks, or that it is another point's."""
    try:
        result = json.loads(text)
    except ValueError as error:
        raise ValueError(f"its result is no JSON ({error})") from error
    if not isinstance(result, dict) or result.get("kind") != KIND:
        raise ValueError("its result is no measurement of distcnn")
    for name, expected in (
        ("world_size", point.ranks),
        ("num_shards", point.num_shards),
        ("microbatch_size", point.microbatch_size),
    ):
        if result.get(name) != expected:
            what = counted(expected, "rank") if name == "world_size" else f"{name} {expected}"
            remedy = (
                ": does the launcher start as many ranks as {ranks} says?"
                if name == "world_size"
                else ""
            )
            raise ValueError(f"asked for {what}, but its result is of {result.get(name)}{remedy}")
    try:
        numbers = [
            result["images_per_second"],
            result["step_seconds"],
            result["split"]["mean"]["step_seconds"],
        ]
        numbers += [result["split"]["mean"][f"{group}_seconds"] for group in GROUPS]
        whole = all(math.isfinite(each) for each in numbers) and min(numbers[:3]) > 0
        whole = (
            whole
            and isinstance(result["params_sha256"], str)
            and len(result["hosts"]) == point.ranks
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"its result is not whole ({type(error).__name__}: {error})") from error
    if not whole:
        raise ValueError("its result is not whole: numbers are missing or no numbers")
    return result

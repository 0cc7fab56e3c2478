"""From what all ranks measured to one dictionary: what ``--json`` writes, and what tables and
pictures are made of.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from statistics import median
from typing import Any

from distcnn.benchmark.machine import machine_facts
from distcnn.benchmark.session import Bound, Session
from distcnn.benchmark.time_split import ALLREDUCE, OTHERS, REST, WAITING, Split
from distcnn.errors import InputError
from distcnn.system.files import read_bytes
from distcnn.training.parts import BACKWARD, FORWARD, SUM, part_name
from distcnn.training.setup import Run

KIND = "distcnn.benchmark"
Results = dict[str, Any]


def results_of(run: Run, session: Session, steps: int) -> Results:
    """Collective.

    Fractions are of a step: of one without instruments for products, else of those with them, on
    rank 0.
    """
    config, communicator, measured = run.config, run.communicator, session.measured
    split = measured.split
    splits = communicator.allgather(split)
    bounds, plain_bounds = (
        communicator.allgather(session.bound),
        communicator.allgather(session.plain_bound),
    )
    peaks, memory_parts = (
        communicator.allgather(session.peak_bytes),
        communicator.allgather(session.memory_parts),
    )
    step_seconds = median(measured.step_seconds)
    products, plain = (_products(each, measured.step_seconds) for each in (bounds, plain_bounds))
    images = len(run.step.shards) * config.microbatch_size
    results = {
        "kind": KIND,
        "model": config.model,
        "parameters": int(run.network.values.size),
        "data": run.dataset.name,
        "world_size": communicator.world_size,
        "global_batch_size": config.global_batch_size,
        "overlap": run.step.overlap is not None,
        "steps_a_turn": steps,
        "turns": len(measured.images_per_second),
        "images_per_second": median(measured.images_per_second),
        "images_per_second_turns": measured.images_per_second,
        "step_seconds": step_seconds,
        "step_seconds_turns": measured.step_seconds,
        "gemm_bound_fraction": plain["fraction"],
        "products_fraction": products["fraction"],
        "exact_sum_fraction": split.parts[SUM] / split.step if config.reduction == "exact" else 0.0,
        "communication_fraction": (
            (split.parts.get(WAITING, 0.0) + split.parts[ALLREDUCE]) / split.step
        ),
        "peak_memory_bytes": max(peaks),
        "products": products,
        "plain_products": plain,
        "split": split_results(run.network.layer_names, split, images, len(measured.times)),
        "split_ranks": [{"step_seconds": each.step, "parts": each.parts} for each in splits],
        "communication": communication(split),
        "evaluation": {
            "images_per_second": median(measured.tests_per_second),
            "images_per_second_turns": measured.tests_per_second,
        },
        "memory_ranks": [
            {"peak_memory_bytes": peak, "parts": parts}
            for peak, parts in zip(peaks, memory_parts, strict=True)
        ],
        "machine": machine_facts(communicator),
        "flags": dataclasses.asdict(config),
    }
    return results | (
        {"peer": peer_results(measured.peer, measured.images_per_second)} if measured.peer else {}
    )


def split_results(layers: list[str], split: Split, images: int, steps: int) -> Results:
    """A row for each layer and for each other part; seconds of a step on this rank, which computes
    ``images`` of it.
    """
    rows = [
        {
            "name": layer,
            **{
                f"{direction}_seconds": split.parts.get(part_name(layer, direction), 0.0)
                for direction in (FORWARD, BACKWARD)
            },
            **{
                f"{direction}_products_seconds": split.products.get(
                    part_name(layer, direction), 0.0
                )
                for direction in (FORWARD, BACKWARD)
            },
        }
        for layer in layers
    ]
    others = [{"name": name, "seconds": split.parts.get(name, 0.0)} for name in (*OTHERS, REST)]
    return {
        "step_seconds": split.step,
        "images": images,
        "steps": steps,
        "layers": rows,
        "others": others,
    }


def communication(split: Split) -> dict[str, float]:
    """Of a step: all sums over ranks, what of them was hidden, what the main thread waited for
    them; and for late ranks.

    Hidden: behind computing, with overlap behind waiting for late ranks too.
    """
    waited = split.parts[ALLREDUCE]
    return {
        "allreduce_seconds": split.sums,
        "hidden_seconds": max(0.0, split.sums - waited),
        "waited_seconds": waited,
        "late_ranks_seconds": split.parts.get(WAITING, 0.0),
    }


def peer_results(turns: list[Results], ours: list[float]) -> Results:
    """Medians of the peer, each turn in the layout that was faster in it, and how many times as
    fast we are.
    """
    speeds = [max(each["images_per_second"].values()) for each in turns]
    return {
        "name": turns[0]["name"],
        "version": turns[0]["version"],
        "images_per_second": median(speeds),
        "images_per_second_turns": speeds,
        "layouts": {
            layout: [each["images_per_second"][layout] for each in turns]
            for layout in turns[0]["images_per_second"]
        },
        "ratio": median(ours) / median(speeds),
        "ratio_turns": [our / speed for our, speed in zip(ours, speeds, strict=True)],
    }


def read_results(path: str | Path) -> Results:
    """What ``--json`` wrote. ``InputError`` when it is none."""
    try:
        results: Results = json.loads(read_bytes(Path(path), follow=True))
        if results["kind"] != KIND:
            raise ValueError(f"its kind is {results['kind']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no measurement that can be read ({error}): name a file that"
            " distcnn.benchmark --json wrote"
        ) from error
    return results


def write_results(path: str | Path, results: Results) -> None:
    """``InputError`` when it cannot be written."""
    try:
        Path(path).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"--json: {path} cannot be written ({error.strerror}): name another file"
        ) from error


def _products(bounds: list[Bound], step_seconds: list[float]) -> Results:
    """Of the rank whose products take longest in each turn: no step can be faster than that.

    Fractions are of the same turn's steps.
    """
    seconds = [max(turn) for turn in zip(*(each.seconds for each in bounds), strict=True)]
    fractions = [bound / step for bound, step in zip(seconds, step_seconds, strict=True)]
    most = max(bounds, key=lambda each: each.operations)
    return {
        "seconds": median(seconds),
        "seconds_turns": seconds,
        "fraction": median(fractions),
        "fraction_turns": fractions,
        "calls": most.calls,
        "operations": most.operations,
        "gflop_per_second": most.operations / median(seconds) / 1e9 if median(seconds) else 0.0,
        "ranks_seconds": [median(each.seconds) for each in bounds],
    }

"""Interconnects: costs against simulated algorithms, numbers with units, files, and a fit that
recovers known values.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcnn.distributed.allreduce import SECONDS_BETWEEN_POLLS
from distcnn.errors import InputError
from distcnn.scaling.interconnect import (
    BESIDE,
    KINDS,
    WAITING,
    Line,
    cost_of,
    fit_line,
    parse_interconnect,
    rabenseifner,
    recursive_doubling,
)
from distcnn.scaling.interconnect_test import SIZES
from tests.support import naive_allreduce

ALGORITHMS = [
    (recursive_doubling, naive_allreduce.recursive_doubling),
    (rabenseifner, naive_allreduce.rabenseifner),
]


@pytest.mark.parametrize("number", [0, 1], ids=["recursive doubling", "rabenseifner"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 31, 32])
def test_closed_forms_are_what_playing_it_through_takes(number: int, ranks: int) -> None:
    closed_form, play = ALGORITHMS[number]
    size = 32 * 27 * 31 * 5  # divides evenly wherever a part of it is taken
    alpha, beta = 3.0, 1e-3
    world = naive_allreduce.World(ranks, size, alpha, beta)
    play(world)
    assert all((values == world.expected).all() for values in world.values)
    exchanges, sent_bytes = closed_form(ranks, size)
    assert max(world.clock) == pytest.approx(exchanges * alpha + sent_bytes * beta)


def test_costs_by_hand() -> None:
    assert cost_of(4, 1e6) == (4, 1.5e6)
    assert cost_of(4, 1000) == (2, 2000)
    assert cost_of(3, 1e6) == (4, 3e6)
    assert cost_of(1, 1e6) == (0, 0)


@pytest.mark.parametrize(
    ("text", "latency", "bandwidth"),
    [
        ("latency=1e-3,bandwidth=1e9", 1e-3, 1e9),
        ("latency=1ms,bandwidth=10Gbit", 1e-3, 1e10),
        ("bandwidth=100 Mbit/s, latency=25us", 25e-6, 1e8),
        ("latency=0,bandwidth=1gbit", 0.0, 1e9),
    ],
)
def test_numbers_with_units(text: str, latency: float, bandwidth: float) -> None:
    found = parse_interconnect(text)
    assert found.line(WAITING) == Line(pytest.approx(latency), pytest.approx(8 / bandwidth))
    assert found.line(BESIDE).latency == pytest.approx(latency + SECONDS_BETWEEN_POLLS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("latency=1ms", "is not a latency and a bandwidth"),
        ("latency=1ms,bandwidth=1Gbit,loss=3", "is not a latency and a bandwidth"),
        ("latency=1ms,bandwidth=1Gbit,latency=2ms", "is not a latency and a bandwidth"),
        ("latency=1min,bandwidth=1Gbit", "'1min' is not a number with a unit of s, ms, us"),
        ("latency=1ms,bandwidth=1GB", "'1GB' is not a number with a unit of bit, kbit"),
        ("latency=1ms,bandwidth=0", "above 0"),
        ("latency=-1,bandwidth=1", "'-1' is not a number"),
        ("missing.json", "cannot be read"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_interconnect(text)


def rows_of(line: Line, ranks: int, noise: float = 0.0) -> list[list[float]]:
    """The rows of an interconnect test on this interconnect."""
    rng = np.random.default_rng(5)
    return [
        [nbytes, line.seconds(ranks, nbytes) * (1 + noise * rng.uniform(-1, 1))] for nbytes in SIZES
    ]


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_the_fit_finds_what_was_planted(ranks: int) -> None:
    planted = Line(2e-4, 8e-10)
    found = fit_line(rows_of(planted, ranks), ranks)
    assert (found.latency, found.seconds_per_byte) == pytest.approx((2e-4, 8e-10), rel=1e-9)
    assert found.error < 1e-9
    noisy = fit_line(rows_of(planted, ranks, noise=0.05), ranks)
    assert (noisy.latency, noisy.seconds_per_byte) == pytest.approx((2e-4, 8e-10), rel=0.1)
    assert 0 < noisy.error < 0.11


def test_the_fit_finds_another_threshold() -> None:
    planted = Line(2e-4, 8e-10, short_bytes=64)
    assert fit_line(rows_of(planted, 2, noise=0.02), 2).short_bytes == 64


def test_neither_latency_nor_seconds_per_byte_is_below_zero() -> None:
    rows = [[nbytes, 1e-9 * cost_of(2, nbytes)[1] - 1e-12] for nbytes in SIZES]
    found = fit_line(rows, 2)
    assert found.latency == 0
    assert found.seconds_per_byte == pytest.approx(1e-9, rel=0.05)


def written(path: Path, **changes: Any) -> str:
    table = {
        "kind": KINDS[0],
        "world_size": 2,
        "hosts": ["a", "b"],
        "library": "MPICH",
        "rows": {way: rows_of(Line(1e-3, 8e-9), 2) for way in (WAITING, BESIDE)},
    }
    path.write_text(json.dumps({**table, **changes}))
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file(tmp_path: Path, kind: str) -> None:
    found = parse_interconnect(written(tmp_path / "ours.json", kind=kind))
    assert (found.name, found.is_measured) == ("ours", True)
    assert found.line(BESIDE).latency == pytest.approx(1e-3)
    assert "blocking 1.000 ms, 1,000 Mbit/s" in found.describe()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "other"}, "is not an interconnect test"),
        ({"rows": {WAITING: [[8, 1e-3]]}}, "has 1 sizes, and needs 3"),
        ({"rows": {}}, "needs at least 2 ranks"),
        ({"rows": {WAITING: [["8"]] * 3}}, "is not an interconnect test"),
        ({"rows": [1, 2]}, "is not an interconnect test"),
    ],
)
def test_a_file_that_is_none(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        parse_interconnect(written(tmp_path / "net.json", **changes))


def test_without_a_thread_the_other_way_serves(tmp_path: Path) -> None:
    rows = {WAITING: rows_of(Line(1e-3, 8e-9), 2)}
    found = parse_interconnect(written(tmp_path / "net.json", rows=rows))
    assert found.line(BESIDE) == found.line(WAITING)

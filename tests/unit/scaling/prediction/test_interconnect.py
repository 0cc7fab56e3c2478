"""Networks: numbers with units, files, and a fit that finds what was planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcnn.distributed.allreduce_benchmark import BESIDE, SIZES, WAITING
from distcnn.distributed.async_allreduce import SECONDS_BETWEEN_LOOKS
from distcnn.errors import InputError
from distcnn.scaling.prediction.allreduce import cost_of
from distcnn.scaling.prediction.interconnect import KIND, Line, fit_line, fit_network, parse_network


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
    line = parse_network(text, 1e-10).line(WAITING)
    assert line == Line(pytest.approx(latency), pytest.approx(8 / bandwidth), 1e-10)


def test_a_thread_looks_in_now_and_then() -> None:
    network = parse_network("latency=1ms,bandwidth=1Gbit,name=ours,algorithm=ring")
    assert network.line(BESIDE).latency == pytest.approx(1e-3 + SECONDS_BETWEEN_LOOKS)
    assert (network.name, network.algorithm) == ("ours", "ring")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("latency=1ms", "has no bandwidth: write latency=L,bandwidth=B, with L in s, ms or us"),
        ("latency=1ms,bandwidth=1Gbit,loss=3", "unknown word 'loss'"),
        ("latency=1ms,bandwidth=1Gbit,latency=2ms", "twice"),
        ("latency=1min,bandwidth=1Gbit", "'1min' is no number with a unit of s, ms, us"),
        ("latency=1ms,bandwidth=1GB", "'1GB' is no number with a unit of bit, kbit"),
        ("latency=1ms,bandwidth=0", "'0' is no bandwidth"),
        ("latency=-1,bandwidth=1", "'-1' is no number"),
        (
            "latency=1ms,bandwidth=1Gbit,algorithm=magic",
            "no algorithm 'magic': choose recursive-doubling",
        ),
        ("missing.json", "cannot be read"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        parse_network(text)


def rows_of(line: Line, ranks: int, noise: float = 0.0) -> list[list[float]]:
    """A network test's, on such a network."""
    rng = np.random.default_rng(5)
    return [
        [nbytes, line.seconds(ranks, nbytes) * (1 + noise * rng.uniform(-1, 1))] for nbytes in SIZES
    ]


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_the_fit_finds_what_was_planted(ranks: int) -> None:
    planted = Line(2e-4, 8e-10, 1e-10)
    found = fit_line(rows_of(planted, ranks), ranks, 1e-10)
    assert (found.latency, found.seconds_per_byte) == pytest.approx((2e-4, 8e-10), rel=1e-9)
    assert found.error < 1e-9
    noisy = fit_line(rows_of(planted, ranks, noise=0.05), ranks, 1e-10)
    assert (noisy.latency, noisy.seconds_per_byte) == pytest.approx((2e-4, 8e-10), rel=0.1)
    assert 0 < noisy.error < 0.11


def test_another_border_is_found() -> None:
    planted = Line(2e-4, 8e-10, 1e-10, short_bytes=64)
    found = fit_line(rows_of(planted, 2, noise=0.02), 2, 1e-10)
    assert found.short_bytes == 64
    assert found.latency == pytest.approx(2e-4, rel=0.05)


def test_neither_is_below_zero() -> None:
    rows = [[nbytes, 1e-9 * cost_of(2, nbytes).nbytes - 1e-12] for nbytes in SIZES]
    found = fit_line(rows, 2, 0.0)
    assert found.latency == 0
    assert found.seconds_per_byte == pytest.approx(1e-9, rel=0.05)


def written(path: Path, **changes: Any) -> str:
    table = {
        "kind": KIND,
        "world_size": 2,
        "hosts": ["a", "b"],
        "library": "MPICH",
        "rows": {way: rows_of(Line(1e-3, 8e-9), 2) for way in (WAITING, BESIDE)},
        "add_seconds_per_byte": 0.0,
    }
    path.write_text(json.dumps({**table, **changes}))
    return str(path)


def test_a_file(tmp_path: Path) -> None:
    network = parse_network(written(tmp_path / "ours.json"))
    assert (network.name, network.measured_on) == ("ours", 2)
    assert network.line(BESIDE).latency == pytest.approx(1e-3)
    assert (
        "waiting 1.000 ms, 1,000 Mbit/s, recursive doubling up to 2,048 bytes, then Rabenseifner"
        " (farthest row 0% off)" in network.describe()
    )
    assert "ring" in parse_network("latency=1ms,bandwidth=1Gbit,algorithm=ring").describe()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "other"}, "holds no network test"),
        ({"rows": {WAITING: [[8, 1e-3]]}}, "has 1 sizes, and 3 are needed"),
        ({"rows": {}}, "has no rows: it needs 2 ranks"),
        ({"rows": {WAITING: [["8"]] * 3}}, "is not whole"),
        ({"rows": [1, 2]}, "is not whole"),
    ],
)
def test_a_file_that_is_none(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        parse_network(written(tmp_path / "net.json", **changes))


def test_without_a_thread_the_other_way_serves() -> None:
    found = {
        "world_size": 2,
        "add_seconds_per_byte": 0.0,
        "rows": {WAITING: rows_of(Line(1e-3, 8e-9), 2)},
    }
    network = fit_network(found, "n")
    assert network.line(BESIDE) == network.line(WAITING)

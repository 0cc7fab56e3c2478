"""From records of a machine that is known exactly back to that machine."""

from __future__ import annotations

import dataclasses
import statistics

import pytest

from distcnn.errors import InputError
from distcnn.scaling.prediction.calibration import (
    backward_by_bucket,
    calibrate,
    expected_lateness,
    spread_of,
)
from distcnn.scaling.prediction.interconnect import Line
from distcnn.scaling.prediction.options import Wanted
from distcnn.scaling.prediction.predict import compare, project
from distcnn.scaling.summary import summarise
from distcnn.scaling.sweep_directory import Record
from tests.support.prediction_cases import (
    LAYERS,
    PARAMETERS,
    SHARD,
    SHARED,
    calibration,
    measured,
    network_of,
)
from tests.support.sweep_cases import record, strong, weak


def test_the_machine_is_found_again() -> None:
    found = calibrate(
        [measured(strong(1, 8)), measured(strong(2, 8)), measured(strong(4, 8))], LAYERS, PARAMETERS
    )
    alone, together = found.shards[1], found.shards[2]
    for shard in (alone, together):
        assert (shard.data, shard.forward, *shard.backward) == pytest.approx(
            (SHARD.data, SHARD.forward, *SHARD.backward)
        )
        assert (shard.add_first, shard.add_other) == (SHARD.add_first, SHARD.add_other)
    assert (alone.kept, together.kept) == (None, pytest.approx(SHARD.kept))
    assert (found.update, found.bucket_bytes, found.ranks) == (
        pytest.approx(0.003),
        (480_000, 320_000),
        (1, 2),
    )
    line = found.host_network(2).line("waiting")  # type: ignore[union-attr]
    assert (line.latency, line.seconds_per_byte) == pytest.approx(
        (SHARED.latency, SHARED.seconds_per_byte)
    )
    assert found.between is None


def test_a_point_on_two_hosts_is_a_network_test() -> None:
    found = calibrate([measured(strong(1)), measured(strong(2), hosts=2)], LAYERS, PARAMETERS)
    assert found.between is not None
    assert found.between.line("beside").latency == pytest.approx(SHARED.latency)
    assert (found.on_host, list(found.shards)) == ({}, [1])


def test_predictions_of_what_was_measured_are_exact() -> None:
    """Sums by MPI of the tally are in no part of the made records, and take hundredths of a
    millisecond.
    """
    records = [measured(strong(ranks)) for ranks in (1, 2, 4)] + [
        measured(weak(ranks)) for ranks in (1, 2)
    ]
    found = calibrate(records, LAYERS, PARAMETERS)
    points = [each.measurement.point for each in records]
    compared = compare(found, records, summarise(points, records))
    assert [(each.point.ranks, each.calibrated) for each in compared] == [
        (1, True),
        (2, True),
        (4, False),
        (1, True),
        (2, True),
    ]
    assert all(abs(each.error) < 2e-3 for each in compared)


def test_waiting_of_the_rank_that_waits_least_is_kept() -> None:
    """Its step is as long as everybody's."""
    records = [measured(strong(1)), measured(strong(2))]
    result = records[1].result
    assert result is not None
    rank = result["split"]["ranks"][0]
    waited = {
        "step_seconds": rank["step_seconds"] + 0.02,
        "parts": {**rank["parts"], "waiting": 0.02},
    }
    result["split"]["ranks"] = [{**rank, **waited}] * 2
    points = [each.measurement.point for each in records]
    found = compare(calibrate(records, LAYERS, PARAMETERS), records, summarise(points, records))
    assert abs(found[1].error) < 0.03  # without, 30 % are missing


def test_what_points_lack() -> None:
    with pytest.raises(InputError, match=r"--predict needs measurements, and all of them failed"):
        calibrate([record(strong(1), reason="no")], LAYERS, PARAMETERS)
    old = measured(strong(1))
    assert old.result is not None
    without = {name: value for name, value in old.result.items() if name != "adding"}
    earlier: list[Record] = [dataclasses.replace(old, result=without)]
    with pytest.raises(
        InputError,
        match=r"measurements on 1 rank are an earlier version's.* measure in a new --output",
    ):
        calibrate(earlier, LAYERS, PARAMETERS)


def test_layers_without_parameters_belong_to_what_backward_comes_to_next() -> None:
    parts = {f"{name} backward": 2.0**number for number, (name, _) in enumerate(LAYERS)}
    assert backward_by_bucket(parts, LAYERS, [40_000, 0]) == [4 + 8 + 16, 1 + 2]
    assert backward_by_bucket(parts, LAYERS, [0]) == [31]


def test_spread_and_lateness() -> None:
    steps = [statistics.NormalDist(2.0, 0.1).inv_cdf((number + 0.5) / 400) for number in range(400)]
    assert spread_of(steps) == pytest.approx(0.05, rel=0.02)
    assert spread_of([1.0]) == 0
    assert expected_lateness(1, 0.1) == 0
    assert expected_lateness(2, 1.0) == pytest.approx(0.5642, rel=0.05)  # 1 / sqrt(pi)
    assert expected_lateness(100, 1.0) == pytest.approx(2.5076, rel=0.01)  # Harter 1961


def test_modes_networks_and_too_few_shards() -> None:
    networks = [network_of(Line(1e-3, 8e-9), "slow"), network_of(Line(1e-5, 8e-11), "fast")]
    found = project(
        calibration(), [strong(1, 8), strong(2, 8), weak(1), weak(2)], Wanted((2, 8, 16)), networks
    )
    assert [(each.mode, each.network and each.network.name) for each in found.series] == [
        *(("strong", "slow"), ("strong", "fast"), ("weak", "slow"), ("weak", "fast"))
    ]
    first, _, third, _ = found.series
    assert ([each.place.ranks for each in first.predictions], first.beyond) == ([2, 8], [16])
    assert [each.place.num_shards for each in third.predictions] == [8, 32, 64]
    assert found.ranks_of_host == 2
    assert first.efficiency(first.base) == pytest.approx(1)
    assert third.efficiency(third.predictions[0]) == pytest.approx(1, abs=1e-3)
    more = project(calibration(), [strong(1, 8)], Wanted((16,), num_shards=64), networks)
    assert more.series[0].predictions[0].place.num_shards == 64
    large = project(calibration(), [weak(1)], Wanted((4096,), examples=10**9), networks)
    assert large.series[0].predictions[0].examples == 4096 * 4 * 64
    with pytest.raises(InputError, match=r"strong scaling has 8 shards.* --predict-shards 16"):
        project(calibration(), [strong(1, 8)], Wanted((16,)), networks)

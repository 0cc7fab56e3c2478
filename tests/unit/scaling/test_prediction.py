"""Calibration recovers a machine that is known exactly from its results."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distcnn.errors import InputError
from distcnn.scaling.interconnect import Line
from distcnn.scaling.output import prediction_table
from distcnn.scaling.plot import prediction_figure
from distcnn.scaling.points import Point
from distcnn.scaling.prediction import Projection, calibrate, project
from distcnn.scaling.summary import summarise
from distcnn.system.json_values import to_json
from tests.support.sweep_cases import (
    BUCKET_BYTES,
    ON_HOST,
    SHARD,
    calibration,
    interconnect,
    record,
    result_of,
    strong,
    weak,
)


def test_the_machine_is_found_again() -> None:
    found = calibrate([result_of(strong(ranks, 8)) for ranks in (1, 2, 4)])
    assert found.shards == {1: replace(SHARD, shared_memory=None), 2: SHARD}
    assert (found.bucket_bytes, found.ranks) == (BUCKET_BYTES, [1, 2])
    line = found.on_host[2].line("waiting")
    assert (line.latency, line.seconds_per_byte) == pytest.approx(
        (ON_HOST.latency, ON_HOST.seconds_per_byte)
    )
    assert found.between is None


def test_a_point_on_two_hosts_is_an_interconnect_test() -> None:
    found = calibrate([result_of(strong(1)), result_of(strong(2), hosts=2)])
    assert found.between is not None
    assert found.between.line("beside").latency == pytest.approx(ON_HOST.latency)
    assert (found.on_host, list(found.shards)) == ({}, [1])


def test_without_results_nothing_is_predicted() -> None:
    with pytest.raises(InputError, match=r"all of them failed"):
        calibrate([])


def projected(points: list[Point], ranks: tuple[int, ...], count: int = 1) -> Projection:
    """The prediction from these points with ``count`` interconnects."""
    rows = summarise(points, [record(point) for point in points]).rows
    lines = [Line(1e-3 / 10**number, 8e-9) for number in range(count)]
    networks = [interconnect(line, f"n{number}") for number, line in enumerate(lines)]
    return project(calibration(), rows, ranks, 0, networks)


def test_what_was_measured_is_predicted() -> None:
    """Sums of a few bytes are missing from the artificial results; they take hundredths of a ms."""
    points = [strong(1), strong(2), strong(4), weak(1), weak(2)]
    records = [record(point, speed=0.0) for point in points]
    found = calibrate([result_of(point) for point in points])
    compared = project(found, summarise(points, records).rows, (2,), 0, []).compared
    assert [one.is_calibrated for one in compared] == [True, True, False, True, True]
    assert all(abs(one.error) < 2e-3 for one in compared)


def test_modes_interconnects_and_too_few_shards() -> None:
    points = [strong(1, 8), strong(2, 8), weak(1), weak(2)]
    found = projected(points, (2, 8, 16), count=2)
    assert [(series.mode, series.name) for series in found.series] == [
        *(("strong", "n0"), ("strong", "n1"), ("weak", "n0"), ("weak", "n1"))
    ]
    first, _, third, _ = found.series
    assert [one.point.ranks for one in first.predictions] == [2, 8]
    assert [one.point.num_shards for one in third.predictions] == [8, 32, 64]
    assert first.efficiency(first.base) == pytest.approx(1)
    [line] = [line for line in prediction_table(found) if line.startswith("left out")]
    assert line.startswith("left out  16 ranks of strong scaling: it was measured with 8 shards")
    assert "--num-shards 16" in line


@pytest.mark.parametrize("count", [1, 6])
def test_text_json_and_picture(count: int) -> None:
    points = [weak(1), weak(2)]
    found = projected(points, (1, 2, 4, 64), count)
    text = "\n".join(prediction_table(found))
    assert text.count("weak scaling, n") == count
    assert "(calibrated on it)" in text
    table = to_json(found)
    assert len(table["series"]) == count
    assert table["series"][0]["predictions"][3]["point"]["ranks"] == 64
    figure = prediction_figure(found, summarise(points, [record(point) for point in points]))
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["--"] * count + ["None"]
    assert len(figure.axes) == 2

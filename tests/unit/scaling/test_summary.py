"""Medians, spread, speed-up, efficiency, bits and footnotes, computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distcnn.scaling.options import Settings
from distcnn.scaling.output import table, write_results
from distcnn.scaling.plot import sweep_figure
from distcnn.scaling.points import Job, Point
from distcnn.scaling.records import Sweep
from distcnn.scaling.summary import compare_bits, summarise
from tests.support.sweep_cases import SHARES, record, result_of, strong, weak

A, B = "a" * 64, "b" * 64


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path, Settings((1, 2), "mpirun -n {ranks}"))


def test_rows_by_hand() -> None:
    records = [
        *(record(strong(1), number, speed) for number, speed in enumerate((900, 1000, 1300))),
        *(record(strong(2), number, speed) for number, speed in enumerate((1800, 1500, 1000))),
        *(record(strong(4), number, speed) for number, speed in enumerate((2000, 3000))),
    ]
    summary = summarise([strong(1), strong(2), strong(4)], records)
    one, two, four = (row.measured for row in summary.rows)
    assert one is not None
    assert two is not None
    assert four is not None
    assert (one.images_per_second, one.slowest, one.fastest, one.hosts) == (1000, 900, 1300, 1)
    assert (one.speed_up, one.efficiency) == (1, 1)
    assert (two.speed_up, two.efficiency) == (1.5, 0.75)
    assert (four.images_per_second, four.speed_up, four.efficiency) == (2500, 2.5, 0.625)
    assert two.step_seconds == pytest.approx(256 / 1500)
    assert two.shares == SHARES


def test_the_base_is_the_smallest_point_with_a_result_of_each_mode() -> None:
    points = [strong(2), strong(4), weak(1), weak(2)]
    records = [
        record(strong(2), speed=500),
        record(strong(4), speed=800),
        record(weak(1), reason="broken"),
        record(weak(2), speed=300),
    ]
    summary = summarise(points, records)
    assert [row.measured and row.measured.efficiency for row in summary.rows] == [1, 0.8, None, 1]
    assert [row.failed for row in summary.rows] == [0, 0, 1, 0]
    strong_note, weak_note = summary.footnotes
    assert "relative to 2 ranks" in strong_note
    assert "relative to 2 ranks" in weak_note
    assert not summary.is_good


def test_bits_must_agree_wherever_the_same_was_computed() -> None:
    results = {Job(point, 1): result_of(point) for point in (strong(1), strong(2), weak(1))}
    results[Job(weak(2), 1)] = result_of(weak(2), params_sha256=B)
    words, lines = compare_bits(results)
    assert lines == []
    assert words == {strong(1): "same", strong(2): "same", weak(1): "same", weak(2): "alone"}


def test_a_repeat_with_other_bits_is_found_and_named() -> None:
    records = [
        record(strong(1), 1),
        record(strong(2), 1),
        record(strong(2), 2, params_sha256=B, software={"numpy": "3"}),
        record(strong(4), 1),
        record(strong(2), 3),
    ]
    summary = summarise([strong(1), strong(2), strong(4)], records)
    assert [row.bits for row in summary.rows] == ["same", "DIFFERENT", "same"]
    assert not summary.is_good
    (line,) = summary.footnotes
    for words in ("strong-2-ranks-repeat-2 ", A[:16], B[:16], "numpy was '2', is '3'"):
        assert words in line


def test_the_fast_sum_promises_no_bits() -> None:
    records = [
        record(strong(1), reduction="fast"),
        record(strong(2), reduction="fast", params_sha256=B),
    ]
    summary = summarise([strong(1), strong(2)], records)
    assert [row.bits for row in summary.rows] == ["not promised"] * 2
    assert summary.is_good


def test_footnotes_on_cores_and_balance() -> None:
    crowded = Point("strong", 3, 4, 64)
    records = [record(crowded, crowd="3 ranks on 2 cores of host h1"), record(weak(2))]
    text = "\n".join(summarise([crowded, weak(2)], records).footnotes)
    assert "3 ranks on 2 cores of host h1" in text
    assert "at most 67% efficiency" in text


def test_all_files_and_the_table(sweep: Sweep) -> None:
    records = [
        record(strong(1), 1, 6883.4),
        record(strong(2), 1, 10_000),
        record(strong(2), 2, reason='it said: "no"'),
    ]
    summary = summarise([strong(1), strong(2)], records)
    lines = list(table(summary, sweep))
    assert lines[2].split()[:4] == ["strong", "1", "1", "6,883"]
    assert lines[3].endswith("same  (1 of 2 failed)")
    assert any('it said: "no"' in line and "repeat-2.log" in line for line in lines)
    write_results(sweep, records, summary)
    content = json.loads((sweep.path / "scaling.json").read_text())
    assert content["rows"][1]["efficiency"] == pytest.approx(10_000 / 6883.4 / 2)
    assert len(content["measurements"]) == 3
    assert content["rows"][1]["failed"] == 1
    assert (sweep.path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_no_result_at_all(sweep: Sweep) -> None:
    records = [record(strong(1), reason="broken"), record(strong(2), reason="late")]
    summary = summarise([strong(1), strong(2)], records)
    assert [row.measured for row in summary.rows] == [None, None]
    assert any("strong, 2 ranks, repeat 1: late" in line for line in table(summary, sweep))
    assert not any("picture" in line for line in write_results(sweep, records, summary))


def test_the_picture_shows_all_points_with_a_result() -> None:
    points = [strong(1), strong(2), strong(4), weak(1), weak(2)]
    records = [
        record(strong(1), 1, 1000.0),
        record(strong(1), 2, 3000.0),
        record(strong(2), reason="no"),
        record(strong(4), speed=4000.0),
        record(weak(1)),
    ]
    speed, efficiency, bars, _ = sweep_figure(summarise(points, records), "lenet for $1").axes
    measured, ideal = speed.lines[0], speed.lines[1]
    assert list(measured.get_xdata()) == [1, 4]
    assert list(measured.get_ydata()) == [2000, 4000]
    assert list(ideal.get_ydata()) == [2000, 8000]
    assert list(efficiency.lines[0].get_ydata()) == [1, 0.5]
    assert [label.get_text() for label in bars.get_xticklabels()] == ["1", "4"]

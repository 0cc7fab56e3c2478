"""Medians, spread, speed-up, efficiency, split, bits and remarks, computed by hand."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from distcnn.scaling.csv_files import measurements_sheet, points_sheet
from distcnn.scaling.footnotes import remarks
from distcnn.scaling.points import Point
from distcnn.scaling.reproducibility import compare_bits
from distcnn.scaling.summary import summarise
from distcnn.scaling.table import table
from tests.support.sweep_cases import HALF, record, split_of, strong, weak

A, B = "a" * 64, "b" * 64


def test_rows_by_hand() -> None:
    points = [strong(1), strong(2), strong(4)]
    records = [
        *(
            record(strong(1), repeat, speed)
            for repeat, speed in enumerate((900.0, 1000.0, 1300.0), 1)
        ),
        *(
            record(strong(2), repeat, speed)
            for repeat, speed in enumerate((1800.0, 1500.0, 1000.0), 1)
        ),
        *(record(strong(4), repeat, speed) for repeat, speed in enumerate((2000.0, 3000.0), 1)),
    ]
    one, two, four = summarise(points, records).rows
    assert (one.images_per_second, one.images_per_second_min, one.images_per_second_max) == (
        1000,
        900,
        1300,
    )
    assert (one.speed_up, one.efficiency, one.efficiency_min, one.efficiency_max) == (
        1,
        1,
        0.9,
        1.3,
    )
    assert (two.speed_up, two.efficiency, two.efficiency_min, two.efficiency_max) == (
        1.5,
        0.75,
        0.5,
        0.9,
    )
    assert (four.images_per_second, four.speed_up, four.efficiency) == (2500, 2.5, 0.625)
    assert two.step_seconds == pytest.approx(256 / 1500)
    assert (one.hosts, two.measured, two.failed) == (1, 3, 0)


def test_the_base_is_the_smallest_point_with_a_result_of_each_mode() -> None:
    points = [strong(2), strong(4), weak(1), weak(2)]
    records = [
        record(strong(2), speed=500),
        record(strong(4), speed=800),
        record(weak(1), reason="broken"),
        record(weak(2), speed=300),
    ]
    summary = summarise(points, records)
    assert summary.bases == {"strong": 2, "weak": 2}
    of_two, of_four, missing, alone = summary.rows
    assert (of_two.efficiency, of_four.speed_up, of_four.efficiency) == (1, 1.6, 0.8)
    assert (missing.efficiency, missing.failed, missing.bits) == (None, 1, "-")
    assert (alone.speed_up, alone.efficiency) == (1, 1)
    text = remarks(points, records, summary)
    assert "strong: speed-up and efficiency are against 2 ranks, the smallest number here" in text
    assert "weak: 1 rank failed, so speed-up and efficiency are against 2 ranks" in text
    assert not summary.all_good


def test_the_split_is_of_the_measurement_with_the_median_step_and_adds_up() -> None:
    slow = {**HALF, "compute": 0.3, "waiting": 0.35}
    records = [
        record(strong(2), 1, split_step=0.5),
        record(strong(2), 2, split_step=0.2),
        record(strong(2), 3, split_step=0.3),
    ]
    middle = records[2].result
    assert middle is not None
    middle["split"] = {
        "mean": split_of(0.3, slow),
        "slowest_rank": 1,
        "ranks": [split_of(0.3, slow), split_of(0.3, HALF)],
    }
    (row,) = summarise([strong(2)], records).rows
    assert row.split == pytest.approx(slow)
    assert row.split_slowest == pytest.approx(HALF)
    assert row.split_step_seconds == pytest.approx(0.3)
    assert sum(row.split.values()) == pytest.approx(1)


def test_no_result_at_all() -> None:
    records = [record(strong(1), reason="broken"), record(strong(2), reason="late")]
    summary = summarise([strong(1), strong(2)], records)
    assert [row.images_per_second for row in summary.rows] == [None, None]
    assert (summary.bases, summary.all_good) == ({}, False)
    text = table(summary, remarks([strong(1), strong(2)], records, summary), Path("runs/x"))
    assert (
        "strong, 2 ranks, repeat 1: late (log: runs/x/measurements/strong-2-ranks-repeat-1.log)"
        in text
    )


def test_bits_must_agree_wherever_the_same_was_computed() -> None:
    same = compare_bits(
        [record(strong(1)), record(strong(2)), record(weak(1)), record(weak(2), sha256=B)]
    )
    assert same.differences == []
    assert [same.of(each) for each in (strong(1), strong(2), weak(1), weak(2), strong(4))] == [
        "same",
        "same",
        "same",
        "alone",
        "-",
    ]


def test_a_repeat_with_other_bits_is_noticed_and_named() -> None:
    records = [
        record(strong(1), 1),
        record(strong(2), 1),
        record(strong(2), 2, sha256=B),
        record(strong(4), 1),
        record(strong(2), 3),
    ]
    bits = compare_bits(records)
    assert [bits.of(strong(ranks)) for ranks in (1, 2, 4)] == ["same", "DIFFERENT", "same"]
    (line,) = bits.differences
    most = "strong, 1 rank, repeat 1; strong, 2 ranks, repeats 1 3; strong, 4 ranks, repeat 1"
    assert (
        line
        == f"bits differ at 4 shards of 64: weights {A[:16]} ({most}), {B[:16]} (strong, 2 ranks,"
        " repeat 2)"
    )
    summary = summarise([strong(1), strong(2), strong(4)], records)
    assert not summary.all_good
    assert [row.params_sha256 for row in summary.rows] == [A, None, A]


def test_other_software_is_named_where_bits_differ() -> None:
    (line,) = compare_bits(
        [record(strong(1)), record(strong(2)), record(strong(4), sha256=B, software={"numpy": "3"})]
    ).differences
    assert line.endswith("the software or the processor was not the same: numpy was '2', is '3'")


def test_the_fast_sum_promises_no_bits() -> None:
    points = [strong(1), strong(2)]
    records = [record(strong(1), reduction="fast"), record(strong(2), sha256=B, reduction="fast")]
    summary = summarise(points, records)
    assert [row.bits for row in summary.rows] == ["unpromised"] * 2
    assert summary.all_good
    assert "fast sum" in table(summary, [], Path())
    assert "--reduction fast promises no bits: they were not compared" in remarks(
        points, records, summary
    )


def test_remarks_on_crowds_balance_and_padding() -> None:
    points = [Point("strong", 3, 4, 64), weak(2)]
    two_hosts = {"hosts": ["h1", "h2"], "cores_of_hosts": {"h1": 1, "h2": 1}}
    records = [record(points[0], train_examples=200), record(weak(2), **two_hosts)]
    lines = remarks(points, records, summarise(points, records))
    assert (
        "strong, 3 ranks: 3 of them share 2 cores of h1: more ranks than cores cannot scale"
        in lines
    )
    assert (
        "strong, 3 ranks: 4 shards do not divide evenly, some ranks have 2, others 1: at most 67%"
        " efficiency" in lines
    )
    assert any(
        line.startswith(
            "strong, 3 ranks: a step has room for 256 examples, but the set has only 200"
        )
        for line in lines
    )
    assert not [line for line in lines if line.startswith("weak, 2 ranks: 1 of them")]


def test_of_crowded_hosts_the_worst_is_named() -> None:
    hosts = {"hosts": ["a", "a", "b", "b", "b", "c"], "cores_of_hosts": {"a": 1, "b": 1, "c": 1}}
    records = [record(strong(6, 6), **hosts)]
    _, line = remarks([strong(6, 6)], records, summarise([strong(6, 6)], records))
    assert (
        line
        == "strong, 6 ranks: 3 of them share 1 core of b (and so on 1 more host): more ranks than"
        " cores cannot scale"
    )


def test_measurements_that_are_far_apart_are_remarked() -> None:
    points = [strong(1), strong(2)]
    records = [
        record(strong(1), 1, 100.0),
        record(strong(1), 2, 150.0),
        record(strong(2), 1, 100.0),
        record(strong(2), 2, 151.0),
    ]
    (line,) = remarks(points, records, summarise(points, records))
    assert line.startswith(
        "the fastest measurement is more than 1.5 times the slowest at strong 2: something else"
        " used the machine"
    )


def test_sheets_have_a_row_for_each() -> None:
    points = [strong(1), strong(2)]
    records = [
        record(strong(1), 1, 1000.0),
        record(strong(1), 2, 3000.0),
        record(strong(2), 1, reason='it said: "no", twice'),
        record(strong(2), 2, 3000.0),
    ]
    rows = list(csv.DictReader(io.StringIO(points_sheet(summarise(points, records).rows))))
    assert [
        (row["ranks"], row["images_per_second"], row["efficiency"], row["failed"]) for row in rows
    ] == [("1", "2000.0", "1.0", "0"), ("2", "3000.0", "0.75", "1")]
    assert float(rows[0]["waiting_fraction"]) == pytest.approx(0.15)
    rows = list(csv.DictReader(io.StringIO(measurements_sheet(records))))
    assert [(row["ranks"], row["repeat"], row["ok"]) for row in rows] == [
        ("1", "1", "True"),
        ("1", "2", "True"),
        ("2", "1", "False"),
        ("2", "2", "True"),
    ]
    assert (rows[2]["reason"], rows[2]["images_per_second"]) == ('it said: "no", twice', "")
    assert float(rows[0]["split_data_seconds"]) == pytest.approx(0.05 * 0.256)


def test_the_table_shows_failures_beside_what_was_measured() -> None:
    records = [
        record(strong(1), 1, 6883.4),
        record(strong(2), 1, 10000.0),
        record(strong(2), 2, reason="exit code 7"),
    ]
    text = table(summarise([strong(1), strong(2)], records), ["mind this"], Path("d"))
    lines = text.splitlines()
    assert (
        " ".join(lines[2].split())
        == "strong 1 1 6,883 [6,883 .. 6,883] 37.19 1.00 100.0% 50.0 10.0 20.0 15.0 5.0 same"
    )
    assert lines[3].endswith("same  (1 of 2 failed)")
    assert "remark    mind this" in lines
    assert (
        "failed    strong, 2 ranks, repeat 2: exit code 7 (log:"
        " d/measurements/strong-2-ranks-repeat-2.log)" in lines
    )

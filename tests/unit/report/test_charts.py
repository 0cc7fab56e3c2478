"""Charts: what is drawn, told and listed, in the colours of the page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from distcnn.report.charts import MOST_ROWS, Chart, bar_chart, curve_charts, legend
from distcnn.report.records import RunRecords
from tests.unit.report.conftest import MakeRecords


def numbers(chart: Chart) -> list[tuple[str, ...]]:
    return list(chart.table.rows)


def test_what_was_not_recorded_has_no_chart(make_records: MakeRecords) -> None:
    assert curve_charts([make_records("a")]) == []
    [chart] = curve_charts([make_records("a", learning_rate=[(1, 0.5), (2, 0.25)])])
    assert chart.title == "Learning rate"
    assert numbers(chart) == [("1", "0.5"), ("2", "0.25")]
    assert "0.5 at step 1 to 0.25 at step 2" in chart.text


def test_training_validation_and_test_are_columns_of_one_table(make_records: MakeRecords) -> None:
    curves = {"loss": [(1, 2.0), (2, 1.0)], "test_loss": [(2, 1.5)], "validation_loss": [(2, 1.2)]}
    run = make_records("a", **curves)
    [chart] = curve_charts([run])
    assert chart.table.header == ("step", "training", "validation", "test")
    assert numbers(chart) == [("1", "2", "", ""), ("2", "1", "1.2", "1.5")]
    assert [key.name for key in legend([run])] == ["training", "validation", "test"]


def test_several_runs_differ_in_colour_and_kinds_in_dashes(make_records: MakeRecords) -> None:
    runs = [
        make_records(name, train_accuracy=[(1, 0.5)], test_accuracy=[(1, 0.4)]) for name in "ab"
    ]
    [chart] = curve_charts(runs)
    assert chart.table.header == ("step", "a training", "a test", "b training", "b test")
    keys = {key.name: key for key in legend(runs)}
    assert keys["a"].colour != keys["b"].colour
    assert keys["training"].dash != keys["test"].dash
    assert keys["training"].marker != keys["test"].marker
    many = legend([make_records(str(number), loss=[(1, 0.5)]) for number in range(12)])[:12]
    assert len({(key.colour, key.width) for key in many}) == 12


def test_a_loss_over_many_decades_has_powers_of_ten_on_its_axis(make_records: MakeRecords) -> None:
    [chart] = curve_charts([make_records("a", loss=[(0, 2.5), (9, 5e-5)])])
    assert "log" in chart.title
    values = [float(text) for text in re.findall(r">(\d[\d.e-]*)</text>", chart.svg)]
    assert [value for value in values if 0 < value < 1] == [0.0001, 0.001, 0.01, 0.1]


@pytest.mark.parametrize("loss", [0.0, -1.0, 1e-300, 1e300])
def test_any_finite_number_can_be_drawn(loss: float, make_records: MakeRecords) -> None:
    assert len(curve_charts([make_records("a", loss=[(0, 1.0), (2**52, loss)])])) == 1


def test_a_long_curve_stays_small_and_keeps_its_peak(make_records: MakeRecords) -> None:
    curve = [(step, 1.0) for step in range(1, 100_001)]
    curve[54_321] = (54_322, 50.0)
    [chart] = curve_charts([make_records("a", loss=curve)])
    assert len(chart.svg) < 40_000
    assert len(chart.table.rows) == MOST_ROWS
    assert "40 of 100,000" in chart.table.caption
    flat = [(step, 1.0 + step % 2 / 100) for step in range(1, 100_001)]
    [plain] = curve_charts([make_records("a", loss=flat)])
    assert len(set(re.findall(r"L [\d.]+ ([\d.]+)", chart.svg))) >= 2, "the peak is drawn"
    assert plain.svg != chart.svg


def test_a_chart_is_well_formed_and_has_no_colour_of_its_own(records: RunRecords) -> None:
    charts = curve_charts([records])
    for chart in [*charts, bar_chart("t", "x", {"$a&<b": {"p": 1.0}}, "run", "s", ".1f", "bars")]:
        root = ET.fromstring(chart.svg.replace("xlink:href", "href"))
        assert not {"width", "height"} & root.attrib.keys()
        assert not re.search(r"#[0-9a-f]{6}\b|<style|<metadata|https?://(?!www.w3.org)", chart.svg)
    ids = [found for chart in charts for found in re.findall(r' id="([^"]+)"', chart.svg)]
    assert len(ids) == len(set(ids)), "ids are unique on the page"
    used = {
        found
        for chart in charts
        for found in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', chart.svg)
    }
    assert {name for pair in used for name in pair if name} <= set(ids)
    assert "$a&amp;&lt;b" in bar_chart("t", "x", {"$a&<b": {"p": 1}}, "run", "s", "g", "b").svg

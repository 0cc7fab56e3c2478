"""The picture of a prediction: what it holds, and that any number of networks can be drawn."""

from __future__ import annotations

import pytest

from distcnn.scaling.plot import draw
from distcnn.scaling.prediction.interconnect import Line
from distcnn.scaling.prediction.options import Wanted
from distcnn.scaling.prediction.plot import content_of
from distcnn.scaling.prediction.predict import project
from distcnn.scaling.summary import summarise
from tests.support.prediction_cases import calibration, measured, network_of
from tests.support.sweep_cases import weak


@pytest.mark.parametrize("count", [1, 3, 6])
def test_a_line_for_each_network_and_dots_for_what_was_measured(count: int) -> None:
    pytest.importorskip("matplotlib")
    networks = [
        network_of(Line(1e-4 * (number + 1), 1e-9), f"network {number}") for number in range(count)
    ]
    points = [weak(1), weak(2)]
    found = project(calibration(), points, Wanted((1, 2, 4, 64)), networks)
    content = content_of(found, summarise(points, [measured(each) for each in points]))
    assert [curve.line for curve in content.speed] == ["--"] * count + ["o"]
    assert content.efficiency[-1].values[0] == pytest.approx(1)
    assert len(content.bars) == min(count, 4)
    assert sum(content.bars["network 0"][2].fractions.values()) == pytest.approx(1)
    assert draw(content).startswith(b"\x89PNG")

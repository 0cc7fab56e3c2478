"""What is drawn, and that it can be."""

from __future__ import annotations

import pytest

from distcnn.scaling.plot import Curve, content_of, draw
from distcnn.scaling.summary import summarise
from tests.support.sweep_cases import HALF, record, strong, weak

POINTS = [strong(1), strong(2), strong(4), weak(1), weak(2)]


def test_content_is_the_points_that_have_a_result() -> None:
    records = [
        record(strong(1), 1, 1000.0),
        record(strong(1), 2, 3000.0),
        record(strong(2), reason="no"),
        record(strong(4), speed=4000.0),
    ]
    content = content_of(summarise(POINTS, records), "title")
    measured, ideal = content.speed
    assert (measured.label, measured.ranks, measured.values) == ("strong", [1, 4], [2000, 4000])
    assert (measured.low, measured.high) == ([1000, 4000], [3000, 4000])
    assert (ideal.label, ideal.values) == ("strong, ideal", [2000, 8000])
    (efficiency,) = content.efficiency
    assert efficiency.values == [1, 0.5]
    assert [bar.ranks for bar in content.bars["strong"]] == [1, 4]
    assert content.bars["strong"][1].fractions == pytest.approx(HALF)
    assert "weak" not in content.bars


@pytest.mark.parametrize(
    "points", [POINTS[:1], POINTS[:3], POINTS], ids=["one point", "strong", "both"]
)
def test_it_is_drawn_with_more_curves_if_there_are(points: list[object]) -> None:
    records = [record(each) for each in POINTS if each in points]
    content = content_of(summarise([each for each in POINTS if each in points], records), "a title")
    content.speed.append(Curve("another", "#000000", [1, 4096], [1000, 1e6], line=":"))
    assert draw(content).startswith(b"\x89PNG")

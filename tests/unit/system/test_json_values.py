"""Dataclasses survive JSON, and a value of another type is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from distcnn.system.json_values import from_json, to_json


@dataclass(frozen=True)
class Inner:
    count: int
    sizes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner | None = None
    rate: float = 1.0
    open: bool = False


@pytest.mark.parametrize("item", [Outer("a"), Outer("b", Inner(3, (1.5, 2.0)), 0.1, True)])
def test_a_dataclass_survives_json(item: Outer) -> None:
    assert from_json(Outer, to_json(item)) == item


def test_missing_values_take_their_defaults_and_unknown_ones_are_skipped() -> None:
    assert from_json(Outer, {"name": "a", "colour": 3}) == Outer("a")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("x", "Outer is 'x'"),
        ({}, "name"),
        ({"name": 1}, "name is 1"),
        ({"name": "a", "rate": True}, "rate is True"),
        ({"name": "a", "open": 1}, "open is 1"),
        ({"name": "a", "inner": "x"}, "inner is 'x'"),
        ({"name": "a", "inner": {"count": 1.0}}, "count is 1.0"),
        ({"name": "a", "inner": {"count": 1, "sizes": "x"}}, "sizes is 'x'"),
        ({"name": "a", "inner": {"count": 1, "sizes": ["x"]}}, "sizes is 'x'"),
    ],
)
def test_what_is_missing_or_of_another_type_is_named(values: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        from_json(Outer, values)

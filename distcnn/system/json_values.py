"""Dataclasses to and from JSON, the same for every file that stores one."""

from __future__ import annotations

import dataclasses
import json
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_json(item: Any) -> dict[str, Any]:
    """The dataclass ``item`` as plain JSON values: a copy, tuples as lists."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(item)))
    return values


def from_json(kind: type[T], values: Any, name: str = "") -> T:
    """The dataclass that ``to_json`` gave; missing values take their defaults, others are skipped.

    Fields are numbers, texts, dataclasses, tuples, lists and dicts of these, or such or None.
    ``TypeError`` names the first value that is missing or of another type.
    """
    if not isinstance(values, dict):
        raise TypeError(f"{name or kind.__name__} is {values!r}")
    types = get_type_hints(kind)
    return kind(**{key: _checked(key, values[key], types[key]) for key in types if key in values})


def _checked(name: str, value: Any, kind: Any) -> Any:
    allowed, origin = get_args(kind), get_origin(kind)
    if origin in (tuple, list) and isinstance(value, list):
        return origin(_checked(name, each, allowed[0]) for each in value)
    if origin is dict and isinstance(value, dict):
        return {key: _checked(name, each, allowed[1]) for key, each in value.items()}
    if NoneType in allowed:
        return None if value is None else _checked(name, value, allowed[0])
    if dataclasses.is_dataclass(kind):
        return from_json(kind, value, name)  # type: ignore[arg-type]
    if type(value) not in ((int, float) if kind is float else (kind,)):
        raise TypeError(f"{name} is {value!r}")
    return value

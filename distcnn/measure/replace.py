"""Put something else in an attribute's place for a while: how instruments get in, and out again without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """While it is entered, ``owner.name`` is ``make(what it was)``: an object's own attribute, which hides its class's method."""
    before = getattr(owner, name)
    own = name in vars(owner)
    setattr(owner, name, make(before))
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)

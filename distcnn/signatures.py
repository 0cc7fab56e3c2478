"""Calls that do not fit their signature: the error says how to write them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

Self = TypeVar("Self")
P = ParamSpec("P")


class ArgumentError(TypeError, ValueError):
    """Arguments that do not fit: as Python's own ``TypeError``, with the remedy."""


def explained(
    usage: str,
) -> Callable[[Callable[Concatenate[Self, P], None]], Callable[Concatenate[Self, P], None]]:
    """Decorate an ``__init__``: arguments that do not fit its signature raise ``ArgumentError``,
    which shows the call and ``usage``.
    """

    def decorate(
        init: Callable[Concatenate[Self, P], None],
    ) -> Callable[Concatenate[Self, P], None]:
        signature = inspect.signature(init)

        @wraps(init)
        def call(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> None:
            try:
                signature.bind(self, *args, **kwargs)
            except TypeError as error:
                written = ", ".join(
                    [
                        *map(_shown, args),
                        *(f"{name}={_shown(value)}" for name, value in kwargs.items()),
                    ]
                )
                raise ArgumentError(f"{type(self).__name__}({written}): {error}: {usage}") from None
            init(self, *args, **kwargs)

        return call

    return decorate


def _shown(value: object) -> str:
    """A number or text as it was typed; the type of anything longer."""
    return (
        repr(value)
        if isinstance(value, (int, float, str, tuple, type(None)))
        else f"<{type(value).__name__}>"
    )

"""The exceptions that concern users; any other exception is a defect of distcnn."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

Self = TypeVar("Self")
P = ParamSpec("P")


class InputError(ValueError):
    """Bad input (a flag, a file, a launcher). Its text is one line: what is wrong, its value, the
    remedy.

    Commands print it on rank 0 and end every rank with exit code 2; any other exception is a defect
    and shows a traceback.
    """


class TrainingError(RuntimeError):
    """Training cannot continue: a gradient is NaN or out of range.

    Raised on all ranks at the same step; exit code 3.
    """


class Stopped(Exception):
    """A signal asked the run to stop, and it did, on all ranks at the same step: exit code 85, on
    which a scheduler may requeue.
    """


class ArgumentError(TypeError, ValueError):
    """Wrong arguments: like Python's own ``TypeError``, with the remedy."""


def as_arguments(text: str) -> str:
    """A command-line message as a Python one: ``--num-shards 8`` becomes ``num_shards=8``.

    Commands to type, which end their line, stay as they are.
    """

    def argument(found: re.Match[str]) -> str:
        name, value = found.group(1).replace("-", "_"), found.group(2)
        return f"{name}={value.strip()}" if value else name

    def converted(line: str) -> str:
        words, command, flags = line.partition("python -m distcnn.")
        words = re.sub(r"(?<![\w-])--(resume|output) ([^\s:;,]+)", r"\1='\2'", words)
        flag = r"(?<![\w-])--([a-z][a-z-]*[a-z])( [\d.]+(?![\w.]))?"
        return re.sub(flag, argument, words) + command + flags

    return "".join(map(converted, text.splitlines(keepends=True)))


@contextmanager
def arguments_named() -> Iterator[None]:
    """Make errors raised inside name Python arguments instead of flags."""
    try:
        yield
    except (InputError, TrainingError, Stopped) as error:
        error.args = (as_arguments(str(error)), *error.args[1:])
        raise


def explained(
    usage: str,
) -> Callable[[Callable[Concatenate[Self, P], None]], Callable[Concatenate[Self, P], None]]:
    """Decorate an ``__init__``: arguments that do not match its signature raise ``ArgumentError``,
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
    """The literal of a number or text; the type of anything longer."""
    return (
        repr(value)
        if isinstance(value, (int, float, str, tuple, type(None)))
        else f"<{type(value).__name__}>"
    )

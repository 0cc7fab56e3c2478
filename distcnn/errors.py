"""The exceptions that concern users; any other exception is a defect of distcnn."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

Init = TypeVar("Init", bound=Callable[..., None])


class InputError(ValueError):
    """Bad input (a flag, a file, a launcher), in one line: what is wrong, its value, the remedy.

    Commands print it on rank 0 and end every rank with exit code 2.
    """


class TrainingError(RuntimeError):
    """Training cannot continue, such as for a gradient that is NaN: on all ranks at the same step.

    Exit code 3.
    """


class Stopped(Exception):
    """A signal asked the run to stop, and it did, on all ranks at the same step.

    Exit code 85, on which a scheduler may requeue.
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


def explained(usage: str) -> Callable[[Init], Init]:
    """Decorate an ``__init__``: for arguments that do not match, ``ArgumentError`` shows the call
    and ``usage``.
    """

    def decorate(init: Init) -> Init:
        signature = inspect.signature(init)

        @wraps(init)
        def call(self: object, /, *args: Any, **kwargs: Any) -> None:
            try:
                signature.bind(self, *args, **kwargs)
            except TypeError as error:
                named = (f"{name}={_shown(value)}" for name, value in kwargs.items())
                written = ", ".join([*map(_shown, args), *named])
                raise ArgumentError(f"{type(self).__name__}({written}): {error}: {usage}") from None
            init(self, *args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def _shown(value: object) -> str:
    is_short = isinstance(value, int | float | str | tuple | None)
    return repr(value) if is_short else f"<{type(value).__name__}>"

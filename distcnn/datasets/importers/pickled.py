"""Python pickles that hold only numbers, texts, lists, dictionaries and NumPy arrays.

A pickle is a program, which may call any function that it can import. Here it finds three names,
NumPy's for arrays, and gets inert stand-ins for them, so nothing of what it names is run. What is
dangerous to Python's own interpreter of pickles is refused before it starts.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Container
from typing import Any

import numpy as np

from distcnn.datasets.importers.source import Array, as_text, damage_named
from distcnn.errors import InputError
from distcnn.system.wording import printable

MOST_OPERATIONS = 10**6
MOST_TUPLES = 1000
"""Tuples may be nested; to hash a deep nest would exhaust the stack."""
NUMBERS = "biuf"


class NotPlainError(InputError):
    """The pickle wants something other than plain data."""


class _Type:
    """A NumPy type in a pickle: ``numpy.dtype("u1", ...)``, of which the text decides."""

    def __init__(self, text: Any = "", *_: Any) -> None:
        self.text = text.decode("ascii") if isinstance(text, bytes) else str(text)
        self.order = "|"

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        self.order = order.decode("ascii") if isinstance(order, bytes) else str(order)

    def numpy(self) -> np.dtype[Any]:
        found = np.dtype(self.text)
        if found.kind not in NUMBERS or found.names or found.subdtype:
            raise NotPlainError(f"an array of {self.text!r}")
        return found.newbyteorder(">") if self.order == ">" else found


class _Array:
    """A NumPy array in a pickle: made empty, then given (version, shape, type, order, bytes)."""

    def __init__(self, *_: Any) -> None:
        self.array: Array | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, type_, is_fortran, raw = state
        if not (isinstance(type_, _Type) and isinstance(raw, bytes) and isinstance(shape, tuple)):
            raise NotPlainError("an array of Python objects")
        self.array = _filled(raw, type_, shape, "F" if is_fortran else "C")


def _filled(raw: Any, type_: Any, shape: Any, order: Any) -> Array:
    dtype = type_.numpy()
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise NotPlainError(f"an array of shape {shape} with {len(raw)} bytes")
    return np.frombuffer(raw, dtype).reshape(shape, order=order)


def _from_buffer(raw: Any, type_: Any, shape: Any, order: Any) -> _Array:
    """Protocol 5's way to make an array."""
    made = _Array()
    made.array = _filled(bytes(raw), type_, shape, order)
    return made


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, encoding: Any) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1" or not isinstance(text, str):
        raise NotPlainError("another encoding")
    return text.encode("latin1")


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
    **{
        (module, name): function
        for package in ("numpy.core", "numpy._core")
        for module, name, function in (
            (f"{package}.multiarray", "_reconstruct", _reconstruct),
            (f"{package}.numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise NotPlainError(f"{module}.{name}")
        return ALLOWED[module, name]


def unpickled(content: bytes, name: str) -> dict[str, Any]:
    """The dictionary in a pickle, its keys as text; ``name`` is for messages.

    Raises:
        InputError: When it is damaged, or holds anything but plain data: no code in it is run.
    """
    with damage_named(name):
        try:
            require_harmless(content, ALLOWED)
            found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        except NotPlainError as error:
            raise InputError(
                f"{name} is a pickle of more than plain data ({printable(str(error))[:80]}), which"
                " may run code: it was not run; fetch it from a place that you trust"
            ) from error
    if not isinstance(found, dict):
        raise InputError(f"{name} is a pickle of {type(found).__name__}, not of a dictionary")
    return {
        as_text(key): value.array if isinstance(value, _Array) else value
        for key, value in found.items()
        if isinstance(key, str | bytes)
    }


def require_harmless(
    content: bytes, allowed: Container[tuple[str, ...]], most_tuples: int = MOST_TUPLES
) -> None:
    """Read the operations without running them; ``NotPlainError`` for those that could exhaust
    memory or stack, or that name anything but the (module, name) of ``allowed``.
    """
    tuples = 0
    for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
        tuples += operation.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
        is_far = "PUT" in operation.name and argument is not None and argument > count
        if count > MOST_OPERATIONS or tuples > most_tuples or is_far:
            raise NotPlainError("more memory than its content needs")
        if operation.name == "GLOBAL" and tuple(str(argument).split(" ", 1)) not in allowed:
            raise NotPlainError(str(argument).replace(" ", "."))

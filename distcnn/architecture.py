"""A network as text, and back: a run can be loaded without the code that made its network.

The text is Python as one would write it, ``Sequential([Flatten(), my_layers.Dropout(0.5), ...])``,
but it is parsed, never run. Arguments are plain values, or one of distcnn's initialisers by name.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from distcnn import nn
from distcnn.errors import InputError
from distcnn.nn import Layer, Sequential
from distcnn.nn.layer import same

LAYERS: dict[str, type[Layer]] = {
    name: kind
    for name in nn.__all__
    if isinstance(kind := getattr(nn, name), type) and issubclass(kind, Layer)
}
INITIALISERS: dict[str, Callable[..., Any]] = {
    made.__name__: made for made in (nn.he_normal, nn.glorot_uniform, nn.zeros)
}
PLAIN_TYPES = (bool, int, float, str, type(None))


def describe(model: Sequential, initialisers: bool = True) -> str:
    """``model`` as text; a network whose weights are given does not need its ``initialisers``.

    ``InputError`` when an argument of a layer cannot be written as text.
    """
    return f"Sequential([{', '.join(_layer(layer, initialisers) for layer in model.layers)}])"


def parse(text: str) -> Sequential:
    """The network that ``text`` describes, as ``describe`` gave it.

    The modules of a user's layers are imported: make sure that the text can be trusted.
    """
    if "<locals>" in text:
        raise InputError(
            f"{text[:200]!r} has a layer whose class was defined inside a function: define it at"
            " the top of a module, or give the network itself (model=...)"
        )
    try:
        made = [_made(node) for node in _layers_in(text)]
    except InputError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(
            f"{text[:200]!r} is not a network: write Sequential([Flatten(), Dense(10)])"
        ) from error
    return Sequential(made)


def described_layers(text: str) -> list[str]:
    """The layers that ``text`` describes, as text: nothing is imported, so it may be anyone's.
    Empty for a text that is not a description.
    """
    try:
        return [ast.unparse(node) for node in _layers_in(text)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _layers_in(text: str) -> list[ast.expr]:
    match ast.parse(text, mode="eval").body:
        case ast.Call(ast.Name("Sequential"), [ast.List(layers)], []):
            return layers
    raise ValueError("not of the form Sequential([...])")


def _layer(layer: Layer, initialisers: bool) -> str:
    kind = type(layer)
    is_ours = LAYERS.get(kind.__name__) is kind
    name = kind.__name__ if is_ours else f"{kind.__module__}.{kind.__qualname__}"
    written = []
    for key, parameter in inspect.signature(kind.__init__).parameters.items():
        if key == "self":
            continue
        if key not in vars(layer):
            raise InputError(
                f"{kind.__name__}: the argument {key} is not kept, so a run cannot record it: write"
                f" self.{key} = {key} in __init__"
            )
        value = getattr(layer, key)
        if same(value, parameter.default) or (callable(value) and not initialisers):
            continue
        shown = _shown(value, shorten=is_ours)
        if shown == repr(parameter.default):
            continue
        if shown is None:
            raise InputError(
                f"{kind.__name__}: {key} is {value!r}: a run can only record plain values and"
                f" distcnn's initialisers ({', '.join(INITIALISERS)}, uniform); name the"
                " network by a function, as package.module:function"
            )
        named = parameter.kind is parameter.KEYWORD_ONLY or parameter.default is not parameter.empty
        written.append(f"{key}={shown}" if named else shown)
    return f"{name}({', '.join(written)})"


def _shown(value: object, shorten: bool) -> str | None:
    """A value as text; None if that is impossible. ``shorten`` writes (5, 5) as 5."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, nn.uniform):
        return repr(value)
    if isinstance(value, tuple) and all(type(item) in PLAIN_TYPES for item in value):
        return repr(value[0] if shorten and len(set(value)) == 1 else value)
    if type(value) in PLAIN_TYPES:
        return repr(value)
    return next((name for name, made in INITIALISERS.items() if made is value), None)


def _made(node: ast.expr) -> Layer:
    if not isinstance(node, ast.Call):
        raise ValueError(f"{ast.unparse(node)} is not a layer")
    name = ast.unparse(node.func)
    module, _, attribute = name.rpartition(".")
    if not module and name not in LAYERS:
        raise InputError(
            f"this distcnn has no layer {name}: use the version that trained the network"
        )
    try:
        kind = LAYERS.get(name) or getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"layer {name} cannot be imported ({error}): put its module on Python's search path"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Layer)):  # never call anything else
        raise InputError(f"{name} is not a distcnn.nn.Layer: derive it from that class")
    given = {keyword.arg or "": _value(keyword.value) for keyword in node.keywords}
    try:
        return kind(*map(_value, node.args), **given)
    except (TypeError, ValueError) as error:
        raise InputError(f"{ast.unparse(node)} cannot be made ({error}): correct it") from error


def _value(node: ast.expr) -> object:
    match node:
        case ast.Name(name) if name in INITIALISERS:
            return INITIALISERS[name]
        case ast.Call(ast.Name("uniform"), [bound], []):
            return nn.uniform(float(ast.literal_eval(bound)))
    return ast.literal_eval(node)

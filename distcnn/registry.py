"""From names to objects: the losses, optimizers and schedules that commands and files name.

A name is one of distcnn's (``adam``), or the user's own as ``package.module:name``, perhaps with
arguments: ``my_code:Lion(beta=0.9)``. Networks are in ``distcnn.models``.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from distcnn.errors import InputError
from distcnn.fault_tolerance.failure import described, mistake_in
from distcnn.nn import LOSSES
from distcnn.nn.losses import Loss
from distcnn.optim import OPTIMIZERS, SCHEDULES, Optimizer, OwnSchedule, Schedule
from distcnn.user_code import is_own

USAGE = {
    "model": "it must take (input_shape, classes) and return a distcnn.nn.Sequential",
    "loss": "it must take (outputs, labels, weights) and return (loss_sum, grad_outputs)",
    "optimizer": "it must be a subclass of distcnn.optim.Optimizer",
    "schedule": "it must take the progress, from 0 to 1, and return a factor of the learning rate",
}
WRITTEN_OUT = "function, or write it out: Sequential([Flatten(), Dense(10)])"
OWN = {"loss": "function", "optimizer": "class", "schedule": "function", "model": WRITTEN_OUT}
OPTIMIZER_SETTINGS = ("learning_rate", "momentum", "weight_decay")
"""The settings of optimizers that have their own flags."""


def find(what: str, name: str, known: Mapping[str, Any]) -> Any:
    """What ``name`` refers to: one of ``known``, or the user's own, which is imported.

    ``what``, of ``USAGE``, is for messages; arguments in brackets are ignored.
    """
    if name in known:
        return known[name]
    if not is_own(name):
        raise InputError(
            f"unknown {what} {name!r}: choose one of {', '.join(known)}, or your own as"
            f" package.module:{OWN[what]}"
        )
    module_name, _, attribute = name.partition("(")[0].partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as error:  # importing runs the module
        mistake, remedy = mistake_in(error), "correct that"
        if not mistake:
            remedy = "give package.module:name, importable from the current folder"
        text = f"{what} {name!r} cannot be imported ({mistake or error}): {remedy}"
        raise InputError(text) from error
    if not callable(found):
        raise InputError(f"{what} {name!r} is not a function or class: {USAGE[what]}")
    return found


def find_loss(name: str) -> Loss:
    """The loss called ``name``, or the user's own."""
    found: Loss = find("loss", name, LOSSES)
    return found


def find_schedule(name: str, warmup_steps: int) -> Schedule:
    """The schedule called ``name``, or the user's own, with its warm-up."""
    found = find("schedule", name, SCHEDULES)
    if isinstance(found, type):
        found = _made("schedule", name, found, {"warmup_steps": warmup_steps})
    if isinstance(found, Schedule):
        return found
    if not callable(found):
        raise InputError(f"schedule {name!r} cannot be called: {USAGE['schedule']}")
    return OwnSchedule(warmup_steps, found)


def find_optimizer(
    name: str, learning_rate: float, momentum: float, weight_decay: float
) -> Optimizer:
    """The optimizer called ``name``, or the user's own, with the settings that it accepts."""
    maker = OPTIMIZERS.get(name.partition("(")[0]) or find("optimizer", name, OPTIMIZERS)
    plain = dict(zip(OPTIMIZER_SETTINGS, (learning_rate, momentum, weight_decay), strict=True))
    made = _made("optimizer", name, maker, plain)
    if not isinstance(made, Optimizer):
        raise InputError(f"optimizer {name!r} made a {type(made).__name__}: {USAGE['optimizer']}")
    return made


def optimizer_name(optimizer: Optimizer) -> str:
    """The name by which ``find_optimizer`` makes ``optimizer`` again."""
    plain = {name: getattr(optimizer, name, 0.0) for name in OPTIMIZER_SETTINGS}
    for name in OPTIMIZERS:
        if find_optimizer(name, **plain) == optimizer:
            return name
    return name_of(type(optimizer), OPTIMIZERS) + _arguments(optimizer, plain)


def schedule_name(schedule: Schedule) -> str:
    """The name by which ``find_schedule`` makes ``schedule`` again, with its warm-up."""
    if isinstance(schedule, OwnSchedule):
        return name_of(schedule.function, {})
    plain = {"warmup_steps": schedule.warmup_steps}
    return name_of(type(schedule), SCHEDULES) + _arguments(schedule, plain)


def name_of(item: Any, known: Mapping[str, Any]) -> str:
    """The name of a function or class: that in ``known``, else package.module:name."""
    ours = next((name for name, value in known.items() if value is item), None)
    module = getattr(item, "__module__", type(item).__module__)
    return ours or f"{module}:{getattr(item, '__qualname__', type(item).__qualname__)}"


def _arguments(item: Any, without: dict[str, Any]) -> str:
    """The arguments that make the dataclass ``item``, in brackets; empty where all are default."""
    if not dataclasses.is_dataclass(item):
        return ""
    written = []
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        if not field.init or field.name in without or value == field.default:
            continue
        if not isinstance(value, bool | int | float | str):
            raise InputError(
                f"{type(item).__name__}: {field.name} is {value!r}: a run can only record numbers"
                " and texts; make it one"
            )
        written.append(f"{field.name}={value!r}")
    return f"({', '.join(written)})" if written else ""


def _made(what: str, name: str, maker: Callable[..., Any], plain: dict[str, Any]) -> Any:
    """What ``maker`` makes of the arguments in ``name`` and those of ``plain`` that it takes."""
    try:
        taken = inspect.signature(maker).parameters
        given = {key: value for key, value in plain.items() if key in taken}
        return maker(**{**given, **_keywords(name)})
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        remedy = USAGE[what] if is_own(name) else "correct its arguments"
        text = mistake_in(error) or described(error)
        raise InputError(f"{what} {name!r} cannot be made ({text}): {remedy}") from error


def _keywords(name: str) -> dict[str, Any]:
    """The arguments in brackets after a name: ``key=value`` with plain values."""
    if "(" not in name:
        return {}
    try:
        call = ast.parse("made" + name[name.index("(") :], mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise ValueError("not of the form name(key=value)")
        return {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(
            f"{name!r} cannot be read ({error}): write arguments as name(key=value)"
        ) from error

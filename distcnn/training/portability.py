"""What of a user's own code is not portable: a line for each part, before a portable run starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from distcnn.nn import LOSSES, Activation, Parameters, Sequential
from distcnn.nn.losses import Loss
from distcnn.optim import Optimizer, OwnSchedule, Schedule
from distcnn.training.operations import Operation, Search

MOST_NAMED = 3
PAGE = "(docs/portable.md)"


def portability_warnings(
    model: Sequential, parameters: Parameters, loss: Loss, optimizer: Optimizer, schedule: Schedule
) -> list[str]:
    """Lines that name the parts of a run whose bits may differ between machines, or that could not
    be checked. Parts of distcnn give none.
    """
    lines: list[str] = []
    for what, part in _parts(model, parameters, loss, optimizer, schedule):
        search = Search()
        search.read(part)
        if search.found:
            lines.append(_warning(what, list(search.found.values())))
        if search.unread:
            lines.append(
                f"warning: portable arithmetic: {what} was not checked, because the source of"
                f" {', '.join(search.unread)} is not read {PAGE}"
            )
    return list(dict.fromkeys(lines))


def _parts(
    model: Sequential, parameters: Parameters, loss: Loss, optimizer: Optimizer, schedule: Schedule
) -> Iterator[tuple[str, Any]]:
    """All parts that may be the user's, with their names for messages."""
    for layer in model.layers:
        kind = "activation" if isinstance(layer, Activation) else "layer"
        yield f"{kind} {type(layer).__name__}", layer
    for described in parameters.described.values():
        yield f"initialiser {_name(described.initialiser)}", described.initialiser
    if all(loss is not known for known in LOSSES.values()):
        yield f"loss {_name(loss)}", loss
    yield f"optimizer {_name(optimizer)}", optimizer
    function = schedule.function if isinstance(schedule, OwnSchedule) else schedule
    yield f"schedule {_name(function)}", function


def _name(part: Any) -> str:
    name = getattr(part, "__name__", type(part).__name__)
    return "(a lambda)" if name == "<lambda>" else str(name)


def _warning(what: str, found: list[Operation]) -> str:
    named = [
        f"{each.name} ({each.file}:{each.line})" if each.file else each.name
        for each in found[:MOST_NAMED]
    ]
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    forms = dict.fromkeys(f".{each.form}" for each in found if each.form)
    remedy = f"use distcnn.nn.portable{', '.join(forms)}" if forms else "use other operations"
    return (
        f"warning: portable arithmetic: {what} uses {', '.join(named)}{more}, whose bits differ"
        f" between machines: {remedy} {PAGE}"
    )

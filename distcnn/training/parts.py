"""Where the parts of a step are, for instruments: the benchmark's split of a step, and the trace.

An instrument is a function that stands in another's place for a while, an attribute of the object
that owns it: it calls what stood there, with the same arguments, and leaves no trace of itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from distcnn.training.step import Step

FORWARD, BACKWARD = "forward", "backward"
DATA, LOSS, SUM = "data", "loss", "local sum"

Work = Callable[..., Any]
Place = tuple[Any, str, str]
"""An object, the attribute that computes, and which part of a step that is."""


def layer_places(step: Step) -> Iterator[Place]:
    """Where the layers compute, in all lanes.

    One place may call another of the same layer, or of the layer that is fused with it.
    """
    for network in {id(lane.network): lane.network for lane in step.timing.lanes}.values():
        for layer, kernel, method, direction in network.instrumented():
            yield kernel, method, part_name(layer, direction)


def shard_places(step: Step) -> Iterator[Place]:
    """Where else a shard's gradient is made and added."""
    for shard in step.shards:
        yield shard, "fill", DATA
    yield step, "loss", LOSS
    yield step.reduction, "add", SUM
    if hasattr(step.reduction, "sum_share"):
        yield step.reduction, "sum_share", SUM


def part_name(layer: str, direction: str) -> str:
    """What a layer's part is called."""
    return f"{layer} {direction}"


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """While it is entered, ``owner.name`` is ``make(what it was)``: an object's own attribute,
    which hides its class's method.
    """
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

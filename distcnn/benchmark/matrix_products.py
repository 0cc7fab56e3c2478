"""The matrix products of a step: recorded as they are called, and replayed alone. What they take is
the bound of the step's speed.

All of ``distcnn.nn`` calls its products ``np.matmul(a, b, out=c)`` or ``np.dot``, looked up when
called (a test reads the source for that). While ``recorded`` is entered, a function of ours stands
in NumPy's place: it makes the call and keeps it with its operands, which are the layers' own
buffers. The replay makes the same calls in the same order on the same memory, so shapes, strides,
alignment and BLAS are the step's; what lies in the operands is whatever the last step left there,
and matters neither to the time nor to the next step, which overwrites every output before it reads
it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from distcnn.training.parts import replaced

FUNCTIONS = ("matmul", "dot")
"""Of NumPy: those that count as matrix products (a matrix times a vector is one too)."""

Function = Callable[..., Any]


@dataclass(frozen=True)
class Product:
    """One call, with what is needed to make it once more.

    ``operations``: multiplications and additions.
    """

    function: Function
    operands: tuple[Any, ...]
    keywords: dict[str, Any]
    operations: int

    def __call__(self) -> None:
        self.function(*self.operands, **self.keywords)


@contextmanager
def recorded() -> Iterator[list[Product]]:
    """The products that this process calls while it is entered, in their order."""
    products: list[Product] = []

    def recorder(function: Function) -> Function:
        def call(*operands: Any, **keywords: Any) -> Any:
            result = function(*operands, **keywords)
            products.append(
                Product(function, operands, keywords, count_operations(operands[0], result))
            )
            return result

        return call

    with ExitStack() as held:
        for name in FUNCTIONS:
            held.enter_context(replaced(np, name, recorder))
        yield products


def count_operations(first: Any, result: Any) -> int:
    """Of a product: each number of the result is a sum over ``first``'s last axis, a multiplication
    and an addition for each term.
    """
    terms = np.shape(first)[-1] if np.ndim(first) else 1
    return 2 * int(np.size(result)) * terms


def operations_of(products: Sequence[Product]) -> int:
    """Of all together."""
    return sum(each.operations for each in products)


def replay_seconds(products: Sequence[Product]) -> float:
    """How long all ``products`` take, one after the other and nothing between."""
    with np.errstate(all="ignore"):
        start = time.perf_counter()
        for product in products:
            product()
        return time.perf_counter() - start

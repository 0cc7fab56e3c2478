"""Shards of a rank computed side by side, on a pool of threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distcnn import spans
from distcnn.datasets import Part
from distcnn.nn import numpy_settings
from distcnn.nn.kernels.arena import allocate
from distcnn.nn.layer import Array
from distcnn.spans import Span
from distcnn.training.step import Counts, Lane, Position, TrainingStep


class SideBySideStep(TrainingStep):
    """Computes as many shards at a time as it has lanes, and adds their gradients in order: the
    same bits as one after another. NumPy lets other threads run while it computes.
    """

    def __init__(self, lanes: Sequence[Lane], *others: Any) -> None:
        from concurrent.futures import ThreadPoolExecutor  # only such runs need it

        super().__init__(lanes, *others)
        self.at_a_time = len(lanes)
        values = self.lane.plan.parameters.values
        self._gradients = [allocate(values.shape, values.dtype) for _ in lanes]
        self._threads = ThreadPoolExecutor(len(lanes), "shards")

    def _add_shards(self, shards: Sequence[Part], at: Position) -> None:
        if self._hooks:  # a debugger needs the main thread, and one shard after another
            super()._add_shards(shards, at)
            return
        for first in range(0, len(shards), len(self.lanes)):
            lanes = list(zip(shards[first:], self.lanes, self._gradients, strict=False))
            running = [self._threads.submit(self._compute, *each, at) for each in lanes]
            for (shard, lane, gradient), future in zip(lanes, running, strict=True):
                with Span(spans.SHARD, shard=shard.index), self.failures.caught(shard, lane):
                    counts = future.result()
                    with self.reducer.slot() as total:
                        np.copyto(total, gradient)
                    self.reducer.count(*counts)

    def _compute(self, shard: Part, lane: Lane, gradient: Array, at: Position) -> Counts:
        """Write the shard's whole gradient to ``gradient``, and return its counts."""
        plan, grad_logits, counts = self._forward(shard, lane, at)
        with numpy_settings():
            plan.backward(grad_logits, out=gradient)
        return counts

"""Overlap: gradients of the last layers are summed while those of the first are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from distcnn import distributed, spans
from distcnn.config import Config
from distcnn.datasets import Part
from distcnn.distributed import Allreduce, Bucket, BucketReducer, Communicator, Totals
from distcnn.nn import numpy_settings
from distcnn.nn.kernels.arena import allocate
from distcnn.nn.losses import Loss
from distcnn.nn.plan import Backward
from distcnn.optim import Updater
from distcnn.random_streams import layer_streams
from distcnn.spans import Span
from distcnn.training.failures import ShardFailures
from distcnn.training.recording import Recording
from distcnn.training.side_by_side import SideBySideStep
from distcnn.training.spot_check import SpotCheck, SpotCheckSchedule
from distcnn.training.step import Counts, Lane, Position, StopRequest, TrainingStep

MOST_LANES = 8
"""Shards of a rank whose backward can be paused: each needs the buffers of a whole plan."""


class OverlappedTrainingStep(TrainingStep):
    """Sums each bucket of the gradient as soon as it is complete: the same bits as without.

    The backward passes of this rank's last ``len(lanes)`` shards are interleaved: all go through
    the layers of the first bucket, whose sum over all ranks then starts, and so on.
    """

    overlaps = True
    reducer: BucketReducer

    def _sum_gradients(self, at: Position) -> Totals:
        whole = len(self.shards) - len(self.lanes)
        self._add_shards(self.shards[:whole], at)
        interleaved = list(zip(self.shards[whole:], self.lanes, strict=True))
        passes: dict[int, tuple[Backward | Recording, Counts]] = {}
        for bucket in self.reducer.buckets:
            for shard, lane in interleaved:
                if shard not in self.failures:
                    span = Span(spans.SHARD, shard=shard.index)
                    with span, self.failures.caught(shard, lane):
                        if bucket.number == 0:
                            passes[shard.index] = self._begin(shard, lane, at)
                        self._add_bucket(bucket, *passes[shard.index])
            if bucket.is_last:
                self._pass_on_stop_request()
            self.reducer.start(bucket)
        return self.reducer.finish()

    def _begin(self, shard: Part, lane: Lane, at: Position) -> tuple[Backward | Recording, Counts]:
        plan, grad_logits, counts = self._forward(shard, lane, at)
        return plan.start_backward(grad_logits, out=self.reducer.gradient), counts

    def _add_bucket(self, bucket: Bucket, backward: Backward | Recording, counts: Counts) -> None:
        """Compute a shard's gradients of ``bucket``, and add them before the next writes there."""
        with numpy_settings():
            backward.advance(until=bucket.start)
        with Span(spans.LOCAL_SUM):
            self.reducer.add(bucket)
        if bucket.is_last:
            self.reducer.count(*counts)


def open_allreduce(wanted: str, reduction: str, communicator: Communicator) -> Allreduce | None:
    """An allreduce in the background, where ``wanted`` (on, off, auto) and possible. Collective.

    auto is on where it was measured to be faster (docs/overlap.md): for the exact sum between
    hosts. Within one host a sum is short, and its thread takes a core from the computation; for
    the fast sum no gain was measurable.
    """
    faster = len(set(communicator.hosts)) > 1 and reduction == "exact"
    on = wanted == "on" or (wanted == "auto" and faster)
    return communicator.background_allreduce() if on else None


def make_step(
    config: Config,
    communicator: Communicator,
    lane: Lane,
    make_lane: Callable[[], Lane],
    loss: Loss,
    updater: Updater,
    shards: Sequence[Part],
    stop_request: StopRequest = lambda: None,
    side_by_side: int = 1,
) -> TrainingStep:
    """The step that ``config`` asks for, with or without overlap. Collective.

    ``make_lane`` makes another lane over the same parameters, perhaps without enough memory.
    ``side_by_side`` is how many shards to compute at a time, without overlap.
    """
    parameters, streams = lane.plan.parameters, partial(layer_streams, config.seed)
    size, dtype = parameters.values.size, parameters.values.dtype
    arithmetic = distributed.SUMS[config.reduction](config.num_shards, config.gradient_limit)
    background = open_allreduce(config.overlap, config.reduction, communicator)

    def by_buckets(allreduce: Allreduce, buckets: Sequence[Bucket] = ()) -> BucketReducer:
        gradient = allocate((size,), dtype)
        return BucketReducer(arithmetic, len(shards), gradient, allreduce, buckets)

    if background is None:
        shared = distributed.shared_memory_reducer(arithmetic, size, communicator)
        reducer = shared or by_buckets(Allreduce(communicator.allreduce_sum))
        more, kind = range(side_by_side - 1), SideBySideStep if side_by_side > 1 else TrainingStep
    else:
        starts = sorted({0, *parameters.layer_starts, size})
        reducer = by_buckets(background, distributed.plan_buckets(starts))
        more, kind = range(min(len(shards), MOST_LANES) - 1), OverlappedTrainingStep
    lanes = [lane, *distributed.together(communicator, lambda: [make_lane() for _ in more])]
    failures = ShardFailures(loss, reducer, streams, communicator)
    spot_check = None
    if config.spot_check:
        schedule = SpotCheckSchedule(
            config.seed, config.spot_check, config.num_shards, communicator.hosts
        )
        spot_check = SpotCheck(schedule, communicator, lane, loss, streams)
    return kind(lanes, loss, updater, shards, reducer, failures, streams, stop_request, spot_check)

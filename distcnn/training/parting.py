"""Replays two runs side by side until they part: the step, and in it the first shard and layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distcnn.checkpoints import Checkpoint, CheckpointError, CheckpointStore
from distcnn.checkpoints.weights import array_sha256
from distcnn.distributed import Communicator, on_root
from distcnn.distributed.blas_threads import blas_thread_count, limit_blas_threads
from distcnn.distributed.communicator import JointError
from distcnn.errors import InputError
from distcnn.nn import Plan, numpy_settings
from distcnn.nn.layer import Array
from distcnn.system.wording import counted, first_few
from distcnn.training.comparison import Different, Noting, read_metrics
from distcnn.training.replay import Replay, Source, prepare_replay
from distcnn.training.run_comparison import Records, first_and_more
from distcnn.training.run_directory import CHECKPOINTS
from distcnn.training.run_files import Report
from distcnn.training.setup import Run

AnyArray = NDArray[np.generic]


@dataclass(frozen=True)
class Side:
    """One of two runs, ready to be replayed."""

    source: Source
    records: Records
    run: Run
    threads: int
    """Its BLAS threads, whose number is the process's."""

    @property
    def name(self) -> str:
        return self.records.name

    def begin(self, checkpoint: Checkpoint | None, last: int) -> Replay:
        """Its replay from ``checkpoint`` to step ``last``, which notes what is not as recorded."""
        directory = self.source.directory
        metrics = on_root(self.run.communicator, lambda: read_metrics(directory, checkpoint, last))
        receipt = self.records.receipt
        return Replay(self.source, receipt, self.run, checkpoint, last, metrics, Noting)


@dataclass(frozen=True)
class Parting:
    """What replaying two runs side by side has found."""

    text: str
    are_same: bool = False
    """Whether both are the same in every step, as are what they recorded of it."""
    part: bool = False
    """Whether they part."""


def find_parting(
    sources: tuple[Source, Source],
    records: tuple[Records, Records],
    last: int,
    recorded: str,
    communicator: Communicator,
    say: Report,
) -> Parting:
    """Where two runs part up to step ``last``, as exactly as this machine can tell. Collective.

    ``recorded`` is what their records say. ``say`` takes lines on the way: what cannot be replayed,
    and whose records this machine reproduces.
    """
    sides = []
    for source, each in zip(sources, records, strict=True):

        def report(text: str, name: str = each.name) -> None:
            say(f"{name}: {text}")

        try:
            run = prepare_replay(source, each.receipt, 0, communicator, report)
            sides.append(Side(source, each, run, blas_thread_count()))
        except (JointError, Different) as error:
            report(f"cannot be replayed here: {error}")
    if len(sides) < len(sources):
        only = "from the records; where the runs part, only replaying both can tell"
        return Parting(f"{recorded} ({only})")
    one, other = sides
    if shapes := different_shapes(one, other):
        return Parting(shapes, part=True)
    for side, without in ((one, other), (other, one)):
        if alone := [name for name in side.run.model.names if name not in without.run.model.names]:
            say(f"layers only in {side.name}: {first_few(alone)}")
    return _replay_both((one, other), last, recorded, say)


def different_shapes(one: Side, other: Side) -> str:
    """A text if the networks have other parameters; else empty."""
    shapes = [
        {name: each.shape for name, each in side.run.parameters.described.items()}
        for side in (one, other)
    ]
    for name in {**shapes[0], **shapes[1]}:
        before, now = (found.get(name, "missing") for found in shapes)
        if before != now:
            where = f"{name} is {before} in {one.name}, {now} in {other.name}"
            return f"the networks have different parameters: {where}"
    return ""


def _replay_both(sides: tuple[Side, Side], last: int, recorded: str, say: Report) -> Parting:
    """Replay both, from the latest checkpoint that is the same in both, to step ``last`` at most,
    and compare their states after every step until they part. Collective.
    """
    one, other = sides
    communicator = one.run.communicator
    begins = on_root(communicator, lambda: _common_checkpoint(one, other, last))
    replays = one.begin(begins[0], last), other.begin(begins[1], last)
    begun = step = replays[0].begun
    ranks = f"{counted(communicator.world_size, 'rank')} ({communicator.description})"
    say(f"replaying both on {ranks}: from step {begun} on, to step {last} at most")
    state = _different_state(replays)
    where, stuck = f": at the beginning, {state}" if state else "", ""
    while step < last and not where:
        step, before = step + 1, one.run.parameters.values.copy()
        where = stuck = _go_on(sides, replays, step)
        if not where and (state := _different_state(replays)):
            where = f"{explain(one, other, step - 1, before)}; after the step, {state}"
    if not stuck and step < last:  # both have recorded that step
        _go_on(sides, replays, last)
    checked = [_reproduces(*each, begun, say) for each in zip(sides, replays, strict=True)]
    others = [side.name for side, same in zip(sides, checked, strict=True) if same is False]
    if where:
        if others:
            where += f" (as replayed here, where {' and '.join(others)} cannot be reproduced)"
        return Parting(f"step {step}{where}", part=True)
    text = f"{recorded}; replayed here, both are the same up to step {step}"
    if others:
        changed = f"the records of {' and '.join(others)} were changed, or made on a machine that"
        return Parting(f"{text}: {changed} computes other bits or is faulty")
    return Parting(text, are_same=True in checked)


def _reproduces(side: Side, replay: Replay, begun: int, say: Report) -> bool | None:
    """Say and return whether the replay of steps after ``begun`` gave what was recorded; None if
    nothing was.
    """
    last = replay.state.step
    lines = (*side.records.metrics, *side.records.receipt.lines)
    if problem := replay.comparison.problem:
        say(f"{side.name}: this machine does not reproduce its records: {problem}")
        return False
    if any(begun < line["step"] <= last for line in lines):
        say(f"{side.name}: this machine reproduces its records up to step {last}")
        return True
    say(f"{side.name}: nothing is recorded up to step {last} to compare its replay with")
    return None


def _common_checkpoint(
    one: Side, other: Side, last: int
) -> tuple[Checkpoint | None, Checkpoint | None]:
    """The latest checkpoints of one step before ``last`` with the same weights and optimizer."""
    first, second = (CheckpointStore(side.source.directory / CHECKPOINTS) for side in (one, other))
    for step in sorted({*first.steps()} & {*second.steps()}, reverse=True):
        with suppress(CheckpointError, InputError):
            pair = first.load(step), second.load(step)
            before, now = (
                {name: array_sha256(values) for name, values in found.arrays.items()}
                for found in pair
            )
            if step < last and before == now:
                return pair
    return None, None


def _go_on(sides: tuple[Side, Side], replays: tuple[Replay, Replay], step: int) -> str:
    """Take both to ``step``; why that is not possible, as text, if it is not."""
    for side, replay in zip(sides, replays, strict=True):
        limit_blas_threads(side.threads)
        try:
            if step == replay.last:
                replay.finish()
            else:
                replay.go_to(step, end_epoch=False)
        except Different as difference:
            return f": {side.name}: {difference}"
        if replay.state.step < step:
            return f": {side.name} ends before it"
    return ""


def _different_state(replays: tuple[Replay, Replay]) -> str:
    """What differs between two states, as text: weights, optimizer or the latest loss."""
    one, other = (
        {"weights": replay.run.parameters.values, **replay.run.training_step.updater.state}
        for replay in replays
    )
    for name in [each for each in one if each in other]:
        before, now = (
            replay.run.parameters.named(vectors[name])
            for replay, vectors in zip(replays, (one, other), strict=True)
        )
        if different := [each for each in before if gap(before[each], now[each])]:
            what = "weights differ" if name == "weights" else f"optimizer's {name} differs"
            return f"the {what}: {first_and_more(different)}"
    return "" if replays[0].last_loss == replays[1].last_loss else "the loss differs"


def gap(one: AnyArray, other: AnyArray) -> str:
    """How far two arrays differ, as text; empty if they have the same bits."""
    if one.shape != other.shape:
        return f"shape {one.shape} and {other.shape}"
    if one.tobytes() == other.tobytes():
        return ""
    if one.dtype.kind != "f":
        return "different values"
    with np.errstate(invalid="ignore", over="ignore"):
        largest = float(np.max(np.abs(one.astype(np.float64) - other.astype(np.float64))))
    return f"largest difference {largest:.2g}" if largest else "only signs of zeros differ"


# -- one step in detail


def explain(one: Side, other: Side, at: int, before: Array) -> str:
    """What differs first in step ``at`` (from 0), which both begin with the weights ``before``: the
    end of a text that begins with the step. Collective.
    """
    runs = one.run, other.run
    gradients = [run.training_step.reducer.gradient.copy() for run in runs]
    rates = [run.schedule.learning_rate(at) for run in runs]
    after = [run.parameters.values.copy() for run in runs]
    for run in runs:
        run.parameters.assign(before)
    own = _first_shard(one, other, at)
    for run, values in zip(runs, after, strict=True):
        run.parameters.assign(values)
    if first := min((each for each in runs[0].communicator.allgather(own) if each), default=None):
        return ", shard {}: {}".format(*first)
    for name, span in one.run.parameters.slices.items():
        if found := gap(gradients[0][span], gradients[1][span]):
            same = "each shard's gradients are the same"
            return f": {same}, but the sum of those of {name} differs: {found}"
    what = "the optimizer's update differs: its settings or state"
    if rates[0] != rates[1]:
        what = f"the learning rate is {rates[0]:.6g} in {one.name}, {rates[1]:.6g} in {other.name}"
    return f": the gradients are the same, but {what}"


def _first_shard(one: Side, other: Side, at: int) -> tuple[int, str] | None:
    """The first of this rank's shards that differs, and what of it does."""
    sides = one, other
    plans = [side.run.training_step.lane.plan.unfused() for side in sides]
    for pair in zip(*(side.run.training_step.shards for side in sides), strict=False):
        for side, shard in zip(sides, pair, strict=True):
            epoch, step_of_epoch = divmod(at, side.run.schedule.steps_an_epoch)
            shard.fill(side.run.training_step.lane.microbatch, epoch, step_of_epoch)
        with numpy_settings():
            first = {
                what: array.copy() for what, array in _arrays(one, plans[0], at, pair[0].index)
            }
            for what, array in _arrays(other, plans[1], at, pair[1].index):
                if what in first and (found := gap(first[what], array)):
                    return pair[0].index, f"{what} differs first: {found}"
    return None


def _arrays(side: Side, plan: Plan, at: int, shard: int) -> Iterator[tuple[str, AnyArray]]:
    """Every array of a shard's forward and backward, each valid until the next is asked for."""
    training_step = side.run.training_step
    microbatch = training_step.lane.microbatch
    yield "the choice of examples", microbatch.chosen
    yield "the input", microbatch.images
    yield "the labels", microbatch.labels
    gradients, x = np.zeros_like(plan.parameters.values), microbatch.images
    random_source = training_step.streams(at, shard)
    for stage in plan.stages:
        x = stage.forward(x, True, random_source)
        yield f"the output of {stage.name} (forward)", x
    loss_sum, grad_logits = training_step.loss(x, microbatch.labels, microbatch.weights)
    yield "the loss", np.asarray(loss_sum)
    yield "the gradient of the loss", grad_logits
    started = plan.start_backward(grad_logits, out=gradients)
    named = plan.parameters.named(gradients)
    while layer := started.next_layer():
        for name, gradient in named.items():
            if name.rpartition(".")[0] == layer:
                yield f"the gradient of {name} (backward)", gradient
        yield f"the gradient of the input of {layer} (backward)", started.gradient

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
from distcnn.training.receipt import Receipt
from distcnn.training.replay import Replay, Source, prepare_replay
from distcnn.training.run_comparison import Records, RecordsCompared, first_and_more
from distcnn.training.run_directory import CHECKPOINTS
from distcnn.training.run_files import Report
from distcnn.training.setup import Run

AnyArray = NDArray[np.generic]


@dataclass(frozen=True)
class Prepared:
    """A run that can be replayed here."""

    source: Source
    receipt: Receipt
    run: Run
    threads: int
    """Its BLAS threads, which belong to the process."""

    @property
    def name(self) -> str:
        return str(self.source.directory)


def prepare(
    source: Source, receipt: Receipt, communicator: Communicator, say: Report
) -> Prepared | str:
    """The run, or why it cannot be replayed here, as text. Collective."""

    def report(text: str) -> None:
        say(f"{source.directory}: {text}")

    try:
        run = prepare_replay(source, receipt, 0, communicator, report)
    except (JointError, Different) as error:
        return str(error)
    return Prepared(source, receipt, run, blas_thread_count())


@dataclass(frozen=True)
class Parting:
    """What replaying two runs side by side has shown."""

    first: int
    last: int
    """The steps that were replayed; the last is that in which they parted."""
    where: str
    """What differs first, as the end of a text that begins with the step; empty if both replays
    have the same weights to the end.
    """
    problems: tuple[str, str]
    """For each run, the first of its records that its replay did not reproduce, if any."""


def find_parting(
    sources: tuple[Source, Source],
    records: tuple[Records, Records],
    found: RecordsCompared,
    communicator: Communicator,
    say: Report,
) -> str:
    """Where two runs part whose records differ, as exactly as this machine can tell. Collective.

    ``say`` takes lines on the way: what cannot be replayed, and whose records this machine
    reproduces.
    """
    recorded = f"step {found.part_at}: {found.difference}"
    one, other = (
        prepare(source, each.receipt, communicator, say)
        for source, each in zip(sources, records, strict=True)
    )
    for source, side in zip(sources, (one, other), strict=True):
        if isinstance(side, str):
            say(f"{source.directory} cannot be replayed here: {side}")
    if isinstance(one, str) or isinstance(other, str):
        return f"{recorded} (from the records; where the runs part, only replaying both can tell)"
    if shapes := different_shapes(one, other):
        return shapes
    for line in _layers_of_one(one, other):
        say(line)
    assert found.part_at is not None
    parting = replay_until_they_part(one, other, found.part_at, say)
    for each, problem in zip(records, parting.problems, strict=True):
        lines = (*each.metrics, *each.receipt.lines)
        if problem:
            say(f"{each.name}: this machine does not reproduce its records: {problem}")
        elif any(parting.first < line["step"] <= parting.last for line in lines):
            say(f"{each.name}: this machine reproduces its records up to step {parting.last}")
    if parting.where:
        return f"step {parting.last}{parting.where}"
    same = f"{recorded}; replayed here, both have the same weights up to step {parting.last}"
    match [side.name for side, bad in zip((one, other), parting.problems, strict=True) if bad]:
        case []:
            return same
        case [name]:
            return (
                f"{same}: the records of {name} were made on a machine that computes other bits, or"
                " were changed"
            )
    return f"{same}, as neither has in its records: they were made on other machines, or changed"


def different_shapes(one: Prepared, other: Prepared) -> str:
    """A text if the networks have other parameters; else empty."""
    before, now = (
        {name: each.shape for name, each in side.run.parameters.described.items()}
        for side in (one, other)
    )
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            shapes = (
                f"{found[name]} in {side.name}" if name in found else f"missing in {side.name}"
                for found, side in ((before, one), (now, other))
            )
            return f"the networks have different parameters: {name} is {', '.join(shapes)}"
    return ""


def _layers_of_one(one: Prepared, other: Prepared) -> Iterator[str]:
    """Lines on layers, such as one without parameters, that only one of the runs has."""
    for side, without in ((one, other), (other, one)):
        if alone := [name for name in side.run.model.names if name not in without.run.model.names]:
            yield f"layers only in {side.name}: {first_few(alone)}"


def replay_until_they_part(one: Prepared, other: Prepared, last: int, say: Report) -> Parting:
    """Replay both, from the latest checkpoint that is the same in both, to step ``last`` at most,
    and compare the weights after every step. Collective.
    """
    communicator, sides = one.run.communicator, (one, other)
    begins = on_root(communicator, lambda: _common_checkpoint(one, other, last))
    first, second = (_replay(side, begin, last) for side, begin in zip(sides, begins, strict=True))
    begun = first.begun
    ranks = f"{counted(communicator.world_size, 'rank')} ({communicator.description})"
    say(f"replaying both on {ranks}: from step {begun} on, to step {last} at most")
    step, replays = begun, (first, second)
    where = _different_state(replays)
    if where:
        where = f": they begin with {where}"
    while step < last and not where:
        before = one.run.parameters.values.copy()
        where = _go_on(sides, replays, step + 1)
        step += 1
        if not where and (state := _different_state(replays)):
            where = f"{explain(one, other, step - 1, before)}; after the step, {state}"
    problems = [first.comparison.problem, second.comparison.problem]
    if not where:
        for index, replay in enumerate(replays):
            limit_blas_threads(sides[index].threads)
            try:
                replay.finish()
                problems[index] = replay.comparison.problem
            except Different as difference:
                problems[index] = str(difference)
    return Parting(begun, step, where, (problems[0], problems[1]))


def _common_checkpoint(
    one: Prepared, other: Prepared, last: int
) -> tuple[Checkpoint | None, Checkpoint | None]:
    """The latest checkpoints of one step before ``last`` with the same weights and optimizer."""
    first, second = (CheckpointStore(side.source.directory / CHECKPOINTS) for side in (one, other))
    steps = set(first.steps()) & set(second.steps())
    for step in sorted((each for each in steps if each < last), reverse=True):
        with suppress(CheckpointError, InputError):
            pair = first.load(step), second.load(step)
            before, now = (
                {name: array_sha256(found.arrays[name]) for name in found.arrays} for found in pair
            )
            counts = {found.attributes.get("optimizer_steps") for found in pair}
            if before == now and len(counts) == 1:
                return pair
    return None, None


def _replay(side: Prepared, begin: Checkpoint | None, last: int) -> Replay:
    directory, communicator = side.source.directory, side.run.communicator
    metrics = on_root(communicator, lambda: read_metrics(directory, begin, last))
    return Replay(side.source, side.receipt, side.run, begin, last, metrics, Noting)


def _go_on(sides: tuple[Prepared, Prepared], replays: tuple[Replay, Replay], step: int) -> str:
    """Take both to ``step``; why that is not possible, as text, if it is not."""
    for side, replay in zip(sides, replays, strict=True):
        limit_blas_threads(side.threads)
        try:
            replay.go_to(step, end_epoch=False)
        except Different as difference:
            return f": {side.name}: {difference}"
        if replay.state.step < step:
            return f": {side.name} ends before it"
    return ""


def _different_state(replays: tuple[Replay, Replay]) -> str:
    """What differs between two states, as text: weights, optimizer or the latest loss."""
    runs = [replay.run for replay in replays]
    vectors = [{"weights": run.parameters.values} for run in runs]
    for run, own in zip(runs, vectors, strict=True):
        own |= run.training_step.updater.state
    for name in vectors[0].keys() & vectors[1].keys():
        before, now = (
            run.parameters.named(own[name]) for run, own in zip(runs, vectors, strict=True)
        )
        if different := [
            parameter for parameter in before if gap(before[parameter], now[parameter])
        ]:
            return f"other {name}: {first_and_more(different)}"
    return "" if replays[0].last_loss == replays[1].last_loss else "another loss"


def gap(one: AnyArray, other: AnyArray) -> str:
    """How far two arrays differ, as text; empty if they have the same bits."""
    if one.shape != other.shape:
        return f"shape {one.shape} and {other.shape}"
    if one.tobytes() == other.tobytes():
        return ""
    if one.dtype.kind != "f":
        return "other values"
    with np.errstate(invalid="ignore", over="ignore"):
        largest = float(np.max(np.abs(one.astype(np.float64) - other.astype(np.float64))))
    return f"largest difference {largest:.2g}" if largest else "only signs of zeros differ"


# -- one step in detail


def explain(one: Prepared, other: Prepared, at: int, before: Array) -> str:
    """What differs first in step ``at`` (from 0), which both begin with the weights ``before``: the
    end of a text that begins with the step. Collective.
    """
    runs = one.run, other.run
    gradients = [run.training_step.reducer.gradient.copy() for run in runs]
    rates = [run.schedule.learning_rate(at) for run in runs]
    for run in runs:
        run.parameters.assign(before)
    own = _first_shard(one, other, at)
    if first := min((each for each in runs[0].communicator.allgather(own) if each), default=None):
        return ", shard {}: {}".format(*first)
    named = [run.parameters.named(gradient) for run, gradient in zip(runs, gradients, strict=True)]
    for name, gradient in named[0].items():
        if found := gap(gradient, named[1][name]):
            return (
                f": each shard's gradients are the same, but the sum of those of {name} differs:"
                f" {found}"
            )
    if rates[0] != rates[1]:
        return (
            f": the gradients are the same, but the learning rate is {rates[0]:.6g} in {one.name},"
            f" {rates[1]:.6g} in {other.name}"
        )
    return ": the gradients are the same, but the optimizer's update differs: its settings or state"


def _first_shard(one: Prepared, other: Prepared, at: int) -> tuple[int, str] | None:
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


def _arrays(side: Prepared, plan: Plan, at: int, shard: int) -> Iterator[tuple[str, AnyArray]]:
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

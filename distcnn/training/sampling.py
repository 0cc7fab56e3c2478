"""Checks a long run in a short time: replays some of the stretches between its checkpoints.

Which ones is drawn after the run, from a seed. Every stretch has the same chance, so a change to
any one step is found with probability K of n, for K drawn from n stretches.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from distcnn.checkpoints import Checkpoint, CheckpointError, CheckpointStore
from distcnn.checkpoints.weights import array_sha256
from distcnn.distributed import Communicator, on_root
from distcnn.errors import InputError
from distcnn.random_streams import SAMPLE, generator
from distcnn.spans import READ_RUN, Span
from distcnn.system.files import read_bytes, reading
from distcnn.system.wording import counted
from distcnn.training.checkpointing import EXAMPLES_USED, make_checkpoint, parse_checkpoint
from distcnn.training.comparison import Different, cut_off, read_metrics, require_metrics
from distcnn.training.ledger import all_entries
from distcnn.training.receipt import Line, Receipt, read_receipt
from distcnn.training.replay import Replay, Replayed, Source, prepare_replay
from distcnn.training.results import METRICS, RECEIPT
from distcnn.training.run_directory import CHECKPOINTS
from distcnn.training.run_files import Report
from distcnn.training.setup import Run

COMPARED_ELSEWHERE = {"model", "initial_weights", "map"}
"""Settings by which the same may have other names in a replay: it compares the weights."""
OF_OTHER_RANKS = {"world_size", "stops", "spot_checks"}
"""Values of a state that depend on the number of ranks, or on signals."""


@dataclass(frozen=True)
class Stretch:
    """Steps of a run from a checkpoint, or the first step, to the next checkpoint or the last
    recorded weights.
    """

    first: int
    last: int
    ends_in_checkpoint: bool

    def __str__(self) -> str:
        return f"steps {self.first} to {self.last}"


@dataclass(frozen=True)
class Sample:
    """What is known of a run before anything of it is replayed."""

    receipt: Receipt
    seed: int
    stretches: list[Stretch]
    """All of them."""
    drawn: list[Stretch]
    """Those to replay, in order."""
    problem: str
    """What is wrong with the records as a whole, if anything."""

    @property
    def steps(self) -> int:
        """Steps of all stretches."""
        return sum(each.last - each.first for each in self.stretches)

    @property
    def share(self) -> str:
        """How many of the stretches are drawn, as text."""
        return f"{len(self.drawn)} of {counted(len(self.stretches), 'stretch')}"

    @property
    def steps_drawn(self) -> int:
        return sum(each.last - each.first for each in self.drawn)


def draw_sample(directory: Path, count: int, seed: int, say: Report) -> Sample:
    """Draw ``count`` stretches of the run in ``directory``, or all if there are no more."""
    receipt = read_receipt(directory)
    require_metrics(directory)
    stretches, damaged = stretches_of(directory, receipt)
    for reason in damaged[1:]:
        say(f"warning: {reason}")
    problem = receipt.problem or cut_off(directory, receipt) or (damaged[0] if damaged else "")
    return Sample(receipt, seed, stretches, draw(stretches, count, seed), problem)


def stretches_of(directory: Path, receipt: Receipt) -> tuple[list[Stretch], list[str]]:
    """The stretches between the first step, the intact checkpoints and the last recorded weights,
    and what is wrong with other checkpoints.

    At the end of each there is something to compare the weights with. ``InputError`` without any
    checkpoint.
    """
    store = CheckpointStore(directory / CHECKPOINTS)
    kept, damaged = [], []
    for step in filter(None, store.steps()):
        try:
            store.load(step)
            kept.append(step)
        except CheckpointError as error:
            damaged.append(f"checkpoint {store.path_of(step)} is damaged: {error}")
        except InputError:
            if store.path_of(step).exists():  # else the training that goes on has removed it
                raise
    if not kept:
        raise InputError(
            f"{directory} has no checkpoint to sample from: leave --sample out to replay the whole"
            " run (runs to be sampled are trained with a larger --keep)"
        )
    last = max(line["step"] for line in receipt.lines if line["kind"] in ("weights", "start"))
    bounds = [0, *kept, *([last] if last > kept[-1] else [])]
    return [Stretch(first, last, last in kept) for first, last in pairwise(bounds)], damaged


def draw(stretches: list[Stretch], count: int, seed: int) -> list[Stretch]:
    """``count`` of the stretches, each as likely as any other, in their order."""
    words = generator(seed, SAMPLE).random_raw(len(stretches))
    chosen = np.argsort(words, kind="stable")[:count]
    return [stretches[index] for index in sorted(chosen.tolist())]


def replay_stretches(
    source: Source, sample: Sample, communicator: Communicator, say: Report
) -> list[Replayed]:
    """Replay the drawn stretches; ``Different`` when one is not as recorded. Collective.

    The image set is opened once: a resume changes no setting that it depends on.
    """
    if sample.problem:
        raise Different(sample.problem)
    run = prepare_replay(source, sample.receipt, sample.drawn[0].first, communicator, say)
    ranks = f"{counted(communicator.world_size, 'rank')} ({communicator.description})"
    say(f"replaying {sample.share} on {ranks}, drawn with --sample-seed {sample.seed}")
    found = []
    for stretch in sample.drawn:
        replayed = _replay_stretch(source, sample.receipt, run, stretch)
        end = f", the checkpoint of step {stretch.last}" if stretch.ends_in_checkpoint else ""
        say(f"{stretch}: identical (compared: {replayed.compared}{end})")
        found.append(replayed)
    return found


def _replay_stretch(source: Source, receipt: Receipt, run: Run, stretch: Stretch) -> Replayed:
    directory, communicator = source.directory, run.communicator
    with Span(READ_RUN):
        begin, metrics, end, problem = on_root(communicator, lambda: _read(directory, stretch))
    replay = Replay(source, receipt, run, begin, stretch.last, metrics)
    try:
        if problem:
            raise Different(problem)
        replay.compare_start()
        if end:
            is_open = parse_checkpoint(end).state.epoch_end_pending
            replay.go_to(stretch.last, end_epoch=not is_open)
            compare_with_checkpoint(replay, end)
        replayed = replay.finish()
        if (latest := end or begin) and (
            problem := on_root(communicator, lambda: _lost_lines(directory, latest))
        ):
            raise Different(problem)
        return replayed
    except Different as difference:
        raise Different(f"{stretch}: {difference}") from difference


def _read(
    directory: Path, stretch: Stretch
) -> tuple[Checkpoint | None, list[Line], Checkpoint | None, str]:
    """The checkpoints at both ends, the lines of metrics between them, and what is wrong."""
    store = CheckpointStore(directory / CHECKPOINTS)
    begin = store.load(stretch.first) if stretch.first else None
    end = store.load(stretch.last) if stretch.ends_in_checkpoint else None
    if end:
        parse_checkpoint(end)  # which refuses a forged one here, on root
    try:
        metrics = read_metrics(directory, begin, stretch.last)
    except InputError as error:
        return begin, [], end, str(error)
    return begin, metrics, end, ""


def compare_with_checkpoint(replay: Replay, checkpoint: Checkpoint) -> None:
    """``Different`` unless the replay has come to all that ``checkpoint`` holds: weights,
    optimizer, ledger, counts, but for times. Collective.
    """
    run, state = replay.run, replay.state
    entries = all_entries(run.training_step.ledger, run.communicator, run.config.num_shards)
    lines = {name: checkpoint.texts[name] for name in ("metrics", "receipt")}  # compared elsewhere
    replayed = make_checkpoint(run, state, entries, lines)
    before, now = _content(checkpoint), _content(replayed)
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            raise Different(
                f"step {state.step}: {name} {before.get(name)} in its checkpoint, but"
                f" {now.get(name)} in the replay"
            )


def _content(checkpoint: Checkpoint) -> dict[str, Any]:
    """What must be equal, by the names that messages give it; the weights first."""
    parsed, attributes = parse_checkpoint(checkpoint), checkpoint.attributes
    arrays = dict(
        sorted(checkpoint.arrays.items(), key=lambda item: not item[0].startswith("weights/"))
    )
    used = arrays.pop(EXAMPLES_USED).tolist()
    hashes = {
        f"{path.replace('weights/', 'parameter ')}: SHA-256": array_sha256(values)
        for path, values in arrays.items()
    }
    orders = {f"shard {i}'s order:": sha256 for i, sha256 in enumerate(parsed.orders_sha256)}
    places = ("epoch", "step_of_epoch", "optimizer_steps")
    config = {
        f"{name}:": value
        for name, value in asdict(parsed.config).items()
        if name not in parsed.config.free | COMPARED_ELSEWHERE
    }
    return {
        **hashes,
        "examples used by each shard:": used,
        **orders,
        **{f"{name}:": attributes.get(name) for name in places},
        **_without_times(parsed.state.to_json()),
        "content_sha256:": parsed.dataset.content_sha256,
        **config,
    }


def _without_times(state: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a state, those of its parts as ``part.value:``, that a replay reproduces."""
    found: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, dict):
            found |= _without_times(value, f"{prefix}{name}.")
        elif not name.endswith("seconds") and name not in OF_OTHER_RANKS:
            found[f"{prefix}{name}:"] = value
    return found


def _lost_lines(directory: Path, checkpoint: Checkpoint) -> str:
    """A text if lines that the checkpoint holds are not in the run's files; else empty."""
    for name, text in ((RECEIPT, "receipt"), (METRICS, "metrics")):
        with reading(name):
            if not read_bytes(directory / name).startswith(checkpoint.texts[text].encode()):
                return (
                    f"{name} does not begin with the lines in the checkpoint of step"
                    f" {checkpoint.step}"
                )
    return ""

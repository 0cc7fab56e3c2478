"""Replays a run against its receipt: the same loop, with a comparison in place of the run
directory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distcnn.checkpoints import Checkpoint, CheckpointStore
from distcnn.config import Config
from distcnn.distributed import Communicator, on_root, together
from distcnn.errors import InputError, TrainingError
from distcnn.spans import READ_RUN, Span
from distcnn.system.wording import counted
from distcnn.training.checkpointing import NoSaving, dataset_identity, restore_snapshot
from distcnn.training.comparison import (
    STARTS,
    Comparison,
    Different,
    Line,
    MetricsComparison,
    Receipt,
    difference,
    missing_end,
    read_metrics,
    read_receipt,
)
from distcnn.training.consistency import parameter_hashes
from distcnn.training.ending import make_result
from distcnn.training.fingerprint import differences
from distcnn.training.loop import Loop
from distcnn.training.progress import NoProgress
from distcnn.training.results import RunResult
from distcnn.training.resume import require_code_outside, require_trusted, sources_in_force
from distcnn.training.run_directory import CHECKPOINTS
from distcnn.training.setup import Run, prepare_run
from distcnn.training.state import State
from distcnn.user_source import compare_sources

NAMES_ONLY = ("name", "source")
"""Where an image set was moved its name may differ; its content may not."""


@dataclass(frozen=True)
class Replayed:
    """What a replay that agreed has covered."""

    from_step: int
    to_step: int
    receipt: Receipt
    lines: list[Line]
    """Those of the receipt that were compared."""
    result: RunResult | None
    """What ``result.json`` must hold, where the replay reached the end of a finished run."""

    @property
    def reached_end(self) -> bool:
        """Whether the replay reached the end of a finished run."""
        return self.result is not None


def replay(
    directory: Path,
    data: str | None,
    from_step: int,
    to_step: int | None,
    communicator: Communicator,
    say: Callable[[str], None],
    model: str | None = None,
    trust_model: bool = False,
) -> Replayed:
    """Replay ``directory``'s run from the nearest checkpoint at or before ``from_step``.
    ``Different`` when it is not the same.

    ``model`` replaces the receipt's. A model of the user's own that only the receipt names is
    imported with ``trust_model`` alone.
    """
    with Span(READ_RUN):
        receipt = on_root(communicator, lambda: read_receipt(directory))
        cut_off = on_root(communicator, lambda: missing_end(directory, receipt))
    if cut_off:
        raise Different(cut_off)
    last = receipt.last_step if to_step is None else to_step
    together(communicator, lambda: _check_range(receipt, from_step, last))
    checkpoint = (
        on_root(communicator, lambda: _nearest(directory, from_step, say)) if from_step else None
    )
    config = receipt.configuration_at(int(checkpoint.attributes["step"]) if checkpoint else 0)
    together(
        communicator,
        lambda: require_trusted(config, directory, {"model": model} if model else {}, trust_model),
    )
    config = dataclasses.replace(config, model=model or config.model)
    together(communicator, lambda: require_code_outside(config, directory))
    run = prepare_run(for_replay(config, data), communicator, say)
    _compare_start(receipt, run, say)
    state = (
        together(communicator, lambda: restore_snapshot(run, checkpoint)) if checkpoint else State()
    )
    say(
        f"replaying steps {state.step} to {last} on {counted(communicator.world_size, 'rank')}"
        f" ({communicator.description})"
    )
    if checkpoint:
        _compare_checkpoint(receipt, run, state)
    recorded, problem = on_root(communicator, lambda: read_metrics(directory, checkpoint, last))
    if problem:
        raise Different(problem)
    metrics = MetricsComparison(
        recorded, may_end_early=last == receipt.last_step and not receipt.ended
    )
    comparison = Comparison(receipt, state.step - state.epoch_is_open, last, metrics)
    loop = Loop(run, state, comparison, NoSaving(), NoProgress())
    at_end = {line["kind"] for line in receipt.lines if line["step"] == last}
    try:
        follow(loop, receipt, last, data, end_epoch=bool(at_end & {"weights", "epoch"}))
    except TrainingError as error:
        raise Different(f"step {state.step}: the replay cannot continue: {error}") from error
    if receipt.ended and last == receipt.last_step:
        loop.add_end()
    comparison.close()
    begun = int(checkpoint.attributes["step"]) if checkpoint else 0
    ended = any(line["kind"] == "end" for line in comparison.compared)
    return Replayed(
        begun, last, receipt, comparison.compared, make_result(run, state) if ended else None
    )


def _compare_checkpoint(receipt: Receipt, run: Run, state: State) -> None:
    """``Different`` when the weights that the replay begins with are not those that the receipt has
    for their step.
    """
    hashes = parameter_hashes(run.parameters)
    for line in receipt.lines:
        if (line["kind"], line["step"]) == ("weights", state.step) and line.get(
            "parameters"
        ) != hashes:
            raise Different(
                f"step {state.step}, in its checkpoint:"
                f" {difference(line, {**line, 'parameters': hashes})}"
            )


def follow(
    loop: Loop, receipt: Receipt, to_step: int, data: str | None = None, end_epoch: bool = True
) -> None:
    """Take the steps to ``to_step`` with the flags in force at each: a resume may have changed
    some.
    """
    begun = loop.state.step
    for number, line in enumerate(receipt.lines):
        if line["kind"] == "resume" and begun < line["step"] <= to_step:
            closed = any(
                each["kind"] == "epoch" and each["step"] == line["step"]
                for each in receipt.lines[:number]
            )
            loop.go_to(line["step"], end_epoch=closed)
            loop.run.config = for_replay(Config.from_record(line["configuration"]), data)
    loop.go_to(to_step, end_epoch)


def _check_range(receipt: Receipt, from_step: int, to_step: int) -> None:
    if not (
        0 <= from_step < to_step <= receipt.last_step
        or from_step == to_step == receipt.last_step == 0
    ):
        raise InputError(
            f"--from-step {from_step} --to-step {to_step}: the receipt covers steps 0 to"
            f" {receipt.last_step}"
        )


def _nearest(directory: Path, from_step: int, say: Callable[[str], None]) -> Checkpoint | None:
    checkpoint = CheckpointStore(directory / CHECKPOINTS).newest(
        say, at_most=from_step, set_aside=False
    )
    if checkpoint is None:
        say(f"no checkpoint at or before step {from_step}: replaying from the first step")
    return checkpoint


def for_replay(config: Config, data: str | None) -> Config:
    """The run's configuration here: on any number of ranks, its data perhaps elsewhere, and nothing
    saved.
    """
    return dataclasses.replace(
        config, expect_ranks=0, source="", checkpoint_every=0, data=data or config.data
    )


def _compare_start(receipt: Receipt, run: Run, say: Callable[[str], None]) -> None:
    """``Different`` when the image set is not the recorded one; warnings on what else is."""
    for line in (line for line in receipt.lines if line["kind"] in STARTS):
        recorded = line.get("dataset", {})
        for name, value in dataset_identity(run).items():
            if name not in NAMES_ONLY and recorded.get(name) != value:
                place = f"step {line['step']}: the image set's {name}"
                raise Different(
                    f"{place} is {recorded.get(name)} in the receipt, but {value} in"
                    f" {run.dataset.path}"
                )
    warn_of_changes(receipt, run, say)


def warn_of_changes(receipt: Receipt, run: Run, say: Callable[[str], None]) -> None:
    """A warning for each start of the run on other software than today's, or with another source of
    the user's own model.
    """
    before: list[str] = []
    for line in (line for line in receipt.lines if line["kind"] in STARTS):
        found = [*differences(line.get("software", {}), run.software)]
        recorded = sources_in_force([line])
        changes = compare_sources(recorded, run.model_sources) if recorded is not None else None
        if changes and (changes.code or changes.layout):
            found.append(f"the source of model {run.config.model!r}: {changes}")
        if found and found != before:
            what = "; ".join(found)
            say(
                f"warning: from step {line['step']} on the run used other software than is"
                f" installed here, so bits may differ: {what}"
            )
        before = found

"""Replays a run: the same loop, with a comparison in place of the run directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcnn.checkpoints import Checkpoint, CheckpointStore
from distcnn.config import Config
from distcnn.distributed import Communicator, on_root, together
from distcnn.errors import InputError, TrainingError
from distcnn.spans import READ_RUN, Span
from distcnn.system.wording import counted
from distcnn.training.checkpointing import dataset_identity, restore_snapshot
from distcnn.training.comparison import Comparison, Different, difference, read_metrics
from distcnn.training.consistency import parameter_hashes
from distcnn.training.ending import make_result
from distcnn.training.fingerprint import differences
from distcnn.training.loop import Loop
from distcnn.training.receipt import Line, Receipt, missing_end, read_receipt, sources_in_force
from distcnn.training.results import RunResult
from distcnn.training.run_directory import CHECKPOINTS
from distcnn.training.setup import Run, prepare_run
from distcnn.training.state import State
from distcnn.user_code import require_outside, require_trust
from distcnn.user_source import compare_sources

NAMES_ONLY = ("name", "source")
"""If an image set was moved, its name may differ, but not its content."""


@dataclass(frozen=True)
class Replayed:
    """What a successful replay has covered."""

    from_step: int
    to_step: int
    receipt: Receipt
    lines: list[Line]
    """The receipt's lines that were compared."""
    result: RunResult | None
    """The expected ``result.json``, if the replay reached the end of a finished run."""

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
    """Replay a run and compare it with its records. Collective.

    Args:
        directory: of the run.
        data: the image set, if it has moved.
        from_step: the replay begins at the nearest checkpoint at or before it.
        to_step: the last step; None for the receipt's.
        communicator: of all ranks.
        say: takes lines for the user.
        model: replaces the receipt's.
        trust_model: whether to import code of the user's that only the receipt names.

    Raises:
        Different: on all ranks, when it is not the same.
        InputError: on all ranks, for bad input.
    """
    with Span(READ_RUN):
        receipt = on_root(communicator, lambda: read_receipt(directory))
        if cut_off := on_root(communicator, lambda: missing_end(directory, receipt)):
            raise Different(cut_off)
    last = receipt.last_step if to_step is None else to_step
    together(communicator, lambda: _check_range(receipt, from_step, last))
    checkpoint = on_root(communicator, lambda: _nearest(directory, from_step, say))
    begun = checkpoint.step if checkpoint else 0
    config = receipt.configuration_at(begun)
    given: dict[str, Any] = {"model": model} if model else {}
    own = config.own_code
    together(communicator, lambda: require_trust(own, directory, given, trust_model))
    config = dataclasses.replace(config, **given)
    together(communicator, lambda: require_outside(config.own_code.values(), directory))
    run = prepare_run(for_replay(config, data), communicator, say)
    _compare_start(receipt, run, say)
    state = State()
    if checkpoint:
        state = together(communicator, lambda: restore_snapshot(run, checkpoint))
    say(
        f"replaying steps {state.step} to {last} on {counted(communicator.world_size, 'rank')}"
        f" ({communicator.description})"
    )
    if checkpoint:
        _compare_checkpoint(receipt, run, state)
    metrics, problem = on_root(communicator, lambda: _metrics(directory, checkpoint, last))
    if problem:
        raise Different(problem)
    comparison = Comparison(receipt, state.step - state.epoch_is_open, last, metrics)
    loop = Loop(run, state, comparison)
    at_end = {line["kind"] for line in receipt.lines if line["step"] == last}
    try:
        follow(loop, receipt, last, data, end_epoch=bool(at_end & {"weights", "epoch"}))
    except TrainingError as error:
        raise Different(f"step {state.step}: the replay cannot continue: {error}") from error
    if receipt.ended and last == receipt.last_step:
        loop.add_end()
    comparison.close()
    ended = any(line["kind"] == "end" for line in comparison.compared)
    result = make_result(run, state) if ended else None
    return Replayed(begun, last, receipt, comparison.compared, result)


def _metrics(directory: Path, checkpoint: Checkpoint | None, last: int) -> tuple[list[Line], str]:
    """What ``read_metrics`` gives, or what is wrong with it, to be sent to all ranks."""
    try:
        return read_metrics(directory, checkpoint, last), ""
    except ValueError as error:
        return [], str(error)


def _compare_checkpoint(receipt: Receipt, run: Run, state: State) -> None:
    """``Different`` when the checkpoint's weights are not those of the receipt."""
    now = {"kind": "weights", "step": state.step, "parameters": parameter_hashes(run.parameters)}
    for line in receipt.lines:
        if (line["kind"], line["step"]) == ("weights", state.step):
            recorded = {**now, "parameters": line.get("parameters", {})}
            if text := difference(recorded, now):
                raise Different(f"step {state.step}, in its checkpoint: {text}")


def follow(
    loop: Loop, receipt: Receipt, to_step: int, data: str | None = None, end_epoch: bool = True
) -> None:
    """Take the steps to ``to_step``, each with the flags that it had: a resume may change some."""
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
    if from_step == 0:
        return None
    store = CheckpointStore(directory / CHECKPOINTS)
    checkpoint = store.newest(say, at_most=from_step, set_aside=False)
    if checkpoint is None:
        say(f"no checkpoint at or before step {from_step}: replaying from the first step")
    return checkpoint


def for_replay(config: Config, data: str | None) -> Config:
    """A run's ``config`` for any ranks, without checkpoints, its data perhaps elsewhere."""
    return dataclasses.replace(
        config, expect_ranks=0, source="", checkpoint_every=0, data=data or config.data
    )


def _compare_start(receipt: Receipt, run: Run, say: Callable[[str], None]) -> None:
    """``Different`` when the image set is not the recorded one; warnings on what else is."""
    identity = dataset_identity(run)
    for line in receipt.starts:
        recorded = line.get("dataset", {})
        for name, value in identity.items():
            if name not in NAMES_ONLY and recorded.get(name) != value:
                raise Different(
                    f"step {line['step']}: the image set's {name} is {recorded.get(name)} in the"
                    f" receipt, but {value} in {run.dataset.path}"
                )
    warn_of_changes(receipt, run, say)


def warn_of_changes(receipt: Receipt, run: Run, say: Callable[[str], None]) -> None:
    """Warn of each start of the run on other software, or with another source of own code."""
    before: list[str] = []
    for line in receipt.starts:
        found = differences(line.get("software", {}), run.software)
        recorded = sources_in_force([line])
        changes = "" if recorded is None else str(compare_sources(recorded, run.model_sources))
        if changes:
            found.append(f"the source of model {run.config.model!r}: {changes}")
        if found and found != before:
            say(
                f"warning: from step {line['step']} on the run used other software than is"
                f" installed here, so bits may differ: {'; '.join(found)}"
            )
        before = found

"""Replays a run: the same loop, with a comparison in place of the run directory."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcnn.checkpoints import Checkpoint, CheckpointStore
from distcnn.checkpoints.weights import INITIAL_WEIGHTS
from distcnn.config import Config
from distcnn.distributed import Communicator, on_root, together
from distcnn.distributed.communicator import JointError
from distcnn.errors import InputError, TrainingError
from distcnn.spans import READ_RUN, Span
from distcnn.system.wording import counted
from distcnn.training.arguments import ARRAYS
from distcnn.training.checkpointing import restore_checkpoint
from distcnn.training.comparison import (
    THE_RECEIPT,
    Comparison,
    Different,
    cut_off,
    difference,
    read_metrics,
    require_metrics,
)
from distcnn.training.consistency import parameter_hashes
from distcnn.training.ending import make_result
from distcnn.training.fingerprint import deciding, differences, portable_would_agree
from distcnn.training.loop import Loop
from distcnn.training.receipt import Line, Receipt, read_receipt
from distcnn.training.results import ENVIRONMENT, RunResult
from distcnn.training.run_directory import CHECKPOINTS
from distcnn.training.run_files import Report
from distcnn.training.selection import best_weights
from distcnn.training.setup import Run, prepare_run
from distcnn.training.starts import OF_THE_IMAGES
from distcnn.training.state import State
from distcnn.user_code import compare_sources, require_outside, require_trust

NAMES = "name", "source"
"""Of an image set: they change when it is moved."""


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
    def compared(self) -> str:
        """How much of the receipt, as text."""
        kinds = [line["kind"] for line in self.lines]
        hashes, epochs = kinds.count("weights"), kinds.count("epoch")
        return f"{counted(hashes, 'weight hash')}, {counted(epochs, 'epoch')}"


@dataclass(frozen=True)
class Source:
    """A run to replay; ``data`` and ``model`` replace what its receipt names."""

    directory: Path
    data: str | None = None
    model: str | None = None
    trust_model: bool = False


class Replay:
    """Steps of ``run`` taken again from ``checkpoint``, or from the first one, and compared with
    what is recorded of them up to step ``last``. Every method is collective.

    ``Different`` is raised on all ranks, unless the ``comparison`` is of a class that does not.
    """

    def __init__(
        self,
        source: Source,
        receipt: Receipt,
        run: Run,
        checkpoint: Checkpoint | None,
        last: int,
        metrics: list[Line],
        comparison: type[Comparison] = Comparison,
    ) -> None:
        self.run, self.last, self._data, self._receipt = run, last, source.data, receipt
        self.state, best = State(), None
        if checkpoint:
            store = CheckpointStore(source.directory / CHECKPOINTS)
            self.state = together(run.communicator, lambda: restore_checkpoint(run, checkpoint))
            best = best_weights(run, self.state, store)
        self.begun = self.state.step
        before = self.begun - self.state.epoch_end_pending
        self.comparison = comparison(receipt, before, last, metrics)
        self._loop = Loop(run, self.state, self.comparison, best=best)
        self._loop.change_config(for_replay(receipt.configuration_at(self.begun), source.data))

    def compare_start(self) -> None:
        """``Different`` when the weights to start from are not those in the receipt."""
        if line := self._receipt.weights_at(self.begun):
            found = {**line, "parameters": parameter_hashes(self.run.parameters)}
            if text := difference(line, found, THE_RECEIPT):
                raise Different(f"step {self.begun}, in its checkpoint: {text}")

    def go_to(self, step: int, end_epoch: bool) -> None:
        """Take the steps to ``step``; with ``end_epoch``, also close the epoch that ends there."""
        try:
            follow(self._loop, self._receipt, step, self._data, end_epoch)
        except TrainingError as error:
            raise Different(
                f"step {self.state.step}: the replay cannot continue: {error}"
            ) from error

    @property
    def last_loss(self) -> float:
        """The mean loss of the latest step."""
        return self._loop.last_loss

    def finish(self) -> Replayed:
        """Go to the last step, and compare all that is recorded of it."""
        receipt, last = self._receipt, self.last
        at_end = {line["kind"] for line in receipt.lines if line["step"] == last}
        self.go_to(last, end_epoch=bool(at_end & {"weights", "epoch"}))
        ended = receipt.ended and last == receipt.last_step
        if ended:
            self._loop.add_end()
        self.comparison.close()
        result = make_result(self.run, self.state) if ended else None
        return Replayed(self.begun, last, receipt, self.comparison.compared, result)


def replay(
    directory: Path,
    data: str | None,
    from_step: int,
    to_step: int | None,
    communicator: Communicator,
    say: Report,
    model: str | None = None,
    trust_model: bool = False,
) -> Replayed:
    """Replay a run from the nearest checkpoint up to ``from_step``; ``Different`` on all ranks when
    its records are not the same. ``data`` and ``model`` replace the receipt's. Collective.
    """
    source = Source(directory, data, model, trust_model)
    with Span(READ_RUN):
        receipt, checkpoint, metrics, problem = on_root(
            communicator, lambda: _read(directory, from_step, to_step, say)
        )
    last = receipt.last_step if to_step is None else to_step
    begun = checkpoint.step if checkpoint else 0
    run = prepare_replay(source, receipt, begun, communicator, say)
    prepared = Replay(source, receipt, run, checkpoint, last, metrics)
    if problem:
        raise Different(problem)
    ranks = f"{counted(communicator.world_size, 'rank')} ({communicator.description})"
    say(f"replaying steps {begun} to {last} on {ranks}")
    prepared.compare_start()
    return prepared.finish()


def prepare_replay(
    source: Source, receipt: Receipt, step: int, communicator: Communicator, say: Report
) -> Run:
    """The run with the configuration of ``step``, at its first step; ``Different`` when its image
    set or initial weights are not the recorded ones, or the receipt was changed. Collective.
    """
    if receipt.problem:
        raise Different(receipt.problem)
    directory, config = source.directory, receipt.configuration_at(step)
    given: dict[str, Any] = {"model": source.model} if source.model else {}
    own = config.own_code
    together(
        communicator, lambda: require_trust(own, directory, given, source.trust_model, ["model"])
    )
    config = dataclasses.replace(for_replay(config, source.data), **given)
    together(communicator, lambda: require_outside(config.own_code.values(), directory))
    on_root(communicator, lambda: _require_data(directory, config.data))
    run = prepare_run(config, communicator, say, directory=directory)
    _compare_data(receipt, run, is_named=bool(source.data))
    _compare_initial_weights(receipt, run)
    warn_of_changes(receipt, run, say)
    return run


def _read(
    directory: Path, from_step: int, to_step: int | None, say: Report
) -> tuple[Receipt, Checkpoint | None, list[Line], str]:
    """What is recorded of the steps to replay, and what is wrong with it, if anything."""
    receipt = read_receipt(directory)
    last = receipt.last_step if to_step is None else to_step
    is_empty_run = from_step == last == receipt.last_step == 0
    if not 0 <= from_step < last <= receipt.last_step and not is_empty_run:
        raise InputError(
            f"--from-step {from_step} --to-step {last}: the receipt covers steps 0 to"
            f" {receipt.last_step}"
        )
    require_metrics(directory)
    if problem := cut_off(directory, receipt):
        return receipt, None, [], problem
    checkpoint = None
    if from_step:
        store = CheckpointStore(directory / CHECKPOINTS)
        checkpoint = store.newest(say, at_most=from_step, set_aside=False)
        if checkpoint is None:
            say(f"no checkpoint at or before step {from_step}: replaying from the first step")
    try:
        metrics = read_metrics(directory, checkpoint, last)
    except InputError as error:
        return receipt, checkpoint, [], str(error)
    begun = checkpoint.step if checkpoint else 0
    recorded = [line["step"] for line in (*receipt.lines, *metrics)]
    if not is_empty_run and not any(begun < step <= last for step in recorded):
        raise InputError(
            f"nothing is recorded after step {begun} up to step {last}, so there is nothing to"
            " compare: give another --to-step, such as the last step of an epoch"
        )
    return receipt, checkpoint, metrics, ""


def _require_data(directory: Path, data: str) -> None:
    """``InputError`` if it is missing: training would prepare MNIST; a replay writes nothing."""
    if data == ARRAYS:
        raise InputError(
            f"{directory} was trained on arrays in memory: name a file of the same images with"
            " --data FILE.h5"
        )
    if not os.path.exists(data):  # noqa: PTH110  (Path's raises for a name that is too long)
        raise InputError(
            f"{directory} was trained on {data}, which is not there (seen from this folder): name"
            " the image set with --data FILE.h5"
        )


def follow(
    loop: Loop, receipt: Receipt, to_step: int, data: str | None = None, end_epoch: bool = True
) -> None:
    """Take the steps to ``to_step``, each with the flags that it had: a resume may change some."""
    begun = loop.state.step
    closed = set[int]()
    for line in receipt.lines:
        if line["kind"] == "epoch":
            closed.add(line["step"])
        if line["kind"] == "resume" and begun < line["step"] <= to_step:
            loop.go_to(line["step"], end_epoch=line["step"] in closed)
            loop.change_config(for_replay(Config.from_record(line["configuration"]), data))
    loop.go_to(to_step, end_epoch)


def for_replay(config: Config, data: str | None) -> Config:
    """A run's ``config`` for any ranks, without checkpoints, its data perhaps elsewhere."""
    threads = Config.threads_per_rank if config.is_portable else config.threads_per_rank
    here: dict[str, Any] = {"expect_ranks": 0, "source": "", "threads_per_rank": threads}
    here |= {"checkpoint_every": 0, "spot_check": 0.0}
    return dataclasses.replace(config, **here, data=data or config.data)


def _compare_data(receipt: Receipt, run: Run, is_named: bool) -> None:
    """``Different`` when the image set is not the recorded one; ``JointError`` if neither the user
    nor the run has named it.
    """
    for line in receipt.starts:
        recorded = line.get("dataset", {})
        for name, value in run.dataset_record.identity.items():
            # Of a set that was moved, or of a portable run, made again, names may differ.
            may_differ = name not in OF_THE_IMAGES if run.config.is_portable else name in NAMES
            if recorded.get(name) != value and not may_differ:
                found = (
                    f"the image set's {name} is {recorded.get(name)} in the receipt, but {value} in"
                    f" {run.dataset.path}"
                )
                if receipt.lacks_environment and not is_named:
                    raise JointError(
                        f"{found}: {ENVIRONMENT}, which says where the image set was, is missing:"
                        " name the image set with --data FILE.h5"
                    )
                raise Different(f"step {line['step']}: {found}")


def _compare_initial_weights(receipt: Receipt, run: Run) -> None:
    """``Different`` when the weights to start from are not the recorded ones."""
    for line in receipt.starts:
        recorded = line.get("initial_weights", {}).get("params_sha256")
        now = run.initial.record["params_sha256"] if run.initial else None
        if recorded != now:
            raise Different(
                f"step {line['step']}: the initial weights have the SHA-256 {recorded} in the"
                f" receipt, but {now} in {INITIAL_WEIGHTS}"
            )


def warn_of_changes(receipt: Receipt, run: Run, say: Report) -> None:
    """Warn of each start of the run on other software, or with another source of own code."""
    before: list[str] = []
    is_portable = run.config.is_portable
    for line in receipt.sessions:
        software = line.get("software", {})
        found = []
        if software or not is_portable:
            before_now = deciding(software, is_portable), deciding(run.software, is_portable)
            found = differences(*before_now, ("in the run", "here"))
        processor, remedy = "" if is_portable else " or another processor", ""
        if found and portable_would_agree(software, run.software):
            remedy = " (runs with --arithmetic portable have the same bits on both)"
        recorded = line.get("model_sources", run.model_sources)
        if changes := str(compare_sources(recorded, run.model_sources)):
            found.append(f"the source of model {run.config.model!r}: {changes}")
        if found and found != before:
            say(
                f"warning: from step {line['step']} on the run used other software"
                f"{processor} than there is here, so bits may differ: {'; '.join(found)}{remedy}"
            )
        before = found

"""The run directory: what a run leaves behind. Only root writes it."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from distcnn.checkpoints import Checkpoint, CheckpointError, CheckpointStore, CheckpointWriter
from distcnn.checkpoints.weights import BEST_WEIGHTS, INITIAL_WEIGHTS, Arrays, encode_weights
from distcnn.checkpoints.writer import DISK_IS_FULL, with_room
from distcnn.config import Config
from distcnn.errors import InputError
from distcnn.nn import Parameters
from distcnn.system.files import explaining, remove_temporary_files, write_atomically
from distcnn.training import results, run_files
from distcnn.training.checkpointing import RunRecorder, make_checkpoint
from distcnn.training.ledger import Entry
from distcnn.training.line_files import SPEED, ChainedLog, LineLog, MetricsTable, columns_of
from distcnn.training.results import RunResult
from distcnn.training.run_files import Report
from distcnn.training.setup import Run
from distcnn.training.state import State

CHECKPOINTS = "checkpoints"


class RunDirectory(RunRecorder):
    """``config.toml`` first, then line by line metrics and receipt, at the end weights and result.

    If the folder is renamed meanwhile, it is followed; if it is removed, all is written again.
    """

    location: Path

    def __init__(
        self,
        path: Path,
        config: Config,
        report: Report,
        held: ExitStack,
        initial_weights: bytes = b"",
    ) -> None:
        self._config, self._report, self._held = config, report, held
        self._initial_weights = initial_weights
        self._move_to(path)
        self._best: tuple[int, Arrays] = (-1, {})
        """The best weights and their step; a resumed run has them in a checkpoint only."""
        self.metrics = LineLog(results.METRICS, self.locate, report)
        self.receipt = ChainedLog(results.RECEIPT, self.locate, report)
        self.timings = LineLog(results.TIMINGS, self.locate, report)
        self.environment = LineLog(results.ENVIRONMENT, self.locate, report)
        self._is_portable = config.is_portable
        columns = columns_of(config)
        self._table = MetricsTable(results.METRICS_TABLE, self.locate, report, columns)
        of_machine = (self.timings, self.environment) if self._is_portable else ()
        self._files = self.metrics, self._table, self.receipt, *of_machine
        self._writer = CheckpointWriter(
            lambda: CheckpointStore(self.locate() / CHECKPOINTS), config.keep, report
        )

    def restore(self, metrics: str, receipt: str, timings: str = "") -> None:
        """Make the files hold exactly these lines."""
        if self._is_portable:
            self.timings.restore(timings)
        self.metrics.restore(metrics)
        self._table.restore(metrics)
        self.receipt.restore(receipt)

    def add_metrics(self, kind: str, **values: Any) -> None:
        line = {"kind": kind, **values}
        if self._is_portable:  # a speed would make the file another one on each machine
            self.timings.add({"kind": kind, "step": values["step"], SPEED: line.pop(SPEED)})
        self.metrics.add(line)
        self._table.add(line)

    def add_receipt(self, kind: str, step: int, **values: Any) -> None:
        self.receipt.add({"kind": kind, "step": step, **values})

    @property
    def receipt_sha256(self) -> str:
        return self.receipt.sha256

    def save(self, run: Run, state: State, entries: Sequence[Entry]) -> None:
        texts = {"metrics": self.metrics.text, "receipt": self.receipt.text}
        if self._is_portable:
            texts["timings"] = self.timings.text
        snapshot = make_checkpoint(run, state, entries, texts)
        if state.best_step == state.step:
            self._best = state.step, snapshot.folder("weights")
        self._writer.submit(state.step, snapshot, state.best_step)

    def wait(self) -> int:
        self._writer.wait()
        return self._writer.last_step

    def finish(self, parameters: Parameters, result: RunResult) -> None:
        weights = parameters.named()
        last = encode_weights(weights, results.weights_attributes(result))

        def write() -> None:
            for file in self._files:
                file.complete()
            results.write_results(self.locate(), result, last, best)

        try:
            best = self._best_weights(self.locate(), weights, result)
            store = CheckpointStore(self.location / CHECKPOINTS)
            with_room(write, lambda: store.make_room(result.steps, result.best_step))
        except OSError as error:
            reason, first = error.strerror, "free some space"
            if error.errno not in DISK_IS_FULL:
                place = error.filename2 or error.filename  # the target of a rename
                reason, first = f"{reason}: {Path(place).name}" if place else reason, "fix that"
            remedy = f"{first}, then finish the run with --resume {self.location}"
            if not self._is(self.location):
                remedy = "start a new run elsewhere"
            raise InputError(
                f"the results cannot be written to {self.location} ({reason}): {remedy}"
            ) from error

    def _best_weights(self, folder: Path, last: Arrays, result: RunResult) -> bytes | None:
        """The file of the best weights, perhaps from a checkpoint; None if they are lost."""
        step, (best_step, best) = result.best_step, self._best
        if step == result.steps:
            best = last
        elif step != best_step:
            try:
                best = CheckpointStore(folder / CHECKPOINTS).load(step).folder("weights")
            except (CheckpointError, InputError) as error:
                self._report(
                    f"warning: {BEST_WEIGHTS} is not written: the checkpoint of step {step}, the"
                    f" best, cannot be read ({error})"
                )
                return None
        attributes = results.weights_attributes(result, best=True)
        return encode_weights({name: best[name] for name in last}, attributes)

    def locate(self) -> Path:
        """The folder's current path. ``OSError`` when it was removed and cannot be made again."""
        if self._is(self.location):
            return self.location
        with suppress(OSError):
            moved = Path(f"/proc/self/fd/{self._descriptor}").readlink()
            if self._is(moved):
                self._report(f"warning: {self.location} was renamed: the run continues in {moved}")
                self.location = moved
                return moved
        self._make_again()
        return self.location

    def _move_to(self, path: Path) -> None:
        flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
        self.location, self._descriptor = path, os.open(path, flags)
        self._held.callback(os.close, self._descriptor)
        if self._initial_weights:
            with explaining(f"{path} cannot be written", "free some space, or fix that"):
                write_atomically(path / INITIAL_WEIGHTS, self._initial_weights)

    def _is(self, path: Path) -> bool:
        with suppress(OSError):
            return os.path.samestat(os.fstat(self._descriptor), path.stat())
        return False

    def _make_again(self) -> None:
        lost, made = self.location, None
        try:
            made = make_unused(lost)
            occupy(made, self._config, self._held)
        except (InputError, OSError) as error:
            if made:
                with suppress(OSError):
                    made.rmdir()
            raise OSError(errno.EIO, f"it was removed and cannot be made again: {error}") from error
        self._move_to(made)
        self._report(
            f"warning: {lost} was removed during the run: writing its files again, to {made}"
        )
        for file in self._files:
            file.file_is_lost()


def create_run_directory(
    config: Config, held: ExitStack, carried: Sequence[Checkpoint] = (), any_owner: bool = False
) -> Path:
    """Make the folder and ``occupy`` it. One of another user is refused unless ``any_owner``."""
    path = Path(config.output or "runs")
    made = [each for each in (path, *path.parents) if not os.path.exists(each)]  # noqa: PTH110
    problem = f"--output: {path} cannot be written"
    try:
        with explaining(problem, "name a folder with write permission"):
            path.mkdir(parents=True, exist_ok=True)
            if not config.output:
                model = re.sub(r"[^A-Za-z0-9._-]+", "-", config.model)
                path = make_unused(path / f"{model}-{time.strftime('%Y%m%d-%H%M%S')}")
                made.insert(0, path)
            if not any_owner and path not in made:
                run_files.require_owner(path, CHECKPOINTS)
            occupy(path, config, held, carried)
    except InputError:
        for each in made:
            with suppress(OSError):
                each.rmdir()
        raise
    return path


def occupy(path: Path, config: Config, held: ExitStack, carried: Sequence[Checkpoint] = ()) -> None:
    """Lock the folder until ``held`` closes, and make it a run's, or leave it as it was."""
    unlocked, filled = not os.path.lexists(path / run_files.LOCK), list[Path]()
    store = CheckpointStore(path / CHECKPOINTS)
    with ExitStack() as lock:
        lock.enter_context(run_files.locked(path))
        try:
            _require_no_run(path)
            remove_temporary_files(path)
            store.remove_temporary_files()
            for checkpoint in carried:
                filled.append(store.path_of(checkpoint.step))
                store.save(checkpoint.step, checkpoint)
            run_files.write_config(path, config)
        except BaseException:
            with suppress(OSError):
                for file in filled:
                    file.unlink(missing_ok=True)
                if filled:
                    store.folder.rmdir()
            if unlocked:
                (path / run_files.LOCK).unlink(missing_ok=True)
            raise
        held.enter_context(lock.pop_all())


def _require_no_run(path: Path) -> None:
    found = [
        name for name in (*results.ALL_FILES, results.SHA256SUMS) if os.path.lexists(path / name)
    ]
    if found or CheckpointStore(path / CHECKPOINTS).steps():
        raise InputError(
            f"--output: {path} already holds a run ({[*found, CHECKPOINTS][0]}): name another"
            f" folder, or continue that run with --resume {path}"
        )


def make_unused(path: Path) -> Path:
    """Make the folder ``path``, or ``path``-2 and so on: one that nobody else has made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000))):
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))

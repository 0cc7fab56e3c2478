"""The run directory: what a run leaves behind. Only root writes it."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from distcnn.checkpoints import Checkpoint, CheckpointError, CheckpointStore
from distcnn.checkpoints.weights import BEST_WEIGHTS, Arrays, encode_weights
from distcnn.checkpoints.writer import DISK_IS_FULL, with_room
from distcnn.config import Config
from distcnn.errors import InputError
from distcnn.nn import Parameters
from distcnn.system.files import explaining, remove_temporary_files
from distcnn.training import run_files
from distcnn.training.results import (
    ALL_FILES,
    CONFIG,
    METRICS,
    RECEIPT,
    SUMS,
    Records,
    RunResult,
    describe,
    write_results,
)

CHECKPOINTS = "checkpoints"


class RunDirectory(Records):
    """``config.toml`` first, then line by line metrics and receipt, at the end weights and result.

    If the folder is renamed meanwhile, it is followed; if it is removed, it is made again and the
    content in memory is written again. ``held`` keeps the folder's lock to the end of the run.
    """

    def __init__(
        self, path: Path, config: Config, report: Callable[[str], None], held: ExitStack
    ) -> None:
        self.path = path
        self._config, self._report, self._held = config, report, held
        self._descriptor = self._open()
        self.best: tuple[int, Arrays] = (-1, {})
        """The best weights and their step; a resumed run has them in a checkpoint only."""
        self.metrics = run_files.LineLog(METRICS, self.locate, report)
        self.receipt = run_files.LineLog(RECEIPT, self.locate, report)

    def add_metrics(self, kind: str, **values: Any) -> None:
        self.metrics.add({"kind": kind, **values})

    def add_receipt(self, kind: str, step: int, **values: Any) -> None:
        self.receipt.add({"kind": kind, "step": step, **values})

    def finish(self, parameters: Parameters, result: RunResult) -> None:
        """Write weights and result, and complete the other files.

        ``InputError`` when the disk does not take them: the run can be resumed and finished later.
        """
        weights = parameters.named()
        last = encode_weights(weights, describe(result, result.steps, result.test_accuracy))

        def write() -> None:
            folder = self.locate()
            content = run_files.encode_config(self._config)
            run_files.restore_file(folder / CONFIG, content, self._report)
            self.metrics.complete()
            self.receipt.complete()
            write_results(folder, result, last, best)

        try:
            best = self._best_weights(self.locate(), weights, result)
            store = CheckpointStore(self.path / CHECKPOINTS)
            with_room(write, lambda: store.make_room(result.steps, result.best_step))
        except OSError as error:
            first = "free some space" if error.errno in DISK_IS_FULL else "fix that"
            remedy = f"{first}, then finish the run with --resume {self.path}"
            if not self._is(self.path):
                remedy = "start a new run elsewhere"
            raise InputError(
                f"the results cannot be written to {self.path} ({_reason(error)}): {remedy}"
            ) from error

    def _best_weights(self, folder: Path, last: Arrays, result: RunResult) -> bytes | None:
        """The file of the best weights, perhaps from a checkpoint; None if they are lost."""
        step, (best_step, best) = result.best_step, self.best
        if step == result.steps:
            best = last
        elif step != best_step:
            try:
                best = CheckpointStore(folder / CHECKPOINTS).load(step).folder("weights")
                if any(best[name].shape != values.shape for name, values in last.items()):
                    raise CheckpointError("it belongs to another network")
            except (CheckpointError, InputError, KeyError) as error:
                self._report(
                    f"warning: {BEST_WEIGHTS} is not written: the checkpoint of step {step}, the"
                    f" best, cannot be read ({error})"
                )
                return None
        attributes = describe(result, step, result.best_test_accuracy)
        return encode_weights({name: best[name] for name in last}, attributes)

    def locate(self) -> Path:
        """The folder's current path. ``OSError`` when it was removed and cannot be made again."""
        if self._is(self.path):
            return self.path
        with suppress(OSError):
            moved = Path(f"/proc/self/fd/{self._descriptor}").readlink()
            if self._is(moved):
                self._report(f"warning: {self.path} was renamed: the run continues in {moved}")
                self.path = moved
                return moved
        self._make_again()
        return self.path

    def _open(self) -> int:
        descriptor = os.open(
            self.path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
        )
        self._held.callback(os.close, descriptor)
        return descriptor

    def _is(self, path: Path) -> bool:
        with suppress(OSError):
            return os.path.samestat(os.fstat(self._descriptor), path.stat())
        return False

    def _make_again(self) -> None:
        lost, made = self.path, None
        try:
            made = make_unused(lost)
            occupy(made, self._config, self._held)
        except (InputError, OSError) as error:
            if made:
                with suppress(OSError):
                    made.rmdir()
            raise OSError(errno.EIO, f"it was removed and cannot be made again: {error}") from error
        self.path = made
        self._descriptor = self._open()
        self._report(
            f"warning: {lost} was removed during the run: writing its files again, to {made}"
        )
        self.metrics.file_is_lost()
        self.receipt.file_is_lost()


def _reason(error: OSError) -> str:
    """What went wrong; names the file if something else is in its way."""
    place = error.filename2 or error.filename  # a rename has two paths; the second is the target
    is_in_the_way = place and error.errno in (errno.EISDIR, errno.ENOTDIR)
    return f"{error.strerror}: {Path(place).name}" if is_in_the_way else f"{error.strerror}"


def create_run_directory(
    config: Config,
    held: ExitStack,
    checkpoints: Mapping[int, Checkpoint] | None = None,
    any_owner: bool = False,
) -> Path:
    """Make the folder and ``occupy`` it. One of another user is refused unless ``any_owner``."""
    path = Path(config.output or "runs")
    made = [each for each in (path, *path.parents) if not os.path.exists(each)]  # noqa: PTH110
    problem = f"--output: {path} cannot be written"
    try:
        with explaining(problem, "name a folder with write permission"):
            path.mkdir(parents=True, exist_ok=True)
            if not config.output:
                path = make_unused(path / default_name(config.model))
                made.insert(0, path)
            if not any_owner and path not in made:
                run_files.require_owner(path, CHECKPOINTS)
            occupy(path, config, held, checkpoints)
    except InputError:
        for each in made:
            with suppress(OSError):
                each.rmdir()
        raise
    return path


def occupy(
    path: Path, config: Config, held: ExitStack, checkpoints: Mapping[int, Checkpoint] | None = None
) -> None:
    """Lock the folder until ``held`` closes, write the ``checkpoints`` it begins with, then
    ``config.toml``, which makes it a run's.

    If another process uses it, or it holds a run already, it is left as it was.
    """
    unlocked, filled = not os.path.lexists(path / run_files.LOCK), list[int]()
    store = CheckpointStore(path / CHECKPOINTS)
    with ExitStack() as lock:
        lock.enter_context(run_files.locked(path))
        try:
            _require_no_run(path)
            remove_temporary_files(path)
            store.remove_temporary_files()
            for step, checkpoint in (checkpoints or {}).items():
                filled.append(step)
                store.save(step, checkpoint)
            run_files.write_config(path, config)
        except BaseException:
            if filled:
                store.remove(filled)
            if unlocked:
                (path / run_files.LOCK).unlink(missing_ok=True)
            raise
        held.enter_context(lock.pop_all())


def _require_no_run(path: Path) -> None:
    found = [name for name in (*ALL_FILES, SUMS) if os.path.lexists(path / name)]
    if found or CheckpointStore(path / CHECKPOINTS).steps():
        raise InputError(
            f"--output: {path} already holds a run ({[*found, CHECKPOINTS][0]}): name another"
            f" folder, or continue that run with --resume {path}"
        )


def default_name(model: str) -> str:
    """The default name of a new run: its model and the time."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', model)}-{time.strftime('%Y%m%d-%H%M%S')}"


def make_unused(path: Path) -> Path:
    """Make the folder ``path``, or ``path``-2 and so on: one that nobody else has made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000))):
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))

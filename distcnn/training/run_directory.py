"""The run directory: what a run leaves behind. Only root writes it."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py

from distcnn.config import Config, read_toml
from distcnn.errors import InputError
from distcnn.files import write_atomically
from distcnn.nn import Sequential
from distcnn.training.replicas import array_sha256

CONFIG, METRICS, RECEIPT, RESULT, WEIGHTS, CHECKPOINTS = (
    "config.toml",
    "metrics.jsonl",
    "receipt.jsonl",
    "result.json",
    "weights.h5",
    "checkpoints",
)
LOCK = ".lock"
OF_PATHS = "surrogateescape"
"""How a path that is not valid UTF-8 is encoded: the bytes that the file system has for it."""
END_OF_CONFIG = "# The run's own record; to change a flag, give it with --resume. SHA-256 of the lines above: "


class LineLog:
    """A file of JSON lines that is also kept in memory: a full disk neither ends the run nor leaves half a line for good."""

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self._path, self._report = path, report
        self._lines: list[str] = []
        self._whole = True

    @property
    def text(self) -> str:
        """All lines so far."""
        return "".join(self._lines)

    def restore(self, text: str) -> None:
        """Let the file hold exactly ``text``."""
        self._lines, self._whole = [text], False
        self._write("")

    def add(self, values: dict[str, Any]) -> None:
        """Append one line."""
        line = json.dumps(values) + "\n"
        self._lines.append(line)
        self._write(line)

    def _write(self, line: str) -> None:
        try:
            if self._whole:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(line)
            else:
                write_atomically(self._path, self.text.encode(), sync=False)
                self._whole = True
        except OSError as error:
            if self._whole:
                self._report(f"warning: {self._path} cannot be written ({error.strerror}): its lines are kept in memory; training goes on")
            self._whole = False


class RunDirectory:
    """``config.toml`` at the start, ``metrics.jsonl`` and ``receipt.jsonl`` line by line, ``weights.h5`` and ``result.json`` at the end."""

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self.path = path
        self.metrics, self.receipt = LineLog(path / METRICS, report), LineLog(path / RECEIPT, report)

    def add_metrics(self, kind: str, **values: Any) -> None:
        """Append one line: its ``kind`` ("step" or "epoch") and the values."""
        self.metrics.add({"kind": kind, **values})

    def add_receipt(self, kind: str, step: int, **values: Any) -> None:
        """Append one line on the state after ``step`` steps."""
        self.receipt.add({"kind": kind, "step": step, **values})

    def finish(self, network: Sequential, result: dict[str, Any]) -> None:
        """Write weights and result. ``InputError`` when the disk takes neither: the run can be resumed and finished later."""
        try:
            self._write_weights(network, result["params_sha256"])
            # The summary comes last: where it is, the run is over.
            write_atomically(self.path / RESULT, (json.dumps(result, indent=2) + "\n").encode())
        except OSError as error:
            raise InputError(
                f"the results cannot be written to {self.path} ({error.strerror}): make room, then finish the run with --resume {self.path}"
            ) from error

    def _write_weights(self, network: Sequential, sha256: str) -> None:
        """One dataset for each named parameter, in the network's order and PyTorch's shapes."""
        memory = io.BytesIO()
        with h5py.File(memory, "w", track_order=True) as file:
            file.attrs["params_sha256"] = sha256
            for name, values in network.named_values().items():
                file.create_dataset(name, data=values)
        write_atomically(self.path / WEIGHTS, memory.getvalue())


def read_results(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """``result.json``, and the SHA-256 of each parameter in ``weights.h5``. ``OSError`` or ``ValueError`` when they cannot be read."""
    result = json.loads((path / RESULT).read_text(encoding="utf-8"))
    if not isinstance(result, dict):
        raise ValueError(f"{RESULT} is no table")
    with h5py.File(path / WEIGHTS, "r") as file:
        return result, {name: array_sha256(file[name][()]) for name in file}


def read_result(path: Path) -> dict[str, Any] | None:
    """``result.json``, when it is whole and ``weights.h5`` holds the weights that it speaks of; else None."""
    try:
        result, _ = read_results(path)
        with h5py.File(path / WEIGHTS, "r") as file:
            same = file.attrs["params_sha256"] == result["params_sha256"]
        numbers = [result[key] for key in ("steps", "test_accuracy", "test_correct", "test_examples", "test_loss", "train_loss")]
        whole = all(isinstance(each, int | float) for each in [*numbers, result["dataset"]["train_examples"]])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if same and whole else None


class NoRunDirectory:
    """What all ranks but root have: it takes everything and keeps nothing."""

    def add_metrics(self, kind: str, **values: Any) -> None:
        """Keep nothing."""

    def add_receipt(self, kind: str, step: int, **values: Any) -> None:
        """Keep nothing."""

    def finish(self, network: Sequential, result: dict[str, Any]) -> None:
        """Keep nothing."""


def create_run_directory(config: Config) -> Path:
    """Make the directory with its ``config.toml``. ``InputError`` when it holds a run already or cannot be written."""
    path = Path(config.output) if config.output else _unused(Path("runs"), config.model)
    held = [name for name in (CONFIG, METRICS, RECEIPT, RESULT, WEIGHTS, CHECKPOINTS) if os.path.lexists(path / name)]
    if held:
        raise InputError(
            f"--output: {path} already holds a run ({held[0]}): name another folder, or continue that run with --resume {path}"
        )
    made = [each for each in (path, *path.parents) if not os.path.exists(each)]  # noqa: PTH110  (Path's raises for too long a name)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_config(path, config)
    except OSError as error:
        for leave in (each.rmdir for each in made):
            with suppress(OSError):
                leave()
        raise InputError(f"--output: {path} cannot be written ({error.strerror}): name a folder that you may write to") from error
    return path


def write_config(path: Path, config: Config) -> None:
    """Store the configuration of the run in ``path``."""
    import tomli_w  # root's alone, as tomllib

    text = tomli_w.dumps(dataclasses.asdict(config))
    write_atomically(path / CONFIG, (text + _end_of(text)).encode(errors=OF_PATHS))


def read_config(path: Path) -> Config:
    """The configuration stored in ``path``. ``InputError`` when it is not just as it was written."""
    file = path / CONFIG
    try:
        text = file.read_text(encoding="utf-8", errors=OF_PATHS)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error})") from error
    text, mark, end = text.partition(END_OF_CONFIG)
    if mark + end != _end_of(text):
        raise InputError(f"{file} is damaged or was altered: its SHA-256 is not the one in its last line")
    return Config(**read_toml(file, OF_PATHS))


def _end_of(text: str) -> str:
    """The last line of a configuration, by which damage shows."""
    return f"{END_OF_CONFIG}{hashlib.sha256(text.encode(errors=OF_PATHS)).hexdigest()}\n"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let no other process write this run meanwhile. ``InputError`` when one does. File systems without locks are let be."""
    try:
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): a run writes into its folder; give --output another one") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InputError(f"{path} is in use by another run that has not ended: wait for it, or end it, before it is resumed") from error
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def _unused(folder: Path, model: str) -> Path:
    stem = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', model)}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
    return next(folder / name for name in names if not (folder / name).exists())

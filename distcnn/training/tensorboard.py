"""TensorBoard's event files, which a callback writes: the metrics of a run as scalars."""

from __future__ import annotations

import importlib.util
import itertools
import numbers
import os
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from distcnn.errors import InputError
from distcnn.system.files import explaining
from distcnn.training.callbacks import Callback
from distcnn.training.line_files import GrowingFile, recorded_metrics
from distcnn.training.progress import LoggedProgress
from distcnn.training.receipt import MALFORMED, Line
from distcnn.training.results import RunResult
from distcnn.training.run_files import Report

PREFIX, SUFFIX = "events.out.tfevents", ".distcnn"
INSTALL = "pip install tensorboardX, or train without them (--no-tensorboard)"


class TensorBoard(Callback):
    """Writes the metrics for TensorBoard, on rank 0: ``tensorboard --logdir runs``.

    Scalars by step: ``step/loss``, ``step/learning_rate`` and ``step/images_per_second`` for each
    log interval, ``epoch/train_loss``, ``epoch/test_accuracy`` and so on for each epoch. When a run
    is resumed, a new file with all steps until then replaces the one before, so that each step
    is shown once. A full disk does not end the run.

    Args:
        folder: where to write; by default the run directory. In another folder no file is removed,
            as it may be of another run: give each run its own.
        report: takes warnings; by default the logger "distcnn".

    Raises:
        InputError: tensorboardX is not installed.

    Example:
        >>> trainer.fit("data/mnist.h5", output="runs/first", callbacks=[dc.TensorBoard()])
    """

    def __init__(self, folder: str | Path | None = None, report: Report | None = None) -> None:
        if importlib.util.find_spec("tensorboardX") is None:
            raise InputError(f"TensorBoard's files need tensorboardX: {INSTALL}")
        self._folder, self._report = folder, report or LoggedProgress().say
        self._file: GrowingFile | None = None

    def on_prepare(self, rank: int, output: Path | None) -> None:
        """Choose the folder."""
        self._output, self._file = output, None
        folder = output if self._folder is None else Path(self._folder)
        if rank != 0:
            return
        if folder is None:
            raise InputError("TensorBoard has no folder: name one, or give the run an output")
        require_tensorboardx()
        with explaining(f"TensorBoard: {folder} cannot be made", "name another folder"):
            folder.mkdir(parents=True, exist_ok=True)
        name = f"{PREFIX}.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        names = (folder / f"{name}.{number}{SUFFIX}" for number in itertools.count())
        self._path = next(path for path in names if not path.exists())
        self._file = GrowingFile(self._path.name, lambda: folder, self._report)

    def on_start(self, total_steps: int, steps_taken: int) -> None:
        """Begin the file with what the run has recorded until here."""
        if self._file:
            lines = [line for line in recorded(self._output) if line["step"] <= steps_taken]
            self._file.begin_with(b"".join([first_records(), *map(record_of_line, lines)]))
            self._file.append(b"")
            self._remove_older()

    def on_log(self, metrics: Mapping[str, Any]) -> None:
        """Append a record."""
        if self._file:
            self._file.append(record_of_line({"kind": "step", **metrics}))

    def on_epoch(self, metrics: Mapping[str, Any]) -> None:
        """Append a record."""
        if self._file:
            self._file.append(record_of_line({"kind": "epoch", **metrics}))

    def on_end(self, result: RunResult) -> None:
        """Write what a full disk has kept back."""
        if self._file:
            with suppress(OSError):
                self._file.complete()
            self._remove_older()

    def _remove_older(self) -> None:
        """Remove the files of this run that this one replaces, once it is there."""
        if self._folder is None and self._path.exists():
            for path in self._path.parent.glob(f"{PREFIX}.*{SUFFIX}"):
                if path != self._path:
                    with suppress(OSError):
                        path.unlink()


def require_tensorboardx() -> None:
    """Import tensorboardX, or raise ``InputError``."""
    try:
        import tensorboardX.proto.event_pb2
        import tensorboardX.record_writer  # noqa: F401
    except Exception as error:  # its protobuf raises TypeError where versions do not match
        first_line = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"TensorBoard's files need tensorboardX, which cannot be imported ({first_line}):"
            f" {INSTALL}"
        ) from error


def recorded(output: Path | None) -> Iterable[Line]:
    """The lines of metrics in a run directory that is resumed."""
    with suppress(OSError, *MALFORMED):
        if output:
            return recorded_metrics(output)
    return []


def first_records() -> bytes:
    """What an event file begins with. Readers forget what older files of the folder had."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    start = SessionLog(status=SessionLog.START)
    return _framed(Event(wall_time=time.time(), file_version="brain.Event:2")) + _framed(
        Event(wall_time=time.time(), step=0, session_log=start)
    )


def record_of_line(line: Line) -> bytes:
    """A line of metrics as a record: its numbers are scalars named after kind and column."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    values = [
        Summary.Value(tag=f"{line['kind']}/{name}", simple_value=value)
        for name, value in line.items()
        if isinstance(value, numbers.Real) and name not in ("step", "epoch")
    ]
    return _framed(Event(wall_time=time.time(), step=line["step"], summary=Summary(value=values)))


def _framed(event: Any) -> bytes:
    """An event as a record of a TFRecord file: length and content, each with its checksum."""
    from tensorboardX.record_writer import masked_crc32c

    content: bytes = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    sums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return length + next(sums) + content + next(sums)

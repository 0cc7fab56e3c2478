"""The sweep directory: the settings, and a record of every measurement, written when it ends, so
that a sweep can continue.

    sweep.json                                      the settings; another sweep is refused
    measurements/strong-2-ranks-repeat-1.json       a record; its output is in the .log
    scaling.json, scaling.png                       the results, when no record is missing
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcnn.config import Config, as_flag
from distcnn.errors import InputError
from distcnn.scaling.options import Settings
from distcnn.scaling.points import MEASUREMENTS, Job
from distcnn.scaling.result import Result, read_result
from distcnn.system.files import read_bytes, write_atomically
from distcnn.training.run_files import locked

SETTINGS = "sweep.json"


@dataclass(frozen=True)
class Record:
    """How a measurement ended: a result, or the ``reason`` for its failure.

    ``seconds`` include the start of the ranks and reading data.
    """

    job: Job
    result: Result | None
    reason: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """One table, flat except for the result."""
        table = dataclasses.asdict(self)
        job = table.pop("job")
        return {**job.pop("point"), **job, "log": self.job.log, **table}


class Sweep:
    """An open sweep directory at ``path``, of a sweep with ``settings``."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        if (path / MEASUREMENTS).is_symlink():
            raise InputError(f"{path / MEASUREMENTS} is a symbolic link: replace it with a folder")

    def add(self, record: Record) -> None:
        """Write ``record``, replacing an earlier one of the same measurement."""
        self.write(record.job.record, record.to_json())

    def find(self, job: Job) -> Record | None:
        """Read the record of ``job``; None if there is none, or it is damaged."""
        try:
            table = json.loads(read_bytes(self.path / job.record, follow=True))
            result = table["result"] and read_result(table["result"], job.point)
            return Record(job, result, table["reason"], table["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, name: str, content: dict[str, Any] | bytes) -> Path:
        """Write a file of the sweep atomically, a table as JSON; return its path.

        ``InputError`` if it cannot be written.
        """
        file = self.path / name
        if not isinstance(content, bytes):
            content = (json.dumps(content, indent=1) + "\n").encode()
        try:
            write_atomically(file, content)
        except OSError as error:
            raise InputError(
                f"{file} cannot be written ({error.strerror}): free some space, then run the same"
                f" command with --output {self.path} to continue"
            ) from error
        return file


@contextmanager
def opened(output: str, settings: Settings) -> Iterator[Sweep]:
    """Open the sweep directory ``output``, a new one if empty, and lock it.

    ``InputError`` if it cannot be made, is in use, or belongs to another sweep.
    """
    path = Path(output or unused_directory())
    try:
        (path / MEASUREMENTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--output: {path} cannot be made ({error.strerror}): name a folder that you may"
            " write to"
        ) from error
    with locked(path):
        if (path / SETTINGS).exists():
            require_same(read_settings(path), settings, path)
        sweep = Sweep(path, settings)
        sweep.write(SETTINGS, dataclasses.asdict(settings))
        yield sweep


def read_settings(path: Path) -> Settings:
    """Read the settings of the sweep in ``path``; ``InputError`` if they are damaged."""
    try:
        table = json.loads(read_bytes(path / SETTINGS, follow=True))
        return Settings(**{**table, "ranks": tuple(table["ranks"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path / SETTINGS} is damaged or of an earlier version ({error}): name another"
            " --output for a new sweep"
        ) from error


def require_same(before: Settings, now: Settings, path: Path) -> None:
    """Raise ``InputError`` naming a flag that differs from those the sweep was started with."""
    tables = []
    for settings in (before, now):
        flags = settings.flags_of(settings.points[0])
        of_sweep = {**dataclasses.asdict(settings), "flags": None}
        tables.append({**of_sweep, **flags, **vars(Config(**flags))})
    was, given = tables
    for name in was:
        if was[name] != given[name]:
            raise InputError(
                f"{path} holds a sweep with {as_flag(name)} {was[name]}, not {given[name]}: give"
                " the same flags to continue it, or name another --output"
            )


def unused_directory() -> Path:
    """Return ``runs/scaling-<time>``, with a number if it exists."""
    stem = f"runs/scaling-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
    return next(path for path in map(Path, names) if not path.exists())

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
from distcnn.scaling.options import Request, Settings
from distcnn.scaling.points import Job
from distcnn.scaling.result import Result, read_result
from distcnn.system.files import read_bytes, write_atomically
from distcnn.training.run_files import locked

SETTINGS, MEASUREMENTS = "sweep.json", "measurements"


@dataclass(frozen=True)
class Record:
    """How a measurement ended.

    Attributes:
        result: None if it failed.
        reason: why it failed.
        log: the file with its output, relative to the sweep directory.
        seconds: how long it took, with the start of the ranks and reading data.
    """

    job: Job
    result: Result | None
    reason: str
    log: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """A table for JSON."""
        return {
            **dataclasses.asdict(self.job.point),
            "repeat": self.job.repeat,
            "reason": self.reason,
            "log": self.log,
            "seconds": self.seconds,
            "result": self.result and self.result.to_json(),
        }


class Sweep:
    """An open sweep directory.

    Attributes:
        path: the folder.
        settings: what is measured.

    Raises:
        InputError: the folder of records is a symbolic link.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        folder = path / MEASUREMENTS
        if folder.is_symlink():
            raise InputError(f"{folder} is a symbolic link: replace it with a folder")

    def log_of(self, job: Job) -> Path:
        """The log of its processes."""
        return self.path / MEASUREMENTS / f"{job.name}.log"

    def add(self, record: Record) -> None:
        """Write ``record``, replacing an earlier one of the same measurement."""
        name = f"{MEASUREMENTS}/{record.job.name}.json"
        self.write(name, json.dumps(record.to_json(), indent=1) + "\n")

    def find(self, job: Job) -> Record | None:
        """Read the record of ``job``; None if there is none, or it is damaged."""
        file = self.path / MEASUREMENTS / f"{job.name}.json"
        try:
            table = json.loads(read_bytes(file, follow=True))
            names = ("reason", "log", "seconds")
            result = table["result"] and read_result(table["result"], job.point)
            return Record(job, result, **{name: table[name] for name in names})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file of the sweep atomically; return its path.

        Raises:
            InputError: it cannot be written.
        """
        file = self.path / name
        try:
            write_atomically(file, content.encode() if isinstance(content, str) else content)
        except OSError as error:
            raise InputError(
                f"{file} cannot be written ({error.strerror}): free some space, then run the same"
                f" command with --output {self.path} to continue"
            ) from error
        return file


@contextmanager
def opened(request: Request) -> Iterator[Sweep]:
    """Open the sweep directory, a new one or one to continue, and lock it.

    Raises:
        InputError: it cannot be made, is in use, or belongs to another sweep.
    """
    path = Path(request.output or unused_directory())
    try:
        (path / MEASUREMENTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--output: {path} cannot be made ({error.strerror}): name a folder that you may"
            " write to"
        ) from error
    with locked(path):
        if (path / SETTINGS).exists():
            require_same(read_settings(path), request.settings, path)
        sweep = Sweep(path, request.settings)
        sweep.write(SETTINGS, json.dumps(dataclasses.asdict(request.settings), indent=1) + "\n")
        yield sweep


def read_settings(path: Path) -> Settings:
    """Read the settings of the sweep in ``path``.

    Raises:
        InputError: they are damaged, or of an earlier version.
    """
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
    tables = [
        {
            **dataclasses.asdict(settings.points[0]),
            **vars(Config(**settings.flags_of(settings.points[0]))),
            **dataclasses.asdict(settings),
            "flags": None,
        }
        for settings in (before, now)
    ]
    for name, was in tables[0].items():
        if was != tables[1][name]:
            raise InputError(
                f"{path} holds a sweep with {as_flag(name)} {was}, not {tables[1][name]}: give the"
                " same flags to continue it, or name another --output"
            )


def unused_directory() -> Path:
    """Return ``runs/scaling-<time>``, with a number if it exists."""
    stem = f"scaling-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
    return next(Path("runs") / name for name in names if not (Path("runs") / name).exists())

"""The sweep directory: what was asked for, and a record of each measurement, written whole when it
is over. So a sweep can go on.

sweep.json                                    the settings: another sweep is refused here
measurements/strong-2-ranks-repeat-1.json     its record; the .log beside it holds all that its
processes said scaling.json  .csv  .png  .svg                what comes of all records, once none is
missing
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcnn.config import Config, as_flag
from distcnn.errors import InputError
from distcnn.scaling.options import Request, Settings
from distcnn.scaling.points import Measurement
from distcnn.scaling.result import Result, read_result
from distcnn.system.files import read_bytes, write_atomically
from distcnn.training.run_files import locked

SETTINGS, MEASUREMENTS = "sweep.json", "measurements"
KIND = "distcnn.scaling.measurement"


@dataclass(frozen=True)
class Record:
    """What became of a measurement: a result, or the reason why there is none."""

    measurement: Measurement
    result: Result | None
    reason: str
    log: str
    """The file with all that its processes said, seen from the sweep directory."""
    command: list[str]
    started: str
    """Local time, ISO 8601."""
    seconds: float
    """From its start to its end: starting ranks and reading data count."""
    exit_code: int | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a result."""
        return self.result is not None

    def as_table(self) -> dict[str, Any]:
        """For JSON."""
        point = self.measurement.point
        return {
            "kind": KIND,
            **{
                name: getattr(point, name)
                for name in ("mode", "ranks", "num_shards", "microbatch_size")
            },
            "repeat": self.measurement.repeat,
            "ok": self.ok,
            **{
                name: getattr(self, name)
                for name in (
                    "reason",
                    "log",
                    "command",
                    "started",
                    "seconds",
                    "exit_code",
                    "result",
                )
            },
        }


class Records:
    """The records of the sweep directory ``path``.

    ``InputError`` when its folder of records is a link.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        if (path / MEASUREMENTS).is_symlink():
            raise InputError(
                f"{path / MEASUREMENTS} is a symbolic link: put the folder itself there; a link"
                " could lead to the files of others"
            )
        (path / MEASUREMENTS).mkdir(exist_ok=True)

    def remove_unfinished(self) -> None:
        """What a measurement left whose sweep was killed: results that nobody took, files written
        in part.
        """
        for file in (self.path / MEASUREMENTS).glob(".*"):
            with suppress(OSError):
                file.unlink()

    def log_of(self, measurement: Measurement) -> Path:
        """Where its processes write."""
        return self.path / MEASUREMENTS / f"{measurement.name}.log"

    def add(self, record: Record) -> None:
        """Keep it, in the place of an earlier one. ``InputError`` when the disk takes it not."""
        self.write(
            f"{MEASUREMENTS}/{record.measurement.name}.json",
            json.dumps(record.as_table(), indent=1) + "\n",
        )

    def find(self, measurement: Measurement) -> Record | None:
        """The record of ``measurement``; None when there is none that is whole."""
        try:
            table = json.loads(
                read_bytes(self.path / MEASUREMENTS / f"{measurement.name}.json", follow=True)
            )
            point = measurement.point
            if (table["kind"], table["ok"]) != (KIND, table["result"] is not None):
                return None
            result = read_result(json.dumps(table["result"]), point) if table["ok"] else None
            kept = {
                name: table[name]
                for name in ("reason", "log", "command", "started", "seconds", "exit_code")
            }
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Record(measurement, result, **kept)

    def write(self, name: str, content: str | bytes) -> Path:
        """Write the file ``name``, whole or not at all; its path.

        ``InputError`` when the disk takes it not.
        """
        file = self.path / name
        try:
            write_atomically(file, content.encode() if isinstance(content, str) else content)
        except OSError as error:
            raise InputError(
                f"{file} cannot be written ({error.strerror}): make room, then run the same command"
                f" with --output {self.path} to go on"
            ) from error
        return file


@contextmanager
def opened(request: Request) -> Iterator[Records]:
    """The sweep directory, new or to go on in, for no other process meanwhile.

    ``InputError`` when it cannot be, or is of another sweep.
    """
    path = Path(request.output or unused_directory())
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--output: {path} cannot be made ({error.strerror}): name a folder that you may"
            " write to"
        ) from error
    with locked(path):
        if (path / SETTINGS).exists():
            require_same(read_settings(path), request.settings, path)
        else:
            try:
                write_atomically(
                    path / SETTINGS,
                    (json.dumps(dataclasses.asdict(request.settings), indent=1) + "\n").encode(),
                )
            except OSError as error:
                raise InputError(
                    f"--output: {path} cannot be written ({error.strerror}): name a folder that you"
                    " may write to"
                ) from error
        yield Records(path, request.settings)


def read_settings(path: Path) -> Settings:
    """Those of the sweep in ``path``. ``InputError`` when they are not whole."""
    try:
        table = json.loads(read_bytes(path / SETTINGS, follow=True))
        return Settings(**{**table, "ranks": tuple(table["ranks"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path / SETTINGS} cannot be read ({error}): name another --output, for a new sweep"
        ) from error


def require_same(before: Settings, now: Settings, path: Path) -> None:
    """``InputError`` names the flag that is not as it was when the sweep in ``path`` began."""
    for flag, was, is_now in _differences(before, now):
        raise InputError(
            f"{path} holds a sweep with {flag} {was}, not {is_now}: give the flags as they were to"
            " go on with it, or name another --output"
        )


def _differences(before: Settings, now: Settings) -> Iterator[tuple[str, str, str]]:
    for each in dataclasses.fields(Settings):
        was, is_now = getattr(before, each.name), getattr(now, each.name)
        if each.name != "flags" and was != is_now:
            yield as_flag(each.name), _text(was), _text(is_now)
    for each in dataclasses.fields(Config):
        chosen = each.name in (
            "num_shards",
            "microbatch_size",
        )  # by the sweep, where it is not given
        default = "unset" if chosen else each.default
        was, is_now = before.flags.get(each.name, default), now.flags.get(each.name, default)
        if was != is_now:
            yield as_flag(each.name), str(was), str(is_now)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def unused_directory() -> Path:
    """``runs/scaling-<time>``, not there yet."""
    stem = f"scaling-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
    return next(Path("runs") / name for name in names if not (Path("runs") / name).exists())

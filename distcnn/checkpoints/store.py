"""The folder of a run's checkpoints: written whole or not at all, the last few and the best kept, the damaged set aside."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distcnn.checkpoints.format import Checkpoint, CheckpointError, VersionError, decode, encode
from distcnn.errors import InputError
from distcnn.files import TEMPORARY_SUFFIX, write_atomically

NAME = re.compile(r"step-(\d{9,})\.h5")


@dataclass(frozen=True)
class CheckpointStore:
    """``folder`` holds ``step-000000469.h5`` ...: the state after so many steps."""

    folder: Path

    def path_of(self, step: int) -> Path:
        """Where the checkpoint of ``step`` lies."""
        return self.folder / f"step-{step:09d}.h5"

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, whole or not, in order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(found.group(1)) for each in self.folder.iterdir() if (found := NAME.fullmatch(each.name)))

    def save(self, step: int, checkpoint: Checkpoint) -> Path:
        """Write it, synced. ``OSError`` leaves every other checkpoint as it was."""
        self.folder.mkdir(exist_ok=True)
        path = self.path_of(step)
        write_atomically(path, *encode(checkpoint))
        return path

    def prune(self, keep: int, also: int | None) -> None:
        """Delete all but the last ``keep`` and that of the step ``also`` (the best)."""
        for step in self.steps()[:-keep]:
            if step != also:
                with suppress(OSError):
                    self.path_of(step).unlink()

    def load(self, step: int) -> Checkpoint:
        """Read one. ``CheckpointError`` when it is not whole or of another step, ``InputError`` when it may not be read or is too new."""
        path = self.path_of(step)
        try:
            checkpoint = decode(path.read_bytes())
        except PermissionError as error:
            raise InputError(f"{path} may not be read: check its permissions") from error
        except OSError as error:
            raise CheckpointError(f"it cannot be read ({error.strerror})") from error
        except VersionError as error:
            raise InputError(f"{path}: {error}: use the distcnn that wrote it, or a newer one") from error
        if checkpoint.attributes.get("step") != step:
            raise CheckpointError(f"it is of step {checkpoint.attributes.get('step')}, not of the one in its name")
        return checkpoint

    def newest(self, report: Callable[[str], None], at_most: int | None = None, set_aside: bool = True) -> Checkpoint | None:
        """The newest whole checkpoint (of a step of ``at_most``), or None.

        Damaged ones are reported, and renamed unless ``set_aside`` is off.
        """
        for step in reversed([each for each in self.steps() if at_most is None or each <= at_most]):
            try:
                return self.load(step)
            except CheckpointError as error:
                path = self.path_of(step)
                kept = self._set_aside(path) if set_aside else path
                report(
                    f"checkpoint {path} is damaged: {error}; {f'kept as {kept.name}, ' if kept != path else ''}the one before it is taken"
                )
        return None

    def remove_temporary_files(self) -> None:
        """What a killed run left half written."""
        if self.folder.is_dir():
            for path in self.folder.glob(f".*{TEMPORARY_SUFFIX}"):
                path.unlink(missing_ok=True)

    def _set_aside(self, path: Path) -> Path:
        names = (path.with_name(f"{path.name}.damaged{number}") for number in ("", *(f"-{each}" for each in range(2, 1000))))
        aside = next(each for each in names if not each.exists())
        try:
            return path.rename(aside)
        except OSError:
            return path

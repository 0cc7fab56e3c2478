"""The folder of a run's checkpoints: written completely or not at all, damaged ones set aside."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distcnn.checkpoints.format import Checkpoint, CheckpointError, decode, encode
from distcnn.errors import InputError
from distcnn.system import files

NAME = re.compile(r"step-(\d{9}|[1-9]\d{9,})\.h5")


@dataclass(frozen=True)
class CheckpointStore:
    """``folder``, never a link, holds ``step-000000469.h5`` ...: the state after that step."""

    folder: Path

    def path_of(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.h5"

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, intact or not, in order."""
        names: list[str] = []
        with files.explaining(f"{self.folder} cannot be read", "check its permissions"):
            if self.folder.is_symlink():
                raise InputError(f"{self.folder} is a symbolic link: replace it with the folder")
            with suppress(FileNotFoundError, NotADirectoryError):
                names = [path.name for path in self.folder.iterdir()]
        return sorted(int(found.group(1)) for name in names if (found := NAME.fullmatch(name)))

    def save(self, step: int, checkpoint: Checkpoint) -> Path:
        """Write it, synced. ``OSError`` leaves every other checkpoint as it was."""
        if self.folder.is_symlink():
            raise OSError(errno.ELOOP, f"{self.folder} is a symbolic link")
        if not self.folder.is_dir():
            self.folder.mkdir()
            files.sync_folder(self.folder.parent)
        path = self.path_of(step)
        files.write_atomically(path, *encode(checkpoint))
        return path

    def make_room(self, newest: int, also: int | None, keep: int = 1) -> bool:
        """Delete the oldest one up to ``newest``, but not the last ``keep`` or ``also``, if any."""
        with suppress(OSError, InputError):
            for step in [each for each in self.steps() if each <= newest][:-keep]:
                if step != also:
                    self.path_of(step).unlink()
                    return True
        return False

    def load(self, step: int) -> Checkpoint:
        """Read one. ``CheckpointError`` when it is damaged, ``InputError`` if it may be intact."""
        path = self.path_of(step)
        try:
            with files.explaining(f"{path} cannot be read", "fix that, or move it away"):
                content = files.read_bytes(path)
        except MemoryError as error:
            raise CheckpointError(f"its {path.stat().st_size:,} bytes exceed the memory") from error
        try:
            checkpoint = decode(content)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        found = checkpoint.attributes.get("step")
        if found != step:
            raise CheckpointError(f"it holds step {found}, not the step in its name")
        return checkpoint

    def newest(
        self, report: Callable[[str], None], at_most: int | None = None, set_aside: bool = True
    ) -> Checkpoint | None:
        """The latest intact checkpoint, up to step ``at_most``; damaged ones are reported."""
        steps = [each for each in self.steps() if at_most is None or each <= at_most]
        for step in reversed(steps):
            path = self.path_of(step)
            try:
                checkpoint = self.load(step)
            except CheckpointError as error:
                kept = _set_aside(path) if set_aside else ""
                report(f"warning: checkpoint {path} is damaged: {error}{kept}")
            else:
                if step != steps[-1]:
                    report(f"using the checkpoint before it: {path}")
                return checkpoint
        return None

    def remove_temporary_files(self) -> None:
        """Delete the unfinished files of killed writers."""
        if not self.folder.is_symlink():
            files.remove_temporary_files(self.folder)


def _set_aside(path: Path) -> str:
    """Rename a damaged file; the new name as text, empty where that is not possible."""
    numbers = ("", *(f"-{number}" for number in range(2, 1000)))
    names = (path.with_name(f"{path.name}.damaged{number}") for number in numbers)
    with suppress(OSError):
        return f"; kept as {path.rename(next(name for name in names if not name.exists())).name}"
    return ""

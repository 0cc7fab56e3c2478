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
from distcnn.system.files import read_bytes, remove_temporary_files, sync_folder, write_atomically

NAME = re.compile(r"step-(\d{9}|[1-9]\d{9,})\.h5")


@dataclass(frozen=True)
class CheckpointStore:
    """``folder`` holds ``step-000000469.h5`` ...: the state after that number of steps.

    A folder that is a link is not followed.
    """

    folder: Path

    def path_of(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.h5"

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, intact or not, in order."""
        if self.folder.is_symlink():
            raise InputError(f"{self.folder} is a symbolic link: replace it with the folder itself")
        try:
            found = [NAME.fullmatch(path.name) for path in self.folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise InputError(
                f"{self.folder} cannot be read ({error.strerror}): check its permissions"
            ) from error
        return sorted(int(name.group(1)) for name in found if name)

    def save(self, step: int, checkpoint: Checkpoint) -> Path:
        """Write it, synced. ``OSError`` leaves every other checkpoint as it was."""
        if self.folder.is_symlink():
            raise OSError(errno.ELOOP, f"{self.folder} is a symbolic link")
        if not self.folder.is_dir():
            self.folder.mkdir()
            sync_folder(self.folder.parent)
        path = self.path_of(step)
        write_atomically(path, *encode(checkpoint))
        return path

    def prune(self, newest: int, keep: int, also: int | None) -> None:
        """Delete all up to step ``newest``, except the last ``keep`` and that of step ``also``."""
        while self.make_room(newest, also, keep):
            pass

    def make_room(self, newest: int, also: int | None, keep: int = 1) -> bool:
        """Delete the oldest of those that ``prune`` would delete; whether there was one."""
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
            checkpoint = decode(read_bytes(path))
        except OSError as error:
            if error.errno in (errno.EISDIR, errno.ELOOP, errno.EINVAL):
                raise CheckpointError(error.strerror) from error
            raise InputError(
                f"{path} cannot be read ({error.strerror}): fix that, or move the file away"
            ) from error
        except MemoryError as error:
            raise CheckpointError(
                f"it does not fit into memory ({path.stat().st_size:,} bytes)"
            ) from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        found = checkpoint.attributes.get("step")
        if found != step:
            raise CheckpointError(f"it holds step {found}, not the step in its name")
        return checkpoint

    def newest(
        self, report: Callable[[str], None], at_most: int | None = None, set_aside: bool = True
    ) -> Checkpoint | None:
        """The latest intact checkpoint (of a step up to ``at_most``), or None.

        Damaged ones are reported, and renamed unless ``set_aside`` is off.
        """
        damaged = 0
        for step in reversed([each for each in self.steps() if at_most is None or each <= at_most]):
            path = self.path_of(step)
            try:
                checkpoint = self.load(step)
            except CheckpointError as error:
                damaged += 1
                kept = _set_aside(path) if set_aside else ""
                report(f"warning: checkpoint {path} is damaged: {error}{kept}")
            else:
                if damaged:
                    report(f"using the checkpoint before it: {path}")
                return checkpoint
        return None

    def remove_temporary_files(self) -> None:
        """Delete the unfinished files of killed writers."""
        if not self.folder.is_symlink():
            remove_temporary_files(self.folder)


def _set_aside(path: Path) -> str:
    """Rename a damaged file; the new name as text, empty where that is not possible."""
    numbers = ("", *(f"-{number}" for number in range(2, 1000)))
    names = (path.with_name(f"{path.name}.damaged{number}") for number in numbers)
    with suppress(OSError):
        return f"; kept as {path.rename(next(name for name in names if not name.exists())).name}"
    return ""

"""Files of a run directory: its lock and its configuration."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from distcnn.config import Config
from distcnn.config_parsing import read_toml
from distcnn.errors import InputError
from distcnn.system import files
from distcnn.training.results import CONFIG

Report = Callable[[str], None]
"""Takes a line for the user."""
LOCK = ".lock"
OF_PATHS = "surrogateescape"
"""How a path that is not valid UTF-8 is encoded: the bytes that the file system has for it."""
END_OF_CONFIG = (
    "# The run's own record; to change a flag, give it with --resume. SHA-256 of the lines above: "
)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing to ``path``, where the file system has locks."""
    with ExitStack() as opened:
        while True:
            with files.explaining(f"{path} cannot be written", "name another folder with --output"):
                descriptor = files.open_regular(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            opened.callback(os.close, descriptor)
            with suppress(OSError):
                os.fchmod(descriptor, 0o600)  # who can open it, can hold it
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"{path} is in use by another run that has not ended: wait for it, stop it, or"
                    " name another folder with --output"
                ) from error
            except OSError:
                pass  # a file system without locks
            with suppress(OSError):
                if os.path.samestat(os.fstat(descriptor), (path / LOCK).lstat()):
                    break
            # Otherwise its holder was refused meanwhile, and removed it.
        yield


def require_owner(path: Path, *inside: str) -> None:
    """``InputError`` if ``path``, or a name ``inside`` it, is neither this user's nor root's."""
    for file in (path, *(path / name for name in inside)):
        with suppress(FileNotFoundError, NotADirectoryError):
            owner = (file.stat() if file == path else file.lstat()).st_uid
            if owner not in (os.geteuid(), 0):
                raise InputError(
                    f"{file} belongs to another user ({owner}), who could change the run's files"
                    " while they are written: name a folder of your own with --output, or accept"
                    " this one with --allow-other-owner"
                )


def write_config(path: Path, config: Config) -> None:
    """Store the configuration of the run in ``path``, with a last line that reveals damage."""
    import tomli_w  # needed on root only, as tomllib

    text = tomli_w.dumps(dataclasses.asdict(config))
    files.write_atomically(path / CONFIG, (text + _end_of(text)).encode(errors=OF_PATHS))


def read_config(path: Path) -> Config:
    """The configuration stored in ``path``, if it has not changed since it was written."""
    file = path / CONFIG
    with files.reading(file):
        text = files.read_bytes(file).decode(errors=OF_PATHS)
    text, mark, end = text.partition(END_OF_CONFIG)
    if mark + end != _end_of(text):
        raise InputError(
            f"{file} is damaged or was edited: its SHA-256 does not match its last line"
        )
    return Config.from_record(read_toml(file, OF_PATHS))


def _end_of(text: str) -> str:
    return f"{END_OF_CONFIG}{hashlib.sha256(text.encode(errors=OF_PATHS)).hexdigest()}\n"

"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"


def write_atomically(path: Path, *parts: bytes, sync: bool = True) -> None:
    """Write ``parts`` to a temporary file beside ``path``, then rename it: ``path`` holds the old content or the new, never a part.

    With ``sync`` both the file and its folder are on the disk when this returns, so a crash of the machine cannot undo it.
    ``OSError`` (a full disk, say) leaves ``path`` as it was and no temporary file.
    """
    temporary = temporary_of(path)
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the folder's own entries (a rename, a new name) on the disk. File systems that cannot do that are let be."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def temporary_of(path: Path) -> Path:
    """Where ``path`` is written before it is renamed: a hidden neighbour, so on the same file system."""
    return path.parent / f".{path.name}{TEMPORARY_SUFFIX}"

"""A full disk for tests in this process: every new temporary file is the kernel's /dev/full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distcnn.system.files import TEMPORARY


@contextmanager
def full_disk(room_for: int = 0) -> Iterator[None]:
    """Inside it, writing a file fails with "No space left on device", except for the first
    ``room_for``.
    """
    open_, left = os.open, room_for

    def open_full(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        nonlocal left
        descriptor = open_(path, flags, mode, **options)
        if not TEMPORARY.fullmatch(Path(path).name):
            return descriptor
        left -= 1
        if left >= 0:
            return descriptor
        os.close(descriptor)
        return open_("/dev/full", os.O_WRONLY)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "open", open_full)
        yield

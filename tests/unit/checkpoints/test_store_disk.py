"""The folder of checkpoints on a disk that fails or forbids reading, and what is synced to it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from distcnn.checkpoints import CheckpointStore
from distcnn.errors import InputError
from tests.unit.checkpoints.conftest import checkpoint, contents

NOBODY = 65534


# -- what may not or cannot be read


@contextmanager
def store_of_a_user() -> Iterator[CheckpointStore]:
    """A store with the steps 2 and 4, owned by a user who is not root, because root may read
    everything.
    """
    with tempfile.TemporaryDirectory() as folder:  # unlike tmp_path, others than root may enter it
        Path(folder).chmod(0o777)
        user = os.geteuid()
        if user == 0:
            os.seteuid(NOBODY)
        try:
            store = CheckpointStore(Path(folder) / "checkpoints")
            for step in (2, 4):
                store.save(step, checkpoint(step))
            yield store
            store.folder.chmod(0o700)
            assert store.steps() == [2, 4]
        finally:
            os.seteuid(user)


def test_a_checkpoint_that_may_not_be_read_is_bad_input_and_nothing_is_renamed() -> None:
    with store_of_a_user() as store:
        store.path_of(4).chmod(0)
        with pytest.raises(
            InputError, match=r"step-000000004\.h5 cannot be read \(Permission denied\)"
        ):
            store.newest(pytest.fail)


def test_a_folder_that_may_not_be_read_is_bad_input() -> None:
    with store_of_a_user() as store:
        for mode, message in (
            (0, r"checkpoints cannot be read \("),
            (0o400, r"step-000000004\.h5 cannot be read \("),
        ):
            store.folder.chmod(mode)
            with pytest.raises(InputError, match=rf"{message}Permission denied\)"):
                store.newest(pytest.fail)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_disk_that_fails_is_bad_input_and_nothing_is_renamed(
    number: int, filled: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(filled)
    with monkeypatch.context() as failing:
        failing.setattr(os, "open", lambda *_: raise_(OSError(number, os.strerror(number))))
        with pytest.raises(InputError, match=r"step-000000008\.h5 cannot be read"):
            filled.newest(pytest.fail)
    assert contents(filled) == before


def raise_(error: Exception) -> NoReturn:
    raise error


# -- what is synced


def test_the_parent_of_a_new_folder_is_synced_before_the_checkpoint(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name[:18])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    store.save(2, checkpoint(2))
    assert synced == [store.folder.parent.name[:18], ".step-000000002.h5", store.folder.name]
    synced.clear()
    store.save(4, checkpoint(4))
    assert synced == [".step-000000004.h5", store.folder.name]

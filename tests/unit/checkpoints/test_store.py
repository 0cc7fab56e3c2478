"""The folder of checkpoints: which are kept, which is used, and what happens to damaged ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from distcnn.checkpoints import Checkpoint, CheckpointError, CheckpointStore
from distcnn.checkpoints.format import encode, make_header
from distcnn.errors import InputError
from tests.support.full_disk import full_disk
from tests.unit.checkpoints.conftest import checkpoint, contents


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def damage(path: Path) -> bytes:
    """Flip the last bit; return the damaged content."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return path.read_bytes()


def newest_step(store: CheckpointStore, reports: list[str], **options: Any) -> int | None:
    found = store.newest(reports.append, **options)
    return None if found is None else int(found.attributes["step"])


def prune(store: CheckpointStore, newest: int, keep: int, also: int | None) -> None:
    """Make room as long as there is any."""
    while store.make_room(newest, also, keep):
        pass


# -- names and steps


@pytest.mark.parametrize(
    ("step", "name"),
    [(0, "step-000000000.h5"), (469, "step-000000469.h5"), (10**10, "step-10000000000.h5")],
)
def test_the_name_is_the_step_in_nine_digits_or_more(
    store: CheckpointStore, step: int, name: str
) -> None:
    assert store.save(step, checkpoint(step)) == store.path_of(step) == store.folder / name
    assert (store.steps(), names(store)) == ([step], [name])


def test_steps_are_in_the_order_of_numbers_and_other_files_are_left_alone(
    filled: CheckpointStore,
) -> None:
    for step in (10**10, 10**9):
        filled.save(step, checkpoint(step))
    others = {
        "step-12.h5",
        "step-000000012.h5.damaged",
        ".step-000000012.h5.tmp",
        "step-000000012.hdf5",
        "notes.txt",
    }
    for name in others:
        (filled.folder / name).write_bytes(b"no checkpoint")
    assert filled.steps() == [2, 4, 6, 8, 10**9, 10**10]
    prune(filled, 10**10, 1, also=None)
    assert set(names(filled)) == {*others, "step-10000000000.h5"}


def test_a_store_without_a_folder_is_empty_and_makes_none(store: CheckpointStore) -> None:
    store.remove_temporary_files()
    prune(store, 2, 3, also=None)
    assert (store.steps(), newest_step(store, [])) == ([], None)
    assert not store.folder.exists()


def test_a_full_disk_leaves_every_checkpoint_as_it_was(filled: CheckpointStore) -> None:
    before = contents(filled)
    for step in (8, 10):
        with full_disk(), pytest.raises(OSError, match="No space left on device"):
            filled.save(step, checkpoint(10))
    assert contents(filled) == before


# -- which are kept


@pytest.mark.parametrize(
    ("keep", "kept"), [(1, [8]), (2, [6, 8]), (4, [2, 4, 6, 8]), (9, [2, 4, 6, 8])]
)
def test_the_last_few_are_kept(filled: CheckpointStore, keep: int, kept: list[int]) -> None:
    prune(filled, 8, keep, also=None)
    assert filled.steps() == kept


@pytest.mark.parametrize(
    ("best", "kept"), [(2, [2, 6, 8]), (4, [4, 6, 8]), (6, [6, 8]), (8, [6, 8]), (5, [6, 8])]
)
def test_the_best_is_kept_besides(filled: CheckpointStore, best: int, kept: list[int]) -> None:
    prune(filled, 8, 2, also=best)
    assert [filled.load(step).attributes["step"] for step in filled.steps()] == kept


@pytest.mark.parametrize(
    ("newest", "kept"),
    [(8, [8]), (6, [6, 8]), (5, [4, 6, 8]), (2, [2, 4, 6, 8]), (1, [2, 4, 6, 8])],
)
def test_a_file_after_the_newest_is_left_alone(
    filled: CheckpointStore, newest: int, kept: list[int]
) -> None:
    prune(filled, newest, 1, also=None)
    assert filled.steps() == kept


# -- which is taken


@pytest.mark.parametrize(("at_most", "taken"), [(None, 8), (8, 8), (7, 6), (2, 2), (1, None)])
def test_the_newest_is_taken_up_to_a_step(
    filled: CheckpointStore, at_most: int | None, taken: int | None
) -> None:
    reports: list[str] = []
    assert (newest_step(filled, reports, at_most=at_most), reports) == (taken, [])


def test_damaged_ones_are_named_kept_aside_and_the_one_before_is_taken(
    filled: CheckpointStore,
) -> None:
    damaged = {step: damage(filled.path_of(step)) for step in (8, 6)}
    reports: list[str] = []
    assert newest_step(filled, reports) == 4
    assert reports.pop() == f"using the checkpoint before it: {filled.path_of(4)}"
    for report, step in zip(reports, (8, 6), strict=True):
        path = filled.path_of(step)
        assert report.startswith(
            f"warning: checkpoint {path} is damaged: its SHA-256 or length"
            f" ({len(damaged[step])} bytes)"
        )
        assert report.endswith(f"; kept as {path.name}.damaged")
        assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged[step]
    assert filled.steps() == [2, 4]
    assert newest_step(filled, reports) == 4
    assert len(reports) == 2, "what is aside is not reported again"


def test_all_damaged_gives_none_and_keeps_them_all(filled: CheckpointStore) -> None:
    damaged = [damage(path) for path in sorted(filled.folder.iterdir())]
    reports: list[str] = []
    assert newest_step(filled, reports) is None
    assert len(reports) == 4
    assert all(
        report.endswith(f"; kept as step-00000000{step}.h5.damaged")
        for report, step in zip(reports, (8, 6, 4, 2), strict=True)
    )
    assert filled.steps() == []
    assert [content for _, content in sorted(contents(filled).items())] == damaged


def test_a_name_aside_that_is_taken_is_not_overwritten(filled: CheckpointStore) -> None:
    damaged = []
    for number in range(3):
        filled.save(8, Checkpoint({"step": 8, "number": number}))
        damaged.append(damage(filled.path_of(8)))
        reports: list[str] = []
        assert newest_step(filled, reports) == 6
        assert reports[0].endswith(f"; kept as step-000000008.h5.damaged{('', '-2', '-3')[number]}")
    assert [
        (filled.folder / f"step-000000008.h5.damaged{end}").read_bytes() for end in ("", "-2", "-3")
    ] == damaged


def test_without_setting_aside_nothing_is_renamed(filled: CheckpointStore) -> None:
    damage(filled.path_of(8))
    before = contents(filled)
    reports: list[str] = []
    assert newest_step(filled, reports, set_aside=False) == 6
    assert contents(filled) == before
    assert reports[0].startswith(f"warning: checkpoint {filled.path_of(8)} is damaged: its SHA-256")
    assert reports[1:] == [f"using the checkpoint before it: {filled.path_of(6)}"]
    assert "kept as" not in reports[0]


def test_a_checkpoint_under_another_steps_name_is_refused(filled: CheckpointStore) -> None:
    filled.path_of(2).rename(filled.path_of(10))
    with pytest.raises(CheckpointError, match="it holds step 2, not the step in its name"):
        filled.load(10)
    reports: list[str] = []
    assert newest_step(filled, reports) == 8
    assert "step-000000010.h5 is damaged: it holds step 2" in reports[0]
    assert "step-000000010.h5.damaged" in names(filled)


def test_a_folder_in_a_checkpoints_place_is_refused(filled: CheckpointStore) -> None:
    filled.path_of(10).mkdir()
    with pytest.raises(
        InputError, match=r"step-000000010\.h5 cannot be read \(it is a folder.*move it away$"
    ):
        filled.newest(pytest.fail)


# -- what is no damage


def test_a_newer_version_is_bad_input_and_nothing_is_renamed(filled: CheckpointStore) -> None:
    body = encode(checkpoint(8))[1]
    filled.path_of(8).write_bytes(make_header(2, body) + body)
    before = contents(filled)
    with pytest.raises(
        InputError, match=rf"^{re.escape(str(filled.path_of(8)))}: it has version 2, "
    ):
        filled.newest(pytest.fail)
    assert contents(filled) == before


# -- temporary files


def test_temporary_files_are_not_checkpoints_and_are_removed(filled: CheckpointStore) -> None:
    for number in (8, 10):
        (filled.folder / f".step-00000000{number}.h5.{number:016x}.tmp").write_bytes(
            b"half written"
        )
    assert newest_step(filled, []) == 8
    assert len(names(filled)) == 6
    filled.remove_temporary_files()
    assert names(filled) == [f"step-00000000{step}.h5" for step in (2, 4, 6, 8)]

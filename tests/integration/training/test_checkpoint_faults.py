"""Damaged checkpoints of a real run: each damage is noticed, named and kept aside, and the run
still ends in the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.training_fixtures import SAVED, assert_same_end, resume, store_of


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_without_damage_the_killed_run_ends_as_the_finished_one(
    killed: Path, finished: Path
) -> None:
    said = resume(killed)
    assert "after 10 of 12 steps" in said
    assert "damaged" not in said
    assert_same_end(killed, finished)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "last byte lost": lambda content: content[:-1],
    "a bit in the middle": lambda content: flip(content, len(content) * 4),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_kept_and_the_end_is_the_same(
    damage: str, killed: Path, finished: Path
) -> None:
    path = store_of(killed).path_of(10)
    damaged = DAMAGES[damage](path.read_bytes())
    path.write_bytes(damaged)
    said = resume(killed)
    assert f"checkpoint {path} is damaged: " in said
    assert (
        f"; kept as {path.name}.damaged\nusing the checkpoint before it:"
        f" {store_of(killed).path_of(8)}\n" in said
    )
    assert "after 8 of 12 steps" in said
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    assert store_of(killed).steps() == SAVED
    assert_same_end(killed, finished)


def test_of_several_damaged_each_is_named_and_the_run_continues_from_the_one_before(
    killed: Path, finished: Path
) -> None:
    store = store_of(killed)
    store.path_of(10).write_bytes(store.path_of(2).read_bytes())  # whole, but of another step
    for step in (8, 6):
        store.path_of(step).write_bytes(b"")
    said = resume(killed)
    assert [
        f"checkpoint {store.path_of(step)} is damaged" in said for step in (10, 8, 6, 4, 2)
    ] == [True, True, True, False, False]
    assert "step-000000010.h5 is damaged: it holds step 2" in said
    assert "after 4 of 12 steps" in said
    assert_same_end(killed, finished)


def test_all_damaged_lets_the_run_begin_again(killed: Path, finished: Path) -> None:
    store = store_of(killed)
    for step in store.steps():
        store.path_of(step).write_bytes(flip(store.path_of(step).read_bytes(), 10_000))
    said = resume(killed)
    for step in (2, 4, 6, 8, 10):
        assert f"checkpoint {store.path_of(step)} is damaged: " in said
        assert store.path_of(step).with_name(f"step-{step:09d}.h5.damaged").exists()
    assert f"{killed} has no complete checkpoint: the run starts again from its first step" in said
    assert store.steps() == SAVED
    assert_same_end(killed, finished)


def test_a_damaged_checkpoint_of_a_run_that_continues_elsewhere_is_not_touched(
    killed: Path, finished: Path, tmp_path: Path
) -> None:
    path = store_of(killed).path_of(10)
    path.write_bytes(path.read_bytes()[:-1])
    before = {each: each.read_bytes() for each in killed.rglob("*") if each.is_file()}
    said = resume(killed, "--output", str(tmp_path / "elsewhere"))
    assert f"checkpoint {path} is damaged: " in said
    assert {each: each.read_bytes() for each in killed.rglob("*") if each.is_file()} == before
    assert_same_end(tmp_path / "elsewhere", finished)

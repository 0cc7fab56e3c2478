"""Damaged checkpoints of a real run: each damage is noticed, named and kept aside, and the run
still ends in the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.training_fixtures import SAVED, assert_same_end, resume, store_of


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# -- every damage is noticed, and the checkpoint before is taken


def assert_all_noticed(run: Path, damages: Iterator[bytes]) -> None:
    """Each of ``damages``, in the place of the checkpoint of step 10."""
    store = store_of(run)
    path, whole = store.path_of(10), store.path_of(8).read_bytes()
    for number, damaged in enumerate(damages):
        path.write_bytes(damaged)
        reports: list[str] = []
        taken = store.newest(reports.append)
        assert taken is not None
        assert taken.attributes["step"] == 8, f"damage {number}"
        assert reports[0].startswith(f"warning: checkpoint {path} is damaged: ")
        assert reports[1:] == [f"the one before it is taken: {store.path_of(8)}"]
        aside = path.with_name(f"{path.name}.damaged")
        assert aside.read_bytes() == damaged
        aside.unlink()
    assert store.path_of(8).read_bytes() == whole


def test_a_checkpoint_cut_at_50_places_is_noticed(killed: Path) -> None:
    content = store_of(killed).path_of(10).read_bytes()
    assert len(content) > 100_000
    places = {
        0,
        1,
        20,
        511,
        512,
        513,
        len(content) - 512,
        len(content) - 1,
        *np.linspace(2, len(content) - 2, 50).astype(int).tolist(),
    }
    assert_all_noticed(killed, (content[:place] for place in sorted(places)))


def test_200_single_flipped_bits_are_noticed(killed: Path) -> None:
    content = store_of(killed).path_of(10).read_bytes()
    rng = np.random.default_rng(7)
    header, body = (
        rng.choice(512 * 8, 50, replace=False),
        rng.choice(np.arange(512 * 8, len(content) * 8), 150, replace=False),
    )
    assert_all_noticed(killed, (flip(content, int(bit)) for bit in np.concatenate([header, body])))


# -- the command goes on from the one before, to the same bits


def test_without_damage_the_killed_run_ends_as_the_finished_one(
    killed: Path, finished: Path
) -> None:
    said = resume(killed)
    assert "after 10 of 12 steps" in said
    assert "damaged" not in said
    assert_same_end(killed, finished)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "header only": lambda content: content[:512],
    "last byte lost": lambda content: content[:-1],
    "a byte appended": lambda content: content + b"\0",
    "the version's digit": lambda content: flip(content, 19 * 8 + 1),
    "a bit of the padding": lambda content: flip(content, 400 * 8),
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
        f"; kept as {path.name}.damaged\nthe one before it is taken:"
        f" {store_of(killed).path_of(8)}\n" in said
    )
    assert "after 8 of 12 steps" in said
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    assert store_of(killed).steps() == SAVED
    assert_same_end(killed, finished)


def test_of_several_damaged_each_is_named_and_the_run_goes_on_from_the_one_before(
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
    assert "step-000000010.h5 is damaged: it is of step 2" in said
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
    assert (
        f"{killed} has no checkpoint that is whole: the run begins again from its first step"
        in said
    )
    assert store.steps() == SAVED
    assert_same_end(killed, finished)


def test_a_damaged_checkpoint_of_a_run_that_goes_on_elsewhere_is_not_touched(
    killed: Path, finished: Path, tmp_path: Path
) -> None:
    path = store_of(killed).path_of(10)
    path.write_bytes(path.read_bytes()[:-1])
    before = {each: each.read_bytes() for each in killed.rglob("*") if each.is_file()}
    said = resume(killed, "--output", str(tmp_path / "elsewhere"))
    assert f"checkpoint {path} is damaged: " in said
    assert {each: each.read_bytes() for each in killed.rglob("*") if each.is_file()} == before
    assert_same_end(tmp_path / "elsewhere", finished)

"""``verify --sample``: stretches between the checkpoints of a run, drawn from a seed, are replayed
and compared with all that the checkpoints at their ends hold.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from distcnn import verify
from distcnn.checkpoints import Checkpoint, CheckpointStore
from distcnn.distributed import Communicator
from distcnn.distributed.blas_threads import THREADS_PER_RANK
from distcnn.errors import InputError
from distcnn.training.comparison import Different
from distcnn.training.replay import Replayed, Source
from distcnn.training.sampling import Stretch, draw, draw_sample, replay_stretches
from tests.support.training_fixtures import receipt, resume, store_of, write_receipt

ALL = 99


@pytest.fixture(autouse=True)
def as_many_threads_as_a_rank_has() -> Iterator[None]:
    with threadpool_limits(THREADS_PER_RANK):
        yield


def sample(run: Path, count: int = ALL, seed: int = 0) -> list[Replayed]:
    source = Source(run)
    return replay_stretches(source, draw_sample(run, count, seed, print), Communicator(), print)


def spans(run: Path) -> list[tuple[int, int]]:
    return [(each.first, each.last) for each in draw_sample(run, ALL, 0, print).stretches]


def change(run: Path, step: int, edit: Callable[[Checkpoint], Checkpoint]) -> None:
    """Forge a checkpoint, whose own SHA-256 is right."""
    store = store_of(run)
    store.save(step, edit(store.load(step)))


def with_text(name: str, **values: Any) -> Callable[[Checkpoint], Checkpoint]:
    def edit(checkpoint: Checkpoint) -> Checkpoint:
        text = json.dumps(json.loads(checkpoint.texts[name]) | values)
        return replace(checkpoint, texts={**checkpoint.texts, name: text})

    return edit


def with_one_bit(array: str) -> Callable[[Checkpoint], Checkpoint]:
    def edit(checkpoint: Checkpoint) -> Checkpoint:
        changed = checkpoint.arrays[array].copy()
        changed.view("u4").flat[0] ^= 1
        return replace(checkpoint, arrays={**checkpoint.arrays, array: changed})

    return edit


def forged_receipt(checkpoint: Checkpoint) -> str:
    """The checkpoint's lines of the receipt, but for the last one's end."""
    return checkpoint.texts["receipt"].rstrip()[:-1] + ', "more": 1}\n'


def test_stretches_are_drawn_without_replacement_and_all_equally_often() -> None:
    stretches = [Stretch(step, step + 1 + step % 7, True) for step in range(5)]
    times: Counter[int] = Counter()
    for seed in range(1000):
        drawn = draw(stretches, 2, seed)
        assert drawn == draw(stretches, 2, seed)
        first, second = (each.first for each in drawn)
        assert first < second
        times.update([first, second])
    assert all(abs(times[step] - 400) < 75 for step in range(5))  # 5 standard deviations
    assert draw(stretches, ALL, 7) == stretches


def test_stretches_go_from_checkpoint_to_checkpoint(checked: Path) -> None:
    assert spans(checked) == [(0, 3), (3, 4), (4, 6), (6, 8), (8, 9), (9, 12)]
    for replayed in (sample(checked), sample(checked, 2, seed=3)):
        assert [each.result is not None for each in replayed][:-1] == [False] * (len(replayed) - 1)
    assert sum(len(each.lines) for each in sample(checked)) == len(receipt(checked)) - 1


def test_a_stretch_without_recorded_weights_is_compared_with_its_checkpoint(
    checked_copy: Path,
) -> None:
    """From 8 to 9 the receipt has no line: the checkpoint holds everything."""
    change(checked_copy, 9, with_one_bit("optimizer/velocity/dense1.bias"))
    with pytest.raises(
        Different, match=r"steps 8 to 9: step 9: optimizer/velocity/dense1\.bias: SHA-256 \w{64} in"
    ):
        sample(checked_copy)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (with_one_bit("weights/conv1.weight"), r"parameter conv1\.weight: SHA-256 \w{64} in its"),
        (with_text("state", evaluations_since_best=7), "evaluations_since_best: 7 in its"),
        (with_text("configuration", momentum=0.5), "momentum: 0.5 in its checkpoint, but 0.9 in"),
        (with_text("dataset", content_sha256="0"), "content_sha256: 0 in its checkpoint, but"),
        (
            lambda found: replace(found, texts={**found.texts, "receipt": forged_receipt(found)}),
            "receipt.jsonl does not begin with the lines in the checkpoint of step 9",
        ),
        (
            lambda found: replace(
                found,
                arrays={
                    **found.arrays,
                    "shards/examples_used": np.ones_like(found.arrays["shards/examples_used"]),
                },
            ),
            r"examples used by each shard: \[1, 1, 1, 1, 1, 1, 1, 1\] in its checkpoint, but \[8, ",
        ),
    ],
)
def test_all_that_a_checkpoint_holds_is_compared(
    edit: Callable[[Checkpoint], Checkpoint], message: str, checked_copy: Path
) -> None:
    change(checked_copy, 9, edit)
    with pytest.raises(Different, match=f"steps 8 to 9: .*{message}"):
        sample(checked_copy)


def test_times_and_ranks_in_a_checkpoint_may_be_others(checked_copy: Path) -> None:
    state = json.loads(store_of(checked_copy).load(9).texts["state"])
    change(checked_copy, 9, with_text("state", whole={**state["whole"], "seconds": 1e6}))
    change(checked_copy, 9, with_text("state", run_seconds=1e6, world_size=64, spot_checks=7))
    sample(checked_copy)


def test_an_altered_line_is_found_in_its_stretch(checked_copy: Path) -> None:
    lines = receipt(checked_copy)
    (line,) = (each for each in lines if (each["kind"], each["step"]) == ("weights", 10))
    line["parameters"]["conv1.bias"] = "0" * 64
    write_receipt(checked_copy, lines)
    with pytest.raises(Different, match=r"steps 9 to 12: step 10 .*: parameter conv1\.bias: SHA-2"):
        sample(checked_copy)
    seed = next(n for n in range(99) if draw_of(checked_copy, n) == [(4, 6)])
    sample(checked_copy, 1, seed)  # it is not in this one


def test_a_receipt_whose_chain_is_broken_is_found_by_any_sample(checked_copy: Path) -> None:
    text = (checked_copy / "receipt.jsonl").read_text()
    (checked_copy / "receipt.jsonl").write_text(text.replace(": ", ":", 1))
    with pytest.raises(Different, match=r"receipt\.jsonl was changed"):
        sample(checked_copy, 1)


def draw_of(run: Path, seed: int) -> list[tuple[int, int]]:
    return [(each.first, each.last) for each in draw_sample(run, 1, seed, print).drawn]


@pytest.mark.parametrize(("saved", "recorded", "last"), [(9, 9, (8, 9)), (8, 10, (8, 10))])
def test_an_unfinished_run_ends_with_its_last_checkpoint_or_recorded_weights(
    saved: int, recorded: int, last: tuple[int, int], checked_copy: Path
) -> None:
    (checked_copy / "result.json").unlink()
    for step in store_of(checked_copy).steps():
        if step > saved:
            store_of(checked_copy).path_of(step).unlink()
    for name in ("receipt.jsonl", "metrics.jsonl"):
        lines = (checked_copy / name).read_text().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["step"] <= recorded]
        (checked_copy / name).write_text("".join(kept))
    assert spans(checked_copy)[-1] == last
    sample(checked_copy)


def test_a_run_with_a_damaged_checkpoint_is_different_until_it_is_moved_away(
    checked_copy: Path,
) -> None:
    path = store_of(checked_copy).path_of(6)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Different, match=r"step-000000006\.h5 is damaged"):
        sample(checked_copy)
    path.unlink()
    assert spans(checked_copy) == [(0, 3), (3, 4), (4, 8), (8, 9), (9, 12)]
    sample(checked_copy)


def test_a_checkpoint_that_training_removes_meanwhile_is_no_end_of_a_stretch(
    checked_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = CheckpointStore.steps
    monkeypatch.setattr(CheckpointStore, "steps", lambda store: [*steps(store), 7])
    assert spans(checked_copy) == [(0, 3), (3, 4), (4, 6), (6, 8), (8, 9), (9, 12)]


def test_a_run_that_was_resumed_with_other_flags_is_identical(killed: Path) -> None:
    """Each stretch has the flags that were in force."""
    resume(killed, "--epochs", "4", "--log-every", "1", "--check-every", "3")
    assert [line["step"] for line in receipt(killed) if line["kind"] == "resume"] == [10]
    assert spans(killed)[-2:] == [(12, 14), (14, 16)]
    sample(killed)


def run_verify(*arguments: object) -> int:
    return verify.main([str(each) for each in arguments])


def test_the_command_prints_how_to_repeat_it(
    checked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verify(checked, "--sample", 2) == 0
    out = capsys.readouterr().out
    seed = out.partition("--sample-seed ")[2].split()[0]
    assert run_verify(checked, "--sample", 2, "--sample-seed", seed) == 0
    assert capsys.readouterr().out == out
    assert "identical: 2 of 6 stretches, " in out
    assert "not checked: 4 other stretches; " in out
    assert run_verify(checked, "--sample", 9) == 0
    out = capsys.readouterr().out
    assert "; there are no 9 to draw" in out
    assert "identical: 6 of 6 stretches, 12 of 12 steps (100 %), drawn with" in out


def test_the_command_ends_with_1_where_a_stretch_differs(
    checked_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(checked_copy, 9, with_one_bit("weights/conv1.weight"))
    assert run_verify(checked_copy, "--sample", 6) == 1
    assert "different: steps 8 to 9: step 9: parameter conv1.weight" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sample", 0], "--sample is 0: it must be at least 1"),
        (["--sample", 1, "--to-step", 3], "leave out --from-step and --to-step"),
        (["--sample", 1, "--from-step", 0], "leave out --from-step and --to-step"),
        (["--sample-seed", 1], "--sample-seed needs --sample"),
        (["--sample", 1, "--sample-seed", 2**64], "it must be 0 to 2^64 - 1"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    flags: list[object], message: str, checked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verify(checked, *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_run_without_checkpoints_cannot_be_sampled(checked_copy: Path) -> None:
    for step in store_of(checked_copy).steps():
        store_of(checked_copy).path_of(step).unlink()
    with pytest.raises(InputError, match="no checkpoint to sample from"):
        draw_sample(checked_copy, 1, 0, print)

"""Overlap changes no bit and no message, and failures and stalls still end all ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SERIAL, Launcher, MakeImageSet, as_flags, slow
from tests.support.running import STAGED, running, staged

ON = ["--overlap", "on"]
# Two buckets; the last steps of an epoch are padded.
LENET = ["--model", "lenet", "--microbatch-size", "8", "--epochs", "1", "--warmup-steps", "2"]


def test_the_bits_are_the_same_with_and_without(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = ["--data", str(image_set()), *LENET]
    alone = SERIAL.train(1, tmp_path / "alone", *flags, *ON)
    for ranks, overlap in ((1, "off"), (2, "on"), (3, "off"), (4, "on")):
        result = any_mpi.train(ranks, tmp_path / f"{ranks}", *flags, "--overlap", overlap)
        assert result["params_sha256"] == alone["params_sha256"], f"{overlap} on {ranks} ranks"


def test_the_fast_sum_of_two_ranks_is_the_same_with_and_without(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = [
        *as_flags(data=image_set()),
        *LENET,
        *as_flags(reduction="fast", overlap=True),
    ]  # of two terms there is but one order
    on, off = (any_mpi.train(2, tmp_path / overlap, *flags, overlap) for overlap in ("on", "off"))
    assert on["params_sha256"] == off["params_sha256"]


# Of ranks 0 and 1: one of each; a last one, a first one, two.
@pytest.mark.parametrize("shards", ["05", *slow("3", "0", "26")])
def test_a_shard_that_cannot_be_added_is_named_as_without(
    shards: str, any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    arguments = [
        "-m",
        "distcnn.train",
        *as_flags(model="tests.support.staged:poisoned_network", microbatch_size=4),
    ]
    errors = []
    for name, launcher, ranks in (("on", any_mpi, 2), ("off", any_mpi, 2), ("alone", SERIAL, 1)):
        flags = as_flags(
            data=image_set(), output=tmp_path / name, overlap=name.replace("alone", "off")
        )
        done = launcher.run(ranks, *arguments, *flags, STAGED_STEP="2", POISONED_SHARDS=shards)
        assert done.returncode == 3, done.stderr
        errors += [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(errors) == 3
    assert len(set(errors)) == 1
    assert f"error: step 2, shard {shards[0]}: the gradient of conv1.weight is nan" in errors[0]


@pytest.mark.slow
def test_a_hanging_rank_is_named(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = [*as_flags(data=image_set(), output=tmp_path / "run", stall_timeout=2), *ON]
    with running(any_mpi, 3, *STAGED, *flags, **staged("hang", [1], 4, tmp_path / "mark")) as run:
        ended = run.end(40)
    assert ended.code == 4, ended.stderr
    (late,) = ended.lines("late: ")
    assert late.startswith("late: rank 1 on host ")
    assert "step 4, forward and backward of shard 2, for " in late
    (waiting,) = ended.lines("waiting: ")
    assert waiting == "waiting: rank 0, 2: step 4, waiting for all ranks: sum of the gradients"


def test_an_exception_in_the_thread_that_sums_ends_all(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = ["--data", str(image_set()), "--output", str(tmp_path / "run"), *ON]
    with running(
        any_mpi, 3, *STAGED, *flags, **staged("fail_while_summing", [1], 3, tmp_path / "mark")
    ) as run:
        ended = run.end(30)
    assert ended.code == 1, ended.stderr
    assert len(ended.lines("distcnn.train: rank 1 of 3 failed on host ")) == 1
    assert "RuntimeError: broken on purpose" in ended.stderr.splitlines()

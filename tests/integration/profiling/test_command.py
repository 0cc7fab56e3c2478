"""``--trace`` as a user gives it: one valid file of all ranks, whenever all ranks end together."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from distcnn.cli.command import EXIT_STOPPED, EXIT_TRAINING
from tests.conftest import SERIAL, Launcher, MakeImageSet
from tests.support.running import STAGED, STAGED_STEPS, reference_hash, resume, running
from tests.support.trace_reading import Slice, Trace, read_trace

FIRST = "trace-000000000.json"
LENET = [
    "--model",
    "lenet",
    "--microbatch-size",
    "8",
    "--epochs",
    "1",
    "--warmup-steps",
    "2",
    "--log-every",
    "1",
]
LENET_STEPS = 4

LAYERS = ("conv1", "maxpool1", "conv2", "maxpool2", "flatten1", "dense1", "relu3", "dense2")
"""Of lenet: a ReLU after a max pooling is part of that."""

MS = 1_000_000

# distcnn.train, where the clock of rank 1 is five seconds ahead of the others', and gains 10 ms a
# second.
SHIFTED = """
import os, sys, time
from distcnn.system import launcher
from distcnn import train
if launcher.declared_rank(os.environ) == 1:
    true, start = time.perf_counter_ns, time.perf_counter_ns()
    time.perf_counter_ns = lambda: true() + 5 * 10**9 + (true() - start) // 100
sys.exit(train.main(sys.argv[1:]))
"""

# distcnn.train, with room for few slices.
NARROW = """
import sys
from distcnn import train
from distcnn.profiling import recorder
recorder.MOST_SLICES = 300
sys.exit(train.main(sys.argv[1:]))
"""


def shards_of(slices: list[Slice]) -> Counter[Any]:
    """The number of ``slices`` in each shard of each step."""
    return Counter(
        (one.step, one.within.args.get("shard"))
        for one in slices
        if one.within is not None and one.within.name == "shard"
    )


def check_steps(trace: Trace, rank: int, steps: range, shards: range) -> None:
    """Every part of every step is there."""
    assert trace.steps(rank) == list(steps)
    once = Counter((step, shard) for step in steps for shard in shards)
    for name in ("read data", "ledger", "loss", "local sum"):
        assert shards_of(trace.named(name, rank)) == once, name
    for layer in LAYERS:
        for direction in ("forward", "backward"):
            found = trace.named(f"{layer} {direction}", rank)
            within = {one.within.name for one in found if one.within is not None}
            inside = f"conv{layer[-1]} {direction}" if layer.startswith("maxpool") else "shard"
            assert within == {inside}, layer
            assert {one.step for one in found} == set(steps)
    for name in ("reduce", "update"):
        assert [one.step for one in trace.named(name, rank)] == list(steps)
    for one in trace.named("step", rank):
        assert sum(child.nanoseconds for child in one.children) <= one.nanoseconds


def overlap_nanoseconds(trace: Trace, name: str) -> list[int]:
    """For each sum over two ranks, how long both were in it; negative: how far apart they were."""
    pairs = zip(trace.named(name, 0), trace.named(name, 1), strict=True)
    return [min(one.end, other.end) - max(one.begin, other.begin) for one, other in pairs]


def test_every_part_of_every_rank(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = ["--data", str(image_set()), *LENET]
    plain = SERIAL.train(1, tmp_path / "plain", *flags)
    result = any_mpi.train(2, tmp_path / "run", *flags, "--trace", "3")
    assert result["params_sha256"] == plain["params_sha256"]
    assert not list((tmp_path / "plain").glob("trace*"))
    trace = read_trace(tmp_path / "run" / FIRST)
    for rank, shards in enumerate((range(4), range(4, 8))):
        check_steps(trace, rank, range(3), shards)
        for name in (
            "evaluation",
            "close epoch",
            "compare weights",
            "write metrics",
            "write receipt",
            "checkpoint",
            "wait for checkpoint",
        ):
            assert [each for each in trace.named(name, rank) if each.within is None], name
    steps = trace.named("step")
    assert {each.args["epoch"] for each in steps} == {0}
    assert sum(child.nanoseconds for each in steps for child in each.children) > 0.5 * sum(
        each.nanoseconds for each in steps
    )
    assert {(each.rank, each.thread) for each in trace.named("write checkpoint")} == {
        (0, "checkpoint")
    }
    assert trace.named("write results", 0)
    assert all(
        each.args["bucket"] == 0 and each.args["nbytes"] == 4 * 431_080
        for each in trace.named("reduce")
    )
    assert {each.within.name for each in trace.named("allreduce") if each.within} == {"reduce"}
    assert {each.within.name for each in trace.named("waiting") if each.within} <= {"allreduce"}
    assert min(overlap_nanoseconds(trace, "allreduce")) >= 0
    assert [each["ahead_of_rank_0_ns"] for each in trace.facts["clocks"]] == [[0, 0], [0, 0]]
    assert (trace.facts["steps"], trace.facts["world_size"], trace.facts["ranks_without_room"]) == (
        [0, 3],
        2,
        [],
    )


def test_with_overlap_buckets_are_reduced_on_a_thread_of_their_own(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    any_mpi.train(
        2, tmp_path / "run", "--data", str(image_set()), *LENET, "--overlap", "on", "--trace"
    )
    trace = read_trace(tmp_path / "run" / FIRST)
    for rank in range(2):
        assert trace.steps(rank) == list(range(LENET_STEPS))
        sums = trace.named("allreduce", rank)
        assert {each.thread for each in sums} == {"sums"}
        assert len(sums) == 2 * LENET_STEPS
        assert sum(each.args["nbytes"] for each in sums[:2]) == 8 * (
            8 + 431_080
        )  # the counts and the gradient, in float64
        assert len(trace.named("wait for sums", rank)) == LENET_STEPS
        added = shards_of(trace.named("local sum", rank))
        assert added == {  # one for each bucket
            (step, shard): 2
            for step in range(LENET_STEPS)
            for shard in range(4 * rank, 4 * rank + 4)
        }
    assert min(overlap_nanoseconds(trace, "allreduce")) >= 0
    assert [each.children for each in trace.named("evaluation")] == [
        [],
        [],
    ]  # though it comes right after a step that is traced


def test_clocks_that_are_apart_and_drift_are_brought_together(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = ["--data", str(image_set()), "--output", str(tmp_path / "run"), *LENET, "--trace"]
    started = time.monotonic_ns()
    done = any_mpi.run(2, "-c", SHIFTED, *flags)
    longest = time.monotonic_ns() - started
    assert (done.returncode, done.stderr) == (0, "")
    trace = read_trace(tmp_path / "run" / FIRST)
    here, there = trace.facts["clocks"]
    assert here["ahead_of_rank_0_ns"] == [0, 0]
    begin, end = there["ahead_of_rank_0_ns"]
    assert 5000 * MS < begin < end < 6000 * MS
    allowed = there["error_ns"] + 1 * MS
    assert min(overlap_nanoseconds(trace, "allreduce")) > -allowed
    run_time = max(each.end for each in trace.slices)
    # The clock of rank 1 gains 1 %, from before the first span until after the last.
    assert run_time / 100 - allowed < end - begin < longest / 100 + allowed


def test_waiting_is_for_the_slow_rank(
    mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = ["--data", str(image_set()), "--max-steps", "3", "--trace"]
    mpirun.train(
        2, tmp_path / "run", *STAGED[2:], *flags, STAGED_PACE="0.02", STAGED_PACE_RANKS="0"
    )
    trace = read_trace(tmp_path / "run" / FIRST)
    slept = 3 * 4 * 20 * MS  # steps, shards
    waits = trace.named("waiting", 1)
    assert sum(each.nanoseconds for each in waits) > 0.7 * slept
    assert {each.args["rank"] for each in waits} == {0}


def test_a_stopped_run_writes_it_and_the_resumed_one_another(
    mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    data, path = image_set(), tmp_path / "run"
    with running(
        mpirun,
        2,
        *STAGED,
        "--data",
        str(data),
        "--output",
        str(path),
        "--trace",
        STAGED_PACE="0.02",
    ) as run:
        run.wait_for_step(3)
        run.send(signal.SIGTERM, 1)
        ended = run.end()
    assert ended.code == EXIT_STOPPED, ended.stderr
    first = read_trace(path / FIRST)
    done = first.steps(0)[-1] + 1
    assert first.steps(0) == first.steps(1) == list(range(done))
    assert first.named("wait for checkpoint", 0)
    before = (path / FIRST).read_bytes()
    assert resume(mpirun, 2, path)["params_sha256"] == reference_hash(data)
    second = read_trace(path / f"trace-{done:09d}.json")
    assert second.steps(0) == second.steps(1) == list(range(done, STAGED_STEPS))
    assert (path / FIRST).read_bytes() == before
    assert len(list(path.glob("trace*"))) == 2


def test_a_step_that_fails_is_in_it(
    mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    arguments = [
        "-m",
        "distcnn.train",
        "--model",
        "tests.support.staged:poisoned_network",
        "--microbatch-size",
        "4",
        "--trace",
    ]
    flags = ["--data", str(image_set()), "--output", str(tmp_path / "run")]
    done = mpirun.run(2, *arguments, *flags, STAGED_STEP="2", POISONED_SHARDS="5")
    assert done.returncode == EXIT_TRAINING, done.stderr
    trace = read_trace(tmp_path / "run" / FIRST)
    for rank in range(2):
        assert trace.steps(rank) == [0, 1, 2]


def test_a_later_window_in_one_process(image_set: MakeImageSet, tmp_path: Path) -> None:
    SERIAL.train(
        1, tmp_path / "run", "--data", str(image_set()), *LENET, "--trace", "2", "--trace-from", "1"
    )
    trace = read_trace(tmp_path / "run" / FIRST)
    check_steps(trace, 0, range(1, 3), range(8))
    assert not trace.named("waiting")


def test_it_stops_when_the_room_is_used_up_and_reports_it(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = ["--data", str(image_set()), "--output", str(tmp_path / "run"), *LENET, "--trace"]
    done = SERIAL.run(1, "-c", NARROW, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the trace is incomplete" in done.stdout
    trace = read_trace(tmp_path / "run" / FIRST)
    assert 0 < len(trace.steps(0)) < LENET_STEPS
    assert trace.facts["ranks_without_room"] == [0]

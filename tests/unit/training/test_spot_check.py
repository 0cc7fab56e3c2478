"""Which shards are checked by whom, and who is at fault."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from distcnn.config import Config
from distcnn.distributed import Communicator
from distcnn.errors import InputError
from distcnn.nn.layer import Array
from distcnn.nn.losses import Labels, softmax_cross_entropy
from distcnn.training.loop import Loop
from distcnn.training.setup import named_components, prepare_run
from distcnn.training.spot_check import Check, SpotCheckFailure, SpotCheckSchedule, others, verdict
from distcnn.training.state import State
from tests.conftest import MakeImageSet


@pytest.mark.parametrize(
    ("hosts", "taken", "expected"),
    [
        ("a", {0}, []),
        ("aaa", {1}, [0, 2]),
        ("aabb", {0}, [2, 3]),
        ("aabc", {0, 2}, [3]),
        ("aab", {0, 2}, [1]),
        ("ab", {0, 1}, []),
    ],
)
def test_other_ranks_are_on_other_hosts_if_there_are_any(
    hosts: str, taken: set[int], expected: list[int]
) -> None:
    assert others(hosts, taken) == expected


@pytest.mark.parametrize("hosts", ["a", "aa", "abc", "aabb", "aaabbbccc", "aaaaab"])
def test_a_rank_never_checks_itself_and_checks_other_hosts_in_turn(hosts: str) -> None:
    schedule, seen = SpotCheckSchedule(0, 1.0, 12, hosts), set()
    for step in range(200):
        checks = schedule.checks(step)
        assert sorted(check.shard for check in checks) == list(range(12))
        seen |= {(check.owner, check.checker) for check in checks}
        repeats = Counter(check.checker for check in checks)
        if hosts != "aaaaab":  # where the host of one rank checks all of the other
            assert len(repeats) == len(hosts)
    assert seen == {
        (rank, other) for rank in range(len(hosts)) for other in (others(hosts, {rank}) or [rank])
    }


def test_a_shard_is_checked_with_the_probability_that_is_asked_for() -> None:
    schedule = SpotCheckSchedule(3, 0.1, 8, "abc")
    checks = [schedule.checks(step) for step in range(4000)]
    counts = Counter(check.shard for of_step in checks for check in of_step)
    assert set(counts) == set(range(8))
    assert all(abs(count - 400) < 4 * np.sqrt(400 * 0.9) for count in counts.values())
    assert SpotCheckSchedule(3, 0.0, 8, "abc").checks(0) == []
    assert SpotCheckSchedule(4, 0.1, 8, "abc").checks(5) != schedule.checks(5) or checks[5] == []


def test_ranks_check_each_other_at_the_same_time() -> None:
    """So that a step takes no more time on many ranks than on a few."""
    schedule = SpotCheckSchedule(0, 0.2, 16, "abcd")
    for step in range(100):
        repeats = Counter(check.checker for check in schedule.checks(step))
        assert len(set(repeats.values())) <= 1
        assert not repeats or len(repeats) == 4


def test_the_schedule_never_changes() -> None:
    """A test and a bug report name steps by it."""
    schedule = SpotCheckSchedule(5, 0.05, 8, "ab")
    assert {step: checks for step in range(11) if (checks := schedule.checks(step))} == {
        5: [Check(0, 0, 1), Check(4, 1, 0)],
        9: [Check(0, 0, 1), Check(4, 1, 0)],
        10: [Check(3, 0, 1), Check(7, 1, 0)],
    }


SAME, ELSE = {"x": 1, "y": 2}, {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("own", "other", "third", "wrong"), [(ELSE, SAME, SAME, [0]), (SAME, ELSE, SAME, [2])]
)
def test_the_third_rank_decides(
    own: dict[str, int], other: dict[str, int], third: dict[str, int], wrong: list[int]
) -> None:
    text, suspects = verdict([(0, own), (2, other), (1, third)], "abc")
    assert suspects == wrong
    assert f"the y that rank {wrong[0]} (host {'abc'[wrong[0]]}) computed is not" in text


def test_without_a_majority_all_are_suspects() -> None:
    assert verdict([(1, SAME), (0, ELSE)], "ab")[1] == [0, 1]
    assert verdict([(1, SAME), (2, ELSE), (0, {"x": 0, "y": 0})], "abc")[1] == [0, 1, 2]
    text, suspects = verdict([(0, SAME), (0, ELSE)], "a")
    assert suspects == [0]
    assert text.startswith("rank 0 (host a) computed the y twice, with different results: ")


def test_nothing_is_updated_after_a_difference(image_set: MakeImageSet) -> None:
    """In one process, with a loss that is wrong once."""
    calls = 0

    def failing(outputs: Array, labels: Labels, weights: Array) -> tuple[float, Array]:
        nonlocal calls
        calls += 1
        loss_sum, gradient = softmax_cross_entropy(outputs, labels, weights)
        if calls == 16 + 3:  # the third shard of the second step
            gradient.view(np.uint32)[2, 1] ^= np.uint32(1)
        return loss_sum, gradient

    config = Config(data=str(image_set()), model="tutorial", microbatch_size=8, spot_check=1.0)
    components = replace(named_components(config), loss=failing)
    run = prepare_run(config, Communicator(), print, components)
    state = State()
    loop = Loop(run, state)
    loop.go_to(1)
    before = run.parameters.values.tobytes()
    with pytest.raises(
        SpotCheckFailure, match=r"step 1, shard 2: .* the gradient of the loss twice"
    ):
        loop.go_to(2)
    assert run.parameters.values.tobytes() == before
    assert state.spot_checks == 8


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan")])
def test_the_fraction_must_be_one(fraction: float) -> None:
    with pytest.raises(InputError, match=r"--spot-check is .*: it must be a fraction from 0 to 1"):
        Config(spot_check=fraction)

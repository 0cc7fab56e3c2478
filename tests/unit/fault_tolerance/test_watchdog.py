"""Which rank is late, judged from the records of all."""

from __future__ import annotations

from distcnn.fault_tolerance.heartbeat import Beat
from distcnn.fault_tolerance.watchdog import Member, Status, describe

SUMMING = "sum of the gradients"


def status(
    rank: int, activity: str = SUMMING, answers: bool = True, stack: str = "", state: str = ""
) -> Status:
    beat = Beat(12, activity, activity == SUMMING, 20.4, stack, 0.4)
    return Status(Member(rank, f"node{rank}", 1000 + rank, 5), answers, beat, state)


def test_a_rank_that_works_while_others_wait_is_late() -> None:
    everyone = [
        status(0, stack="  at Allreduce\n"),
        status(1, "forward and backward of shard 1", stack="  at forward\n"),
        status(2),
    ]
    assert (
        describe(everyone, 20.0)
        == "stalled: no progress for 20 s (--stall-timeout)\nlate: rank 1 on host node1"
        " (process 1001), step 12, forward and backward of shard 1, for 20 s\nwaiting: rank 0,"
        " 2: step 12, waiting for all ranks: sum of the gradients\nstack of rank 1:\n  at"
        " forward\nstack of rank 0:\n  at Allreduce"
    )


def test_a_silent_rank_is_late_even_if_it_waited_last() -> None:
    lines = describe([status(0), status(2, answers=False, state="T (stopped)")], 20.0).splitlines()
    assert (
        lines[1]
        == "late: rank 2 on host node2 (process 1002), does not answer, state T (stopped), "
        "last at step 12, waiting for all ranks: sum of the gradients, for 20 s"
    )
    assert lines[2].startswith("waiting: rank 0: ")


def test_of_a_silent_rank_elsewhere_nothing_more_is_known() -> None:
    unseen = Status(Member(3, "node3", 77, 5))
    assert (
        describe([status(0), unseen], 20.0).splitlines()[1]
        == "late: rank 3 on host node3 (process 77), does not answer"
    )


def test_when_all_wait_nobody_is_late() -> None:
    lines = describe(
        [status(rank, stack=f"  stack {rank}") for rank in range(6)], 300.0
    ).splitlines()
    assert (
        lines[1]
        == "every rank waits for the others: they have reached different points of the program"
    )
    assert lines[2].startswith("waiting: rank 0, 1, 2, 3, 4, 5: step 12")
    assert [line for line in lines if line.startswith("stack of")] == [
        f"stack of rank {rank}:" for rank in range(4)
    ]


def test_stacks_are_few_and_one_is_of_a_rank_that_waits() -> None:
    everyone = [status(rank, "reading", stack="  x") for rank in range(9)] + [
        status(9, stack="  x")
    ]
    lines = describe(everyone, 20.0).splitlines()
    assert sum(line.startswith("late: ") for line in lines) == 9
    assert [line for line in lines if line.startswith("stack of")] == [
        f"stack of rank {rank}:" for rank in (0, 1, 2, 9)
    ]

"""Which points a sweep has, what they compute, and in which order."""

from __future__ import annotations

import pytest

from distcnn.scaling.points import Point, choose_shards, in_order, plan_points


@pytest.mark.parametrize(
    ("ranks", "shards"),
    [
        *(((1,), 4), ((1, 2), 4), ((1, 2, 4), 4), ((1, 2, 3), 6), ((1, 2, 3, 4), 12)),
        *(((2, 64), 64), ((1, 5, 7), 28)),  # 35 is more than four shards per rank
    ],
)
def test_the_number_of_shards_divides_evenly_where_it_can(
    ranks: tuple[int, ...], shards: int
) -> None:
    assert choose_shards(ranks) == shards


@pytest.mark.parametrize(
    ("ranks", "shards", "most", "balance"),
    [(2, 3, 2, 0.75), (3, 4, 2, 4 / 6), (4, 4, 1, 1.0), (5, 28, 6, 28 / 30), (1, 7, 7, 1.0)],
)
def test_the_balance_is_that_of_the_fullest_rank(
    ranks: int, shards: int, most: int, balance: float
) -> None:
    point = Point("strong", ranks, shards, 8)
    assert (point.most_shards, point.balance) == (most, pytest.approx(balance))


@pytest.mark.parametrize(
    ("mode", "flags", "sizes"),
    [
        ("strong", {}, [(4, 64), (4, 64), (4, 64)]),
        ("strong", {"num_shards": 8}, [(8, 32)] * 3),
        ("strong", {"num_shards": 40}, [(40, 16)] * 3),  # not below 16
        ("strong", {"num_shards": 5}, [(5, 48)] * 3),  # 51, down to a multiple of 8
        ("strong", {"num_shards": 8, "microbatch_size": 3}, [(8, 3)] * 3),
        ("weak", {}, [(4, 64), (8, 64), (16, 64)]),
        ("weak", {"num_shards": 8}, [(8, 32), (16, 32), (32, 32)]),
        ("weak", {"microbatch_size": 100}, [(2, 100), (4, 100), (8, 100)]),
        ("both", {}, [(4, 64)] * 3 + [(4, 64), (8, 64), (16, 64)]),
    ],
)
def test_sizes(mode: str, flags: dict[str, int], sizes: list[tuple[int, int]]) -> None:
    points = plan_points(mode, (1, 2, 4), flags)
    assert [(each.num_shards, each.microbatch_size) for each in points] == sizes
    assert [each.ranks for each in points] == [1, 2, 4] * (len(points) // 3)


def test_weak_scaling_grows_from_the_smallest_point() -> None:
    points = plan_points("weak", (2, 6), {"num_shards": 4})
    assert [each.num_shards for each in points] == [4, 12]


def test_repeats_are_by_turns_and_change_direction() -> None:
    points = plan_points("strong", (1, 2, 4), {})
    order = [(each.point.ranks, each.repeat) for each in in_order(points, 3)]
    assert order == [(1, 1), (2, 1), (4, 1), (4, 2), (2, 2), (1, 2), (1, 3), (2, 3), (4, 3)]

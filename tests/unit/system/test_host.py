"""Cores: what ranks may use, the threads of each, and when cores are too few; all by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from distcnn.system.host import (
    Cores,
    cgroup_share,
    default_ranks,
    free_memory,
    oversubscription,
    threads_for_each,
    usable_cores,
)

ALL = frozenset(range(8))


def test_what_this_process_may_use_is_at_least_one_core_of_the_machine() -> None:
    mine = usable_cores("here", {})
    assert mine.host == "here"
    assert mine.ids
    assert mine.share > 0


def test_slurm_may_have_allocated_fewer_cores_than_one_is_bound_to() -> None:
    assert usable_cores("here", {"SLURM_CPUS_ON_NODE": "1"}).share == 1
    assert usable_cores("here", {"SLURM_CPUS_ON_NODE": "many"}) == usable_cores("here", {})


@pytest.mark.parametrize(
    ("cores", "ranks"),
    [
        (Cores("a", ALL), 4),
        (Cores("a", frozenset({3, 5})), 2),  # bound to two
        (Cores("a", ALL, share=3.9), 3),  # a container's quota, or a job's cores
        (Cores("a", ALL, share=0.5), 1),
    ],
)
def test_by_default_each_rank_has_a_core(cores: Cores, ranks: int) -> None:
    assert default_ranks(cores) == ranks


@pytest.mark.parametrize(
    ("everyone", "threads"),
    [
        ([Cores("a", ALL)], 8),
        ([Cores("a", ALL)] * 2, 4),
        ([Cores("a", ALL)] * 3, 2),
        ([Cores("a", ALL)] * 9, 1),  # never none
        (
            [Cores("a", frozenset({0, 1})), Cores("a", frozenset({2, 3}))],
            2,
        ),  # each bound to cores of its own
        (
            [Cores("a", ALL), Cores("a", ALL), Cores("b", ALL)],
            4,
        ),  # all get as many as the rank with the fewest
        ([Cores("a", ALL, share=2.0)] * 2, 1),  # a container's quota is for all of its ranks
        ([Cores("a", ALL, share=4.5)], 4),
    ],
)
def test_threads_are_cores_for_each_rank(everyone: list[Cores], threads: int) -> None:
    assert threads_for_each(everyone) == threads


@pytest.mark.parametrize(
    ("everyone", "threads", "told"),
    [
        ([Cores("a", ALL)] * 8, 1, None),
        ([Cores("a", ALL)] * 9, 1, "9 ranks on 8 cores of host a"),
        ([Cores("a", ALL)] * 3, 3, "3 ranks of 3 threads on 8 cores of host a"),
        (
            [Cores("a", ALL)] * 8 + [Cores("b", frozenset({5}))] * 2,
            1,
            "2 ranks on 1 core of host b",
        ),
        ([Cores("a", frozenset({0})), Cores("a", frozenset({1}))], 1, None),
        ([Cores("a", ALL, share=1.5)] * 2, 1, "2 ranks on 1.5 cores of host a"),
        (
            [Cores("a", ALL)] * 9 + [Cores("b", ALL)] * 17,
            1,
            "17 ranks on 8 cores of host b",
        ),  # the worst
    ],
)
def test_oversubscription_is_reported_for_the_worst_host(
    everyone: list[Cores], threads: int, told: str | None
) -> None:
    assert oversubscription(everyone, threads) == told


@pytest.mark.parametrize(
    ("lines", "files", "share"),
    [
        (
            "0::/a/b",
            {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"},
            1.5,
        ),  # a parent's limit counts too
        ("0::/", {"cpu.max": "max 100000"}, math.inf),
        (
            "3:memory:/m\n2:cpu,cpuacct:/c",
            {
                "cpu,cpuacct/c/cpu.cfs_quota_us": "50000",
                "cpu,cpuacct/c/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        ("2:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ("0::/a", {"a/cpu.max": "what is this"}, math.inf),
        ("", {}, math.inf),
    ],
)
def test_what_control_groups_grant(
    lines: str, files: dict[str, str], share: float, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.write_text(lines)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text)
    assert cgroup_share(tmp_path / "fs", own) == share
    assert cgroup_share(tmp_path / "fs", tmp_path / "nothing") == math.inf


def test_free_memory_is_that_of_the_tightest_group(tmp_path: Path) -> None:
    own, group = tmp_path / "cgroup", tmp_path / "fs" / "job" / "step"
    group.mkdir(parents=True)
    own.write_text("0::/job/step\n")
    for folder, most in ((group, "max"), (group.parent, "1000000")):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text("400000\n")
    (group.parent / "memory.stat").write_text("anon 100\ninactive_file 300000\n")
    assert free_memory(tmp_path / "fs", own) == 900_000

"""The parts that need no machine: what is said where, and what counts as crowded, late,
slow, old.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcnn.doctor import allreduce_speed, clocks, memory_limits, mpi_world, rendezvous, software
from distcnn.doctor.check import Section, bounded, root_cause
from distcnn.doctor.finding import (
    BAD,
    GOOD,
    WARNING,
    Finding,
    Places,
    compared,
    exit_code,
    gathered,
    runs,
)
from distcnn.doctor.memory_limits import group_memory
from distcnn.doctor.mpi_library import family
from distcnn.doctor.processors import most_crowded
from distcnn.doctor.report import Report, summary
from distcnn.system import launcher
from tests.conftest import ROOT

FOUR = Places({0: "a", 1: "a", 2: "b", 3: "b"})


def test_places_in_words() -> None:
    assert FOUR.of([0, 1, 2, 3]) == "on all ranks"
    assert FOUR.of([2, 3]) == "on ranks 2-3 (host b)"
    assert FOUR.of([1]) == "on rank 1 (host a)"
    assert FOUR.of([0, 2, 3]) == "on ranks 0, 2-3 (hosts a, b)"
    assert (FOUR.of_hosts([0, 1]), FOUR.of_hosts([0, 2])) == ("on host a", "on all hosts")
    assert Places({0: "a"}).of([0]) == ""
    assert Places({0: "a", 1: "a"}, world_size=4).of([0, 1]) == "on ranks 0-1 (host a)"
    assert runs([7, 0, 1, 2, 9, 10]) == "0-2, 7, 9-10"


def test_equal_findings_are_said_once() -> None:
    cold, warm = Finding("x", GOOD, "cold"), Finding("x", BAD, "warm", "cool it")
    found = gathered(FOUR, {0: [cold], 1: [cold], 2: [warm], 3: [warm]})
    assert found == [
        Finding("x", GOOD, "cold, on ranks 0-1 (host a)"),
        Finding("x", BAD, "warm, on ranks 2-3 (host b)", "cool it"),
    ]
    assert compared(FOUR, "x", dict.fromkeys(range(4), "1"), "why", "how") == Finding(
        "x", GOOD, "1 on all ranks"
    )
    text = "1 on ranks 0, 2-3 (hosts a, b), 2 on rank 1 (host a): why"
    assert compared(FOUR, "x", {0: "1", 1: "2", 2: "1", 3: "1"}, "why", "how") == Finding(
        "x", BAD, text, "how"
    )


def test_the_report() -> None:
    report = Report(
        [Finding("x", GOOD, "fine"), Finding("y", WARNING, "odd", "turn it")], {"world_size": 4}
    )
    assert report.text().splitlines() == [
        "good     x              fine",
        "warning  y              odd",
        " " * 24 + "-> turn it",
        "1 good, 1 warning, 0 bad",
    ]
    assert Report.of(report.as_dict()) == report
    assert summary([]) == "0 good, 0 warnings, 0 bad"
    assert (exit_code(report.findings), exit_code([Finding("z", BAD, "", "")])) == (0, 1)
    assert "\033[33mwarning" in report.text(colours=True)


def test_a_check_that_fails_is_a_finding() -> None:
    def fails(*_: Any) -> Any:
        raise ZeroDivisionError("by nothing")

    everyone = {
        rank: Section("x", fails if rank == 2 else dict, lambda places, all: []).seen()
        for rank in range(4)
    }
    [found] = Section("x", fails, lambda places, all: []).judged(FOUR, everyone)
    assert (found.state, found.text) == (
        BAD,
        "the check itself failed: ZeroDivisionError: by nothing, on rank 2 (host b)",
    )
    [found] = Section("x", dict, fails).judged(FOUR, {0: {}})
    assert found.text == "the check itself failed: ZeroDivisionError: by nothing"


def test_what_takes_too_long_is_left_behind() -> None:
    ended = threading.Event()
    with pytest.raises(TimeoutError, match=r"sleeping took more than 0\.05 s"):
        bounded(0.05, "sleeping", lambda: ended.wait(10))
    ended.set()
    assert bounded(5, "adding", lambda: 1 + 1) == 2
    with pytest.raises(ZeroDivisionError):
        bounded(5, "dividing", lambda: 1 / 0)


def test_the_root_of_an_error() -> None:
    advice = ImportError("\n\nPLEASE READ THIS\nmuch advice\n")
    advice.__cause__ = OSError("libx.so: cannot open")
    assert root_cause(advice) == "OSError: libx.so: cannot open"
    assert root_cause(ImportError("\n\na\n\nb\nc")) == "ImportError: a; b"


@pytest.mark.parametrize(
    ("sets", "threads", "cores", "expected"),
    [
        ([{0}, {0}, {0}, {0}], 1, 2, ({0}, 4)),  # all on one core, and the other is idle
        ([{0, 1}] * 4, 1, 2, None),  # too many, but not bound
        ([{0}, {1}, {0}, {1}], 1, 2, None),  # too many, and spread as well as can be
        ([{0}, {1}], 1, 2, None),
        ([{0}, {1}], 2, 8, ({0}, 1)),  # two threads each, one core each, six idle
        ([{0, 1}, {0, 1}, {0, 1}, {4, 5}], 1, 8, ({0, 1}, 3)),
        ([{0, 1, 2, 3}] * 4, 1, 64, None),
        ([{0}, {0}], 1, 64, ({0}, 2)),
    ],
)
def test_crowded_cores(
    sets: list[set[int]], threads: int, cores: int, expected: tuple[set[int], int] | None
) -> None:
    assert most_crowded(sets, threads, cores) == expected


def test_limits_of_control_groups(tmp_path: Path) -> None:
    own, group = tmp_path / "cgroup", tmp_path / "fs" / "job" / "step"
    group.mkdir(parents=True)
    own.write_text("0::/job/step\n")
    assert group_memory(tmp_path / "fs", own) is None
    for folder, most in ((group, "max"), (group.parent, "1000000")):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text("400000\n")
    (group.parent / "memory.stat").write_text("anon 100\ninactive_file 300000\n")
    assert group_memory(tmp_path / "fs", own) == 900_000


def test_offsets_of_clocks() -> None:
    """Of two rounds the tighter counts: rank 1 was read between 10.0 and 10.2, and said 15.1."""
    found, uncertain = clocks.offsets([[5.0, [5.1, 9.9], 6.0], [10.0, [10.1, 15.1], 10.2]])
    np.testing.assert_allclose([*found, uncertain], [0.0, 5.0, 0.1])


def test_a_clock_that_is_behind() -> None:
    facts = {0: went(rounds=[[10.0, [10.0, 7.0], 10.0]]), 1: went()}
    found = clocks.judge(Places({0: "a", 1: "b"}), facts)
    assert [(each.state, each.text) for each in found] == [
        (WARNING, "3.0 s behind rank 0's (uncertain by 0 s), on rank 1 (host b)")
    ]


@pytest.mark.parametrize(
    ("free", "ranks", "state"), [(64, 2, WARNING), (80, 8, WARNING), (4, 2, BAD), (1000, 8, GOOD)]
)
def test_room_for_shared_memory(free: int, ranks: int, state: str) -> None:
    shared = {"free": free * 2**20, "size": free * 2**20, "left": 1, "left_bytes": 2**20}
    facts = {
        "free": None,
        "group_free": None,
        "shared": shared,
        "limits": {},
        "network_card": False,
    }
    found = memory_limits.judge(
        Places(dict.fromkeys(range(ranks), "a")), dict.fromkeys(range(ranks), facts)
    )
    assert [each.state for each in found if each.name == "shared"] == [state]


def went(**changed: Any) -> dict[str, Any]:
    return {"went": [0.05, 0.05, 0.05], "now": 1e9, "newest": 9e8, "rounds": []} | changed


@pytest.mark.parametrize(
    ("facts", "state", "says"),
    [
        (went(went=[0.0, 0.05, 0.05]), BAD, "stands still"),
        (went(went=[0.05, 0.05, 40.0]), WARNING, "jumped by"),
        (went(now=0.0), WARNING, "before distcnn's own files were written"),
    ],
)
def test_clocks_that_do_not_go(facts: dict[str, Any], state: str, says: str) -> None:
    [found] = clocks.judge(Places({0: "a"}), {0: facts})
    assert found.state == state
    assert says in found.text


def test_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["mpi"]]
    least = dict(each.split(">=") for each in asked)
    assert {name: ".".join(map(str, version)) for name, version in software.LEAST.items()} == {
        name: least[name] for name in software.LEAST
    }
    assert project["requires-python"] == ">=" + ".".join(map(str, software.LEAST_PYTHON))
    assert software.too_old("numpy", "1.26.4")
    assert not software.too_old("numpy", "2.3.0")
    assert not software.too_old("numpy", "2.x")


def test_families_of_mpi() -> None:
    assert (
        family("HYDRA build details:")
        == family("MPICH 4.1")
        == family("Intel(R) MPI Library 2021.9")
        == "MPICH"
    )
    assert family("mpirun (Open MPI) 5.0.11") == family("Open MPI v4.1.4") == "Open MPI"
    assert family("mpiexec by somebody") == ""


def machine(**changed: Any) -> dict[str, Any]:
    facts = {
        "description": "MPICH 5",
        "declared": [4],
        "threads": True,
        "machine": "m",
        "address": {"name": "a", "addresses": ["10.0.0.1"]},
    }
    return facts | changed


@pytest.mark.parametrize(
    ("places", "changed", "state", "says"),
    [
        (
            Places({0: "a", 1: "a", 2: "a", 3: "b"}),
            {},
            WARNING,
            "2 with different numbers of ranks: a 3, b 1",
        ),
        (FOUR, {3: {"machine": "other"}}, BAD, "2 machines call themselves b"),
        (FOUR, {1: {"threads": False}}, WARNING, "no MPI_THREAD_MULTIPLE) on rank 1 (host a)"),
        (
            FOUR,
            {rank: {"declared": [8]} for rank in range(4)},
            BAD,
            "MPI sees 4 ranks, the launcher started 8 processes",
        ),
        (
            FOUR,
            {0: {"address": {"name": "a", "problem": "unknown"}}},
            WARNING,
            "a cannot be resolved (unknown)",
        ),
        (
            FOUR,
            {2: {"address": {"name": "b", "addresses": ["127.0.1.1"]}}},
            WARNING,
            "b stands for 127.0.1.1",
        ),
    ],
)
def test_worlds(places: Places, changed: dict[int, dict[str, Any]], state: str, says: str) -> None:
    found = mpi_world.judge(places, {rank: machine(**changed.get(rank, {})) for rank in range(4)})
    odd = [each for each in found if each.state != GOOD]
    assert [each.state for each in odd] == [state]
    assert says in odd[0].text
    assert odd[0].remedy


@pytest.mark.parametrize(
    ("latency", "seconds", "expected"),
    [(2e-5, 0.01, []), (5e-3, 0.01, ["latency"]), (2e-5, 10.0, ["bandwidth"])],
)
def test_what_is_slow_for_a_network(latency: float, seconds: float, expected: list[str]) -> None:
    rows = [
        [8, latency],
        [1024, latency],
        [allreduce_speed.GRADIENT_BYTES, seconds],
        [16 * 2**20, 5 * seconds],
    ]
    found = allreduce_speed.judge(FOUR, {rank: {"rows": rows, "shared": True} for rank in range(4)})
    assert [each.name for each in found if each.state == WARNING] == expected


def test_a_link_that_another_user_put_into_shared_memory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "shm").mkdir()
    (tmp_path / "shm" / f".distcnn-doctor-{os.getpid()}").symlink_to(tmp_path / "victim")
    facts = memory_limits.shared_memory(tmp_path / "shm")
    assert facts
    assert "problem" not in facts
    assert not (tmp_path / "victim").exists()


def test_a_stranger_cannot_tell_the_doctor_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the name that can be guessed, in the namespace that all users share, and answers
    whoever asks.
    """
    for name, value in {
        "PMI_SIZE": "2",
        "PMI_RANK": "0",
        "MPI_LOCALRANKID": "0",
        "MPI_LOCALNRANKS": "2",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rendezvous, "QUIET_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.bind(f"\0distcnn-doctor-{os.getuid()}-{launcher.launching_process()}")
        stranger.listen()
        threading.Thread(target=answer, args=(stranger,), daemon=True).start()
        assert rendezvous.told_by_host(0, {"mine": 1}) == {0: {"mine": 1}}


def answer(stranger: socket.socket) -> None:
    asker, _ = stranger.accept()
    asker.sendall(json.dumps([[0, {}], [1, {"forged": 1}]]).encode())
    asker.close()

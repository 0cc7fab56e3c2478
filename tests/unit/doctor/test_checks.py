"""The doctor's parts that do not depend on the machine: merging findings, and what counts as slow,
late or old.
"""

from __future__ import annotations

import os
import threading
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distcnn.doctor import resources, software, sums, world
from distcnn.doctor.check import BAD, GOOD, WARNING, Check, Finding, Places, Report, root_cause
from distcnn.doctor.mpi_library import family
from distcnn.doctor.time_limits import bounded
from distcnn.system.host import Cores
from tests.conftest import ROOT

FOUR = Places({0: "a", 1: "a", 2: "b", 3: "b"})


def test_places_in_words() -> None:
    assert FOUR.ranks_text([0, 1, 2, 3]) == "on all ranks"
    assert FOUR.ranks_text([2, 3]) == "on ranks 2-3 (host b)"
    assert FOUR.ranks_text([1]) == "on rank 1 (host a)"
    assert FOUR.ranks_text([0, 2, 3]) == "on ranks 0, 2-3 (hosts a, b)"
    assert Places({0: "a"}).ranks_text([0]) == ""
    assert Places({0: "a", 1: "a"}, world_size=4).ranks_text([0, 1]) == "on ranks 0-1 (host a)"


def test_equal_findings_are_merged() -> None:
    cold, warm = Finding.good("x", "cold"), Finding.bad("x", "warm", "cool it")
    assert FOUR.gathered({0: [cold], 1: [cold], 2: [warm], 3: [warm]}) == [
        Finding.good("x", "cold, on ranks 0-1 (host a)"),
        Finding.bad("x", "warm, on ranks 2-3 (host b)", "cool it"),
    ]
    same = FOUR.compared("x", dict.fromkeys(range(4), "1"), "why", "how")
    assert same == Finding.good("x", "1 on all ranks")
    differ = FOUR.compared("x", {0: "1", 1: "2", 2: "1", 3: "1"}, "why", "how")
    text = "1 on ranks 0, 2-3 (hosts a, b), 2 on rank 1 (host a): why"
    assert differ == Finding.bad("x", text, "how")


def test_the_report() -> None:
    report = Report()
    report.add(Finding.good("x", "fine", world_size=4), Finding.warning("y", "odd", "turn it"))
    assert report.text().splitlines() == [
        "good     x              fine",
        "warning  y              odd",
        " " * 24 + "-> turn it",
        "1 good, 1 warning, 0 bad",
    ]
    content = report.as_dict()
    assert content["counts"] == {GOOD: 1, WARNING: 1, BAD: 0}
    assert content["world_size"] == 4
    assert content["findings"][1]["remedy"] == "turn it"
    assert (report.exit_code, Report(findings=[Finding.bad("z", "", "")]).exit_code) == (0, 1)


def test_a_check_that_fails_is_a_finding() -> None:
    def fails(*_: Any) -> Any:
        raise ZeroDivisionError("by nothing")

    def nothing(*_: Any) -> list[Finding]:
        return []

    everyone = {
        rank: Check("x", fails if rank == 2 else dict, nothing).collected() for rank in range(4)
    }
    [found] = Check("x", fails, nothing).evaluated(FOUR, everyone)
    assert found.state == BAD
    assert "ZeroDivisionError: by nothing, on rank 2 (host b)" in found.text
    [found] = Check("x", dict, fails).evaluated(FOUR, {0: {}})
    assert "ZeroDivisionError: by nothing" in found.text


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


def test_offsets_of_clocks() -> None:
    """The tighter of two rounds counts: rank 1 was read between 10.0 and 10.2, reporting 15.1."""
    found, uncertain = world.offsets([(5.0, [5.1, 9.9], 6.0), (10.0, [10.1, 15.1], 10.2)])
    assert [*found, uncertain] == pytest.approx([0.0, 5.0, 0.1])


MACHINE = resources.Resources(
    Cores("a", frozenset(range(64))), 64, 0.0, 1, None, None, "", limits={}
)


@pytest.mark.parametrize(
    ("free", "ranks", "state"), [(64, 2, WARNING), (80, 8, WARNING), (4, 2, BAD), (1000, 8, GOOD)]
)
def test_room_for_shared_memory(free: int, ranks: int, state: str) -> None:
    places = Places(dict.fromkeys(range(ranks), "a"))
    facts = replace(MACHINE, shared=free * 2**20)
    found = resources.evaluate(places, dict.fromkeys(range(ranks), facts))
    assert [each.state for each in found if each.name == "shared"] == [state]


def test_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["mpi"]]
    least = dict(each.split(">=") for each in asked)
    assert {name: software.least(name) for name in software.LEAST} == {
        name: least[name] for name in software.LEAST
    }
    assert project["requires-python"] == ">=" + ".".join(map(str, software.LEAST_PYTHON))
    assert software.too_old("numpy", "1.26.4")
    assert not software.too_old("numpy", "2.3.0")
    assert not software.too_old("numpy", "2.x")


def test_families_of_mpi() -> None:
    for text in ("HYDRA build details:", "MPICH 4.1", "Intel(R) MPI Library 2021.9"):
        assert family(text) == "MPICH"
    assert family("mpirun (Open MPI) 5.0.11") == family("Open MPI v4.1.4") == "Open MPI"
    assert family("mpiexec by somebody") == ""


@pytest.mark.parametrize(
    ("places", "changed", "state", "says"),
    [
        (Places({0: "a", 1: "a", 2: "a", 3: "b"}), {}, WARNING, "numbers of ranks: a 3, b 1"),
        (FOUR, {1: {"threads": False}}, WARNING, "MPI_THREAD_MULTIPLE on rank 1 (host a)"),
        (FOUR, {rank: {"declared": [8]} for rank in range(4)}, BAD, "started 8 processes"),
        (
            FOUR,
            {0: {"rounds": [(10.0, [10.0, 10.0, 10.0, 7.0], 10.0)]}},
            WARNING,
            "3.0 s behind rank 0's",
        ),
    ],
)
def test_worlds(places: Places, changed: dict[int, dict[str, Any]], state: str, says: str) -> None:
    usual = world.World("MPICH 5", [4], True, [(10.0, [10.0] * 4, 10.0)])
    found = world.evaluate(
        places, {rank: replace(usual, **changed.get(rank, {})) for rank in range(4)}
    )
    odd = [each for each in found if each.state != GOOD]
    assert [each.state for each in odd] == [state]
    assert says in odd[0].text
    assert odd[0].remedy


@pytest.mark.parametrize(
    ("latency", "seconds", "expected"),
    [(2e-5, 0.01, []), (5e-3, 0.01, ["latency"]), (2e-5, 10.0, ["bandwidth"])],
)
def test_what_is_slow_for_a_network(latency: float, seconds: float, expected: list[str]) -> None:
    rows = [(8, latency), (1024, latency), (sums.GRADIENT_BYTES, seconds), (2**24, 5 * seconds)]
    facts = sums.Sums(rows, True, "a", "a", "b", 10.0, "")
    found = sums.evaluate(FOUR, dict.fromkeys(range(4), facts))
    assert [each.name for each in found if each.state == WARNING] == expected


def test_a_link_that_another_user_put_into_shared_memory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "shm").mkdir()
    (tmp_path / "shm" / f".distcnn-doctor-{os.getpid()}").symlink_to(tmp_path / "victim")
    free, problem = resources.shared_memory(tmp_path / "shm")
    assert free
    assert not problem
    assert not (tmp_path / "victim").exists()

"""The doctor's parts that do not depend on the machine: merging findings, and what counts as slow,
late or old.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcnn.distributed import Communicator
from distcnn.doctor import resources, software, sums, world
from distcnn.doctor.findings import (
    BAD,
    GOOD,
    WARNING,
    Finding,
    Ranks,
    Report,
    Same,
    attempt,
    root_cause,
)
from distcnn.doctor.mpi_library import family
from distcnn.doctor.time_limits import bounded
from distcnn.nn.kernels import exact_dense
from tests.conftest import ROOT

FOUR = Ranks({0: "a", 1: "a", 2: "b", 3: "b"})


def test_places_in_words() -> None:
    assert FOUR.text([0, 1, 2, 3]) == "on all ranks"
    assert FOUR.text([2, 3]) == "on ranks 2-3 (host b)"
    assert FOUR.text([1]) == "on rank 1 (host a)"
    assert FOUR.text([0, 2, 3]) == "on ranks 0, 2-3 (hosts a, b)"
    assert Ranks({0: "a"}).text([0]) == ""
    assert Ranks({0: "a", 1: "a"}, declared=4).text([0, 1]) == "on ranks 0-1 (host a)"


def test_equal_findings_are_merged() -> None:
    cold, warm = Finding(GOOD, "x", "cold"), Finding(BAD, "x", "warm", "cool it")
    other = Finding(GOOD, "y", "other")
    assert FOUR.merge({0: [cold, other], 1: [cold], 2: [warm], 3: [warm]}) == [
        Finding(GOOD, "x", "cold, on ranks 0-1 (host a)"),
        Finding(BAD, "x", "warm, on ranks 2-3 (host b)", "cool it"),
        Finding(GOOD, "y", "other, on rank 0 (host a)"),
    ]


def test_values_are_compared() -> None:
    values = {rank: Same("x", "2" if rank == 1 else "1", "why", "how") for rank in range(4)}
    text = "1 on ranks 0, 2-3 (hosts a, b), 2 on rank 1 (host a): why"
    assert FOUR.merge({rank: [same] for rank, same in values.items()}) == [
        Finding(BAD, "x", text, "how")
    ]
    same = FOUR.merge({rank: [values[0]] for rank in range(4)})
    assert same == [Finding(GOOD, "x", "1 on all ranks")]


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    fine = Finding(GOOD, "x", "fine", measured={"world_size": 4})
    report.add(fine, Finding(WARNING, "y", "odd", "turn it"))
    report.end(str(tmp_path / "report.json"))
    assert capsys.readouterr().out.splitlines() == [
        "good     x              fine",
        "warning  y              odd",
        " " * 24 + "-> turn it",
        "1 good, 1 warning, 0 bad",
    ]
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["counts"] == {GOOD: 1, WARNING: 1, BAD: 0}
    assert content["world_size"] == 4
    assert content["findings"][1]["remedy"] == "turn it"
    silent = Report(silent=True)
    silent.add(fine)
    silent.end()
    assert not capsys.readouterr().out


def test_a_check_that_fails_is_a_finding() -> None:
    def fails(*_: Any) -> Any:
        yield Finding(GOOD, "x", "so far")
        raise ZeroDivisionError("by nothing")

    first, found = attempt(fails)
    assert first.name == "x"
    assert isinstance(found, Finding)
    assert (found.state, found.name) == (BAD, "fails")
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
    ("free", "ranks", "state"), [(64, 2, WARNING), (80, 8, WARNING), (4, 2, BAD), (1000, 8, GOOD)]
)
def test_room_for_shared_memory(free: int, ranks: int, state: str) -> None:
    assert resources.shared_memory(free * 2**20, ranks).state == state


def test_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["mpi"]]
    least = dict(each.split(">=") for each in asked)
    for name, numbers in software.LEAST.items():
        assert ".".join(map(str, numbers)) == least[name]
    assert project["requires-python"] == ">=" + ".".join(map(str, software.LEAST_PYTHON))
    assert "distcnn needs 2.0 or newer" in software.too_old("numpy", "1.26.4")
    assert not software.too_old("numpy", "2.3.0")
    assert not software.too_old("numpy", "2.x")


def test_families_of_mpi() -> None:
    for text in ("HYDRA build details:", "MPICH 4.1", "Intel(R) MPI Library 2021.9"):
        assert family(text) == "MPICH"
    assert family("mpirun (Open MPI) 5.0.11") == family("Open MPI v4.1.4") == "Open MPI"
    assert family("mpiexec by somebody") == ""


class Four(Communicator):
    """Rank 0 of four, without MPI."""

    world_size, description = 4, "MPICH 5"

    def __init__(self, hosts: str = "aabb", has_threads: bool = True) -> None:
        super().__init__()
        self.hosts, self.has_threads = [*hosts], has_threads


@pytest.mark.parametrize(
    ("check", "communicator", "declared", "says"),
    [
        (world.hosts, Four("aaab"), "4", "2, with ranks: a 3, b 1: not equally many"),
        (world.ranks, Four(has_threads=False), "4", "lacks MPI_THREAD_MULTIPLE"),
        (world.ranks, Four(), "8", "started 8 processes, but MPI sees 4 ranks"),
    ],
)
def test_worlds(
    check: Any, communicator: Four, declared: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMI_SIZE", declared)
    monkeypatch.setenv("PMI_RANK", "0")
    odd = [each for each in check(communicator, argparse.Namespace()) if each.state != GOOD]
    assert len(odd) == 1
    assert says in odd[0].text
    assert odd[0].remedy


@pytest.mark.parametrize(
    ("behind", "rank", "state"), [(3.0, 3, WARNING), (30.0, 3, BAD), (3.0, 0, GOOD)]
)
def test_clocks(behind: float, rank: int, state: str) -> None:
    found = world.compare_clocks(Four().hosts, rank, [0.0, 0.0, 0.0, -behind], 0.1)
    assert found.state == state
    assert (f"{behind:.1f} s behind rank 0's" in found.text) == (state != GOOD)


class Clocks(Four):
    """Rank 3 of four. Its clock is 5 s ahead, but in all rounds except a quick one it seems 9 s."""

    rank = 3

    def __init__(self) -> None:
        super().__init__()
        self._rounds = 0

    def barrier(self) -> None:
        self._rounds += 1
        time.sleep(0.005 if self._rounds != 7 else 0)

    def allgather(self, item: Any) -> list[Any]:
        return [item, item, item, item + (9 if self._rounds != 7 else 5)]


def test_the_quickest_comparison_of_clocks_counts() -> None:
    [found] = world.clock(Clocks(), argparse.Namespace())
    assert found.state == WARNING
    assert found.text.startswith("5.0 s ahead of rank 0's clock")


@pytest.mark.parametrize(
    ("latency", "seconds", "expected"),
    [(2e-5, 0.01, []), (5e-3, 0.01, ["latency"]), (2e-5, 10.0, ["bandwidth"])],
)
def test_what_is_slow_for_a_network(latency: float, seconds: float, expected: list[str]) -> None:
    rows = [(8, latency), (1024, latency), (sums.GRADIENT_BYTES, seconds), (2**24, 5 * seconds)]
    found = sums.allreduce_speed(rows, hosts=2)
    assert [each.name for each in found if each.state == WARNING] == expected


def test_layers_that_round_differently_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    store_gradient = exact_dense.store_gradient

    def other_gradient(exact: Any, grads: Any) -> None:
        store_gradient(exact, grads)
        grads[...] = np.nextafter(grads, np.float32(1))

    (good,) = sums.portable(Communicator(), argparse.Namespace())
    monkeypatch.setattr(exact_dense, "store_gradient", other_gradient)
    (bad,) = sums.portable(Communicator(), argparse.Namespace())
    assert isinstance(good, Finding)
    assert isinstance(bad, Finding)
    assert (good.state, bad.state) == (GOOD, BAD)
    assert "layers" in bad.text
    assert "--arithmetic native" in bad.remedy


@pytest.mark.parametrize("check", [software.software, None])
def test_what_portable_arithmetic_does_not_depend_on_is_said(check: Any) -> None:
    found = check() if check else sums.products(Communicator(), argparse.Namespace())
    told = {each.name: "--arithmetic portable" in each.remedy for each in found}
    assert told.pop("distcnn", False) is told.pop("hdf5", False) is False
    assert told
    assert all(told.values())


@pytest.mark.parametrize(("is_portable", "state"), [(False, BAD), (True, GOOD)])
def test_portable_runs_may_use_hosts_of_several_kinds(is_portable: bool, state: str) -> None:
    ranks = Ranks({0: "a", 1: "b"}, is_portable=is_portable)
    values = [Same("blas", name, "why", "remedy", of_native=True) for name in ("x", "y")]
    (found,) = ranks.merge({rank: [value] for rank, value in enumerate(values)})
    assert found.state == state
    assert "x on rank 0 (host a), y on rank 1 (host b)" in found.text
    others = [replace(value, of_native=False) for value in values]
    (found,) = ranks.merge({rank: [value] for rank, value in enumerate(others)})
    assert found.state == BAD

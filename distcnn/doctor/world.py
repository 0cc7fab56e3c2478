"""The MPI world: its ranks and hosts, thread support, and the hosts' clocks."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distcnn.doctor.check import BAD, WARNING, Check, Finding, Options, Places
from distcnn.system import launcher
from distcnn.system.wording import counted

if TYPE_CHECKING:
    from distcnn.distributed import Communicator

DEFAULT_SHARDS = 8
ROUNDS = 20
ODD_SECONDS, WRONG_SECONDS = 0.5, 10.0
"""Clocks further apart are odd, or wrong: a cluster keeps its hosts within milliseconds."""

Round = tuple[float, list[float], float]
"""Rank 0's time before, the times of all ranks, rank 0's time after (seconds)."""


@dataclass(frozen=True)
class World:
    """One rank's view of the MPI world.

    Args:
        description: name and version of the MPI library.
        declared: numbers of processes that launchers say they started.
        threads: whether several threads may call MPI.
        rounds: of clock comparisons, on rank 0.
    """

    description: str
    declared: list[int]
    threads: bool
    rounds: list[Round]


def collect(communicator: Communicator, options: Options) -> World:
    """Compare clocks between barriers. Collective."""
    declared = [
        launch.world_size
        for launch in launcher.declared(os.environ)
        if launch.world_size and not launch.variable.startswith("SLURM")
    ]
    communicator.barrier()
    rounds = []
    for _ in range(ROUNDS):
        before = time.time()
        communicator.barrier()
        times = communicator.allgather(time.time())
        rounds.append((before, times, time.time()))
    if communicator.rank:
        rounds = []
    return World(communicator.description, declared, communicator.has_threads, rounds)


def evaluate(places: Places, everyone: Mapping[int, World]) -> Iterator[Finding]:
    """Ranks, hosts, thread support, clocks."""
    ranks = places.total
    yield _ranks(places, everyone)
    yield _hosts(places)
    if ranks == 1:
        return
    without = [rank for rank, facts in everyone.items() if not facts.threads]
    if without:
        text = f"MPI lacks MPI_THREAD_MULTIPLE {places.ranks_text(without)}"
        remedy = (
            "load an MPI built with it: without it distcnn cannot name late ranks or overlap"
            " communication with computation"
        )
        yield Finding.warning("mpi threads", text, remedy)
    else:
        yield Finding.good("mpi threads", "MPI_THREAD_MULTIPLE is supported")
    if 0 in everyone:
        yield from _clocks(places, everyone[0].rounds)


def _ranks(places: Places, everyone: Mapping[int, World]) -> Finding:
    ranks, description = places.total, next(iter(everyone.values())).description
    if ranks == 1:
        return Finding.good("ranks", "1, without a launcher")
    wrong = {r: f.declared for r, f in everyone.items() if f.declared and ranks not in f.declared}
    if wrong:
        started = counted(next(iter(wrong.values()))[0], "process")
        text = (
            f"the launcher started {started}, but MPI sees {counted(ranks, 'rank')}"
            f" {places.ranks_text(wrong)}"
        )
        return Finding.bad("ranks", text, launcher.REMEDY)
    if ranks > DEFAULT_SHARDS:
        text = f"{ranks} ({description}), but the default is {DEFAULT_SHARDS} shards"
        remedy = (
            f"train with --num-shards {ranks} (which changes the results), or start fewer ranks"
        )
        return Finding.warning("ranks", text, remedy)
    return Finding.good("ranks", f"{ranks} ({description}), as many as the launcher started")


def _hosts(places: Places) -> Finding:
    counts = Counter(places.hosts.values())
    measured = {"world_size": places.total, "hosts": list(places.hosts.values())}
    if len(counts) == 1:
        return Finding.good("hosts", next(iter(counts)), **measured)
    if len(set(counts.values())) == 1:
        each = counted(next(iter(counts.values())), "rank")
        text = f"{len(counts)} with {each} each: {', '.join([*counts][:8])}"
        return Finding.good("hosts", text, **measured)
    numbers = ", ".join(f"{host} {count}" for host, count in list(counts.items())[:8])
    remedy = (
        "start the same number on each host (srun --ntasks-per-node, mpirun -ppn or --map-by"
        " ppr:N:node)"
    )
    text = f"{len(counts)} with different numbers of ranks: {numbers}"
    return Finding.warning(
        "hosts", text, f"{remedy}; all ranks wait for those of the fullest host", **measured
    )


def offsets(rounds: list[Round]) -> tuple[list[float], float]:
    """Estimate how far each clock is ahead of rank 0's.

    Each time was taken between the two times of rank 0 in the round, so half their difference
    bounds the error. The round with the smallest bound is used.

    Returns:
        The offset of each rank, and the uncertainty (seconds).
    """
    before, times, after = min(rounds, key=lambda found: abs(found[2] - found[0]))
    return [value - (before + after) / 2 for value in times], abs(after - before) / 2


def _clocks(places: Places, rounds: list[Round]) -> Iterator[Finding]:
    found, uncertain = offsets(rounds)
    by_host = {host: found[ranks[0]] for host, ranks in places.ranks_of_host.items()}
    accuracy = f"(uncertain by {uncertain:.1g} s)"
    off = {rank: by for rank, by in enumerate(found) if abs(by) > ODD_SECONDS + uncertain}
    if not off:
        most = max(map(abs, found)) + uncertain
        text = f"all within {most:.2g} s of rank 0's clock {accuracy}"
        yield Finding.good("clock", text, clock_offset_seconds=by_host)
    remedy = "ask the site to synchronise the hosts' clocks (chrony, NTP)"
    lines = {}
    for rank, by in off.items():
        state = BAD if abs(by) > WRONG_SECONDS + uncertain else WARNING
        text = f"{abs(by):.1f} s {'ahead of' if by > 0 else 'behind'} rank 0's clock {accuracy}"
        lines[rank] = [Finding("clock", state, text, remedy, {"clock_offset_seconds": by_host})]
    yield from places.gathered(lines)


CHECK = Check("ranks", collect, evaluate)

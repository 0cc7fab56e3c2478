"""The MPI world: its ranks, hosts and cores, thread support, and the hosts' clocks."""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator

from distcnn.distributed import Communicator
from distcnn.doctor.findings import BAD, GOOD, MOST_HOSTS_NAMED, WARNING, Finding
from distcnn.system import launcher
from distcnn.system.host import oversubscription, threads_for_each, usable_cores
from distcnn.system.wording import counted

DEFAULT_SHARDS = 8
ROUNDS = 20
ODD_SECONDS, WRONG_SECONDS = 0.5, 10.0
"""Clocks further apart are odd, or wrong: a cluster keeps its hosts within milliseconds."""

MORE_CORES = (
    "start fewer ranks, use fewer threads, request more cores, or bind ranks to more of them"
    " (srun --cpu-bind=none, mpirun --bind-to none)"
)
EQUAL_HOSTS = (
    "start the same number on each host (srun --ntasks-per-node, mpirun -ppn or --map-by"
    " ppr:N:node); all ranks wait for those of the fullest host"
)
LOAD_THREADS = (
    "load an MPI built with it: without it distcnn cannot name late ranks or overlap communication"
    " with computation"
)


def ranks(communicator: Communicator, options: argparse.Namespace) -> Iterator[Finding]:
    """As many ranks as were started and as the default's shards; thread support."""
    world_size, description = communicator.world_size, communicator.description
    if world_size == 1:
        yield Finding(GOOD, "ranks", "1, without a launcher")
        return
    declared = [
        launch.world_size
        for launch in launcher.declared(os.environ)
        if launch.world_size and not launch.variable.startswith("SLURM")
    ]
    if declared and world_size not in declared:
        started, seen = counted(declared[0], "process"), counted(world_size, "rank")
        text = f"the launcher started {started}, but MPI sees {seen}"
        yield Finding(BAD, "ranks", text, launcher.REMEDY)
    elif world_size > DEFAULT_SHARDS:
        text = f"{world_size} ({description}), but the default is {DEFAULT_SHARDS} shards"
        remedy = f"train with --num-shards {world_size} (which changes the results)"
        yield Finding(WARNING, "ranks", text, f"{remedy}, or start fewer ranks")
    else:
        text = f"{world_size} ({description}), as many as the launcher started"
        yield Finding(GOOD, "ranks", text)
    if communicator.has_threads:
        yield Finding(GOOD, "mpi threads", "MPI_THREAD_MULTIPLE is supported")
    else:
        yield Finding(WARNING, "mpi threads", "MPI lacks MPI_THREAD_MULTIPLE", LOAD_THREADS)


def hosts(communicator: Communicator, options: argparse.Namespace) -> Iterator[Finding]:
    """Equally many ranks on each host."""
    measured = {"world_size": communicator.world_size, "hosts": communicator.hosts}
    counts = Counter(communicator.hosts)
    numbers = [f"{host} {count}" for host, count in counts.items()]
    text = f"{len(counts)}, with ranks: {', '.join(numbers[:MOST_HOSTS_NAMED])}"
    if len(set(counts.values())) == 1:
        text = communicator.hosts[0] if len(counts) == 1 else text
        yield Finding(GOOD, "hosts", text, measured=measured)
    else:
        yield Finding(WARNING, "hosts", f"{text}: not equally many", EQUAL_HOSTS, measured)


def cores(communicator: Communicator, options: argparse.Namespace) -> Iterator[Finding]:
    """Whether every thread has a core."""
    everyone = communicator.allgather(usable_cores(communicator.hosts[communicator.rank]))
    threads = options.threads or threads_for_each(everyone)
    crowded = oversubscription(everyone, threads)
    if crowded:
        yield Finding(WARNING, "cores", f"oversubscribed: {crowded}", MORE_CORES)
    else:
        per_rank = f"{counted(threads, 'thread')} per rank"
        yield Finding(GOOD, "cores", f"enough for {counted(len(everyone), 'rank')}, {per_rank}")


def clock(communicator: Communicator, options: argparse.Namespace) -> Iterator[Finding]:
    """How far this rank's clock is from rank 0's."""
    if communicator.world_size == 1:
        return
    communicator.barrier()
    rounds: list[tuple[float, list[float]]] = []
    for _ in range(ROUNDS):
        before = time.time()
        communicator.barrier()
        times = communicator.allgather(time.time())
        after = time.time()
        # Each rank's time was taken between these two of rank 0, which bounds the error.
        middle, uncertain = (before + after) / 2, abs(after - before) / 2
        rounds.append((uncertain, [value - middle for value in times]))
    uncertain, offsets = communicator.broadcast(min(rounds))
    yield compare_clocks(communicator.hosts, communicator.rank, offsets, uncertain)


def compare_clocks(hosts: list[str], rank: int, offsets: list[float], uncertain: float) -> Finding:
    """Judge the clock of ``rank`` by the offsets of all from rank 0's (seconds)."""
    own, odd = offsets[rank], ODD_SECONDS + uncertain
    accuracy = f"rank 0's clock (uncertain by {uncertain:.1g} s)"
    measured = {"clock_offset_seconds": dict(zip(hosts, offsets, strict=True))}
    if abs(own) <= odd:
        most = max(by for by in map(abs, offsets) if by <= odd) + uncertain
        text = f"within {most:.2g} s of {accuracy}"
        return Finding(GOOD, "clock", text, measured=measured)
    state = BAD if abs(own) > WRONG_SECONDS + uncertain else WARNING
    text = f"{abs(own):.1f} s {'ahead of' if own > 0 else 'behind'} {accuracy}"
    remedy = "ask the site to synchronise the hosts' clocks (chrony, NTP)"
    return Finding(state, "clock", text, remedy, measured)

"""Cores against ranks and their threads: how many there are, which of them each rank may use, who
else uses them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from distcnn.doctor.check import Everyone, Facts, Section
from distcnn.doctor.finding import BAD, GOOD, WARNING, Finding, Places, count, gathered, runs
from distcnn.doctor.options import Options
from distcnn.system.cores import usable_cores
from distcnn.system.wording import counted, plural

BUSY = 1.5
"""A host whose load is beyond this times its cores, and one, has much else to do."""

BIND = (
    "let ranks have cores of their own: srun -c 1 --cpu-bind=cores, mpirun -bind-to none (MPICH) or"
    " --bind-to none (Open MPI), no taskset; or ask for more cores"
)
FEWER = (
    "start fewer ranks on a host, or threads on a rank, or ask for more cores: as many ranks x"
    " threads as cores is fastest"
)


def look(options: Options) -> Facts:
    """Cores this process may use, of how many; the container's share of time; the host's load
    before we began.
    """
    usable = usable_cores("")
    allowed = sorted(usable.ids)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    cores = {
        "cores": allowed,
        "count": max(os.cpu_count() or 1, len(allowed)),
        "quota": usable.share,
    }
    return cores | {"load": load, "threads": options.threads}


def judge(places: Places, everyone: Everyone) -> list[Finding]:
    """Host by host."""
    found: dict[int, list[Finding]] = {}
    for ranks in places.ranks_of_host.values():
        here = {rank: everyone[rank] for rank in ranks if rank in everyone}
        if here:
            findings = [*_cores(here), _load(next(iter(here.values())))]
            found |= dict.fromkeys(here, findings)
    return gathered(places, found, of_hosts=True)


def _cores(here: Everyone) -> Iterator[Finding]:
    """Of the ranks of one host."""
    first = next(iter(here.values()))
    allowed = {core for facts in here.values() for core in facts["cores"]}
    of_host, ranks = first["count"], len(here)
    threads = first["threads"] or max(1, len(allowed) // ranks)
    needed = ranks * threads
    who = f"{count(ranks, 'rank')} x {count(threads, 'thread')}"
    crowded = most_crowded([set(facts["cores"]) for facts in here.values()], threads, of_host)
    if crowded:
        cores, inside = crowded
        where = f"{plural(len(cores), 'core')} {runs(cores)} of the host's {of_host}"
        yield Finding(
            "binding",
            BAD,
            f"{count(inside, 'rank')} x {count(threads, 'thread')} bound to {where}",
            BIND,
        )
    elif needed > len(allowed):
        yield Finding(
            "cores", WARNING, f"{who} on {count(len(allowed), 'core')}: they take turns", FEWER
        )
    else:
        yield Finding(
            "cores", GOOD, f"{who} on {len(allowed)} of the host's {count(of_host, 'core')}"
        )
    quota = first["quota"]
    if quota < needed:
        share = f"{quota:g} {plural(quota, 'core')}"
        text = (
            f"the container or job may use the time of {share} (its control group, or Slurm), for"
            f" {who}: they will be held up"
        )
        remedy = (
            "ask for as many CPUs as ranks x threads (docker --cpus, the job's CPU limit), or start"
            " fewer"
        )
        yield Finding("quota", WARNING, text, remedy)


def most_crowded(
    sets: list[set[int]], threads: int, cores_of_host: int
) -> tuple[set[int], int] | None:
    """Cores, fewer than the threads of the ranks that may use no others, and how many ranks those
    are.

    None where there are none, or where the whole host  is no less crowded: then binding is not to
    blame.
    """
    evenly = len(sets) * threads / cores_of_host
    crowds = [
        (cores, sum(other <= cores for other in sets))
        for cores in sets
        if len(cores) < cores_of_host
    ]
    crowds = [
        (cores, inside)
        for cores, inside in crowds
        if inside * threads > len(cores) and inside * threads / len(cores) > evenly
    ]
    return max(crowds, key=lambda crowd: crowd[1] / len(crowd[0]), default=None)


def _load(facts: Facts) -> Finding:
    load, cores = facts["load"], facts["count"]
    if load > BUSY * cores + 1:
        text = f"the host was busy before we began: load {load:.1f} on {counted(cores, 'core')}"
        return Finding(
            "load",
            WARNING,
            text,
            "look with top who computes there, or ask for a host of your own (sbatch --exclusive)",
        )
    return Finding(
        "load", GOOD, f"the host was {'idle' if load < cores / 2 else 'in use'} before we began"
    )


SECTION = Section("cores", look, judge)

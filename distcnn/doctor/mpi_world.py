"""The world that MPI made: how many ranks, on which hosts, what the library lets threads do."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from distcnn.doctor.check import Everyone, Facts, Section, bounded
from distcnn.doctor.finding import BAD, GOOD, WARNING, Finding, Places, gathered
from distcnn.system import launcher
from distcnn.system.wording import counted

BOOT = Path("/proc/sys/kernel/random/boot_id")
SECONDS_FOR_NAME = 2.0
DEFAULT_SHARDS = 8

NAME_HOST = (
    "have the host's own name in DNS or /etc/hosts, with the address that other hosts see: ask the"
    " site"
)


def look(communicator: Any) -> Facts:
    """This rank's host, and what the launcher declared."""
    from distcnn.distributed.communicator import NoMailbox

    sizes = [
        each.world_size
        for each in launcher.declared(os.environ)
        if not each.variable.startswith("SLURM") and each.world_size
    ]
    return {
        "description": communicator.description,
        "declared": sizes,
        "threads": not isinstance(communicator.mailbox(), NoMailbox),
        "machine": BOOT.read_text().strip() if BOOT.exists() else "",
        "address": own_address(),
    }


def judge(places: Places, everyone: Everyone) -> list[Finding]:
    """Ranks, hosts, names, threads."""
    ranks, hosts = len(places.hosts), places.ranks_of_host
    found = [*_ranks(places, everyone), *_hosts(places, everyone)]
    if ranks > 1:
        without = [rank for rank, facts in everyone.items() if not facts["threads"]]
        if without:
            text = (
                "MPI does not let several threads call it (no MPI_THREAD_MULTIPLE)"
                f" {places.of(without)}"
            )
            remedy = (
                "load an MPI built with it; without it a late rank is not named when a run stalls,"
                " and sums are not hidden"
            )
            found.append(Finding("mpi threads", WARNING, text, remedy))
        else:
            found.append(
                Finding("mpi threads", GOOD, "several threads may call MPI (MPI_THREAD_MULTIPLE)")
            )
    names = {rank: _name(facts["address"], len(hosts) > 1) for rank, facts in everyone.items()}
    return [*found, *gathered(places, names, of_hosts=True)]


def own_address() -> Facts:
    """The address that this host's own name stands for."""
    name = socket.gethostname()
    try:
        found = bounded(
            SECONDS_FOR_NAME, f"asking for {name}", lambda: socket.getaddrinfo(name, None)
        )
    except (OSError, TimeoutError, UnicodeError) as error:
        return {"name": name, "problem": getattr(error, "strerror", None) or str(error)}
    return {"name": name, "addresses": sorted({str(each[4][0]) for each in found})}


def _ranks(places: Places, everyone: Everyone) -> list[Finding]:
    ranks, first = len(places.hosts), next(iter(everyone.values()))
    if ranks == 1:
        return [Finding("ranks", GOOD, "1, alone (no launcher started several)")]
    found = []
    declared = {rank: facts["declared"] for rank, facts in everyone.items() if facts["declared"]}
    wrong = [rank for rank, sizes in declared.items() if ranks not in sizes]
    if wrong:
        text = (
            f"MPI sees {counted(ranks, 'rank')}, the launcher started"
            f" {counted(declared[wrong[0]][0], 'process')} {places.of(wrong)}"
        )
        found.append(Finding("ranks", BAD, text, launcher.REMEDY))
    elif ranks > DEFAULT_SHARDS:
        text = (
            f"{ranks} ({first['description']}), more than the default's {DEFAULT_SHARDS} shards:"
            " training would refuse to start"
        )
        found.append(
            Finding(
                "ranks",
                WARNING,
                text,
                f"--num-shards {ranks}, or fewer ranks; the number of shards decides the bits",
            )
        )
    else:
        found.append(
            Finding(
                "ranks", GOOD, f"{ranks} ({first['description']}), as many as the launcher started"
            )
        )
    return found


def _hosts(places: Places, everyone: Everyone) -> list[Finding]:
    hosts = places.ranks_of_host
    counts = {host: len(ranks) for host, ranks in hosts.items()}
    if len(hosts) == 1:
        found = [Finding("hosts", GOOD, next(iter(hosts)))]
    elif len(set(counts.values())) == 1:
        found = [
            Finding(
                "hosts",
                GOOD,
                f"{len(hosts)}, {counted(next(iter(counts.values())), 'rank')} each:"
                f" {', '.join(list(hosts)[:8])}",
            )
        ]
    else:
        text = f"{len(hosts)} with different numbers of ranks: " + ", ".join(
            f"{host} {count}" for host, count in list(counts.items())[:8]
        )
        remedy = (
            "place as many on each (srun --ntasks-per-node, mpirun -ppn or --map-by ppr:N:node), or"
            " all wait for the fullest"
        )
        found = [Finding("hosts", WARNING, text, remedy)]
    machines = {
        host: {everyone[rank]["machine"] for rank in ranks if rank in everyone}
        for host, ranks in hosts.items()
    }
    for host, several in machines.items():
        if len(several) > 1:
            text = (
                f"{len(several)} machines call themselves {host}: MPI may take their ranks for"
                " neighbours"
            )
            found.append(
                Finding(
                    "hosts",
                    BAD,
                    text,
                    "give each machine a name of its own (hostnamectl): ask the site",
                )
            )
    return found


def _name(address: Facts, several_hosts: bool) -> list[Finding]:
    """Whether a host knows its own name."""
    if "problem" in address:
        return [
            Finding(
                "names",
                WARNING,
                f"{address['name']} cannot be resolved ({address['problem']})",
                NAME_HOST,
            )
        ]
    if several_hosts and all(
        each.startswith("127.") or each == "::1" for each in address["addresses"]
    ):
        text = (
            f"{address['name']} stands for {', '.join(address['addresses'])}, where no other host"
            " reaches it"
        )
        return [Finding("names", WARNING, text, NAME_HOST)]
    return [Finding("names", GOOD, "the host's own name can be resolved")]


SECTION = Section("world", look, judge)

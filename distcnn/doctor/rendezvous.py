"""What the processes of one host tell each other before MPI is up, for with a wrong launcher it
never will be.

The first of them to come listens on a socket in a folder that only this user can enter, hears the
others and sends each what all have said. So none need go into MPI, and wait there for ever, where
another one cannot.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

from distcnn.doctor.check import Everyone, Facts
from distcnn.doctor.finding import WARNING, Finding, count, runs
from distcnn.fault_tolerance.host_election import claim, private_folder
from distcnn.system import launcher

QUIET_SECONDS = 4.0
"""The listener stops listening when nobody has come for so long."""
ANSWER_SECONDS = 8.0


def told_by_host(rank: int, mine: Facts) -> dict[int, Facts]:
    """What the processes that this launcher started on this host say, by rank: at least
    ``mine``.
    """
    alone = {rank: mine}
    expected, folder = processes_here(), private_folder()
    if folder is None or expected == 1:
        return alone
    meeting = f"doctor-{launcher.launch_name()}"
    path = folder / f"{meeting}.socket"
    if not claim(meeting):
        return _ask(path, rank, mine) or alone
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(str(path))
            listener.listen(1024)
        except OSError:
            return alone
        try:
            return _listen(listener, alone, expected)
        finally:
            path.unlink(missing_ok=True)


def processes_here() -> int | None:
    """How many processes the launcher started on this host, itself or at most; None where it does
    not say.
    """
    return (
        told_number()
        or max((each.world_size or 0 for each in launcher.declared(os.environ)), default=0)
        or None
    )


def told_number() -> int:
    """How many processes the launcher says it started on this host; 0 where it does not."""
    place = launcher.declared_place(os.environ)
    return (place.local_size or 0) if place else 0


def missing_processes(here: Everyone, several: bool) -> list[Finding]:
    """One, when not all came that the launcher says it started on this host."""
    expected = told_number()
    if not several or len(here) >= expected:
        return []
    text = (
        f"of {expected} processes on this host only {count(len(here), 'rank')} could be heard:"
        f" {runs(here)}"
    )
    return [
        Finding(
            "ranks",
            WARNING,
            text,
            "those that are missing are slow to start, stopped or dead: standard error may tell",
        )
    ]


def _listen(
    listener: socket.socket, told: dict[int, Facts], expected: int | None
) -> dict[int, Facts]:
    """Hear the others, then answer all of them."""
    told, others = dict(told), []
    while expected is None or len(told) < expected:
        listener.settimeout(QUIET_SECONDS)
        try:
            other, _ = listener.accept()
            other.settimeout(QUIET_SECONDS)
            said = json.loads(_all_of(other))
            told[int(said["rank"])] = said["facts"]
        except TimeoutError:
            break
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it left, or is none of ours
        others.append(other)
    answer = json.dumps(sorted(told.items())).encode()
    for other in others:
        try:
            with other:
                other.sendall(answer)
        except OSError:
            continue
    return dict(sorted(told.items()))


def _ask(path: Path, rank: int, mine: Facts) -> dict[int, Facts] | None:
    """Tell the listener; what all have told. None when it does not answer."""
    end = time.monotonic() + QUIET_SECONDS
    while True:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker:
                asker.settimeout(ANSWER_SECONDS)
                asker.connect(str(path))
                asker.sendall(json.dumps({"rank": rank, "facts": mine}).encode())
                asker.shutdown(socket.SHUT_WR)
                return {int(other): facts for other, facts in json.loads(_all_of(asker))}
        except (FileNotFoundError, ConnectionRefusedError):  # it does not listen yet
            if time.monotonic() > end:
                return None
            time.sleep(0.01)
        except (OSError, ValueError, TypeError):
            return None


def _all_of(stream: socket.socket) -> bytes:
    return b"".join(iter(lambda: stream.recv(1 << 16), b""))

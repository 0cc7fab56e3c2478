"""Several hosts on one machine: namespaces, each with its own name, address, network, shared memory
and /tmp. They end with the block.

A sleeping process holds each host's namespaces; a process that enters them runs on that host.
``network.py`` connects the hosts.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster import network
from tests.conftest import ROOT, Launcher, as_flags

SECONDS_AT_ONCE = 5e-4
HOST = """
set -e
name=$1 folder=$2; shift 2
opened=()
for shared; do exec {descriptor}<"$shared"; opened+=("$descriptor"); done
hostname "$name"
# TCP as Linux is without settings, or near it, whatever this machine's are; and what it learnt of a
# network ends with a connection.
for setting in congestion_control=reno no_metrics_save=1; do
    echo "${setting#*=}" >"/proc/sys/net/ipv4/tcp_${setting%%=*}" || true
done
mount -t tmpfs tmpfs /dev/shm
mount --bind "$folder/hosts" /etc/hosts
mkdir -p "$folder/cgroup-$name"
mount --rbind /sys/fs/cgroup "$folder/cgroup-$name"
mount -t sysfs sysfs /sys    # its network devices are this host's
mount --rbind "$folder/cgroup-$name" /sys/fs/cgroup
mount -t tmpfs tmpfs /tmp
for shared; do
    mkdir -p "$shared"
    mount --no-canonicalize --bind "/proc/$$/fd/${opened[0]}" "$shared"
    opened=("${opened[@]:1}")
done
cd /
echo ready
exec sleep infinity
"""
REMOTE_SHELL = """#!/bin/bash
# In the place of ssh: [options] host command...
while [[ $1 == -* ]]; do case $1 in -l | -p | -o | -F | -i) shift 2 ;; *) shift ;; esac; done
host=$1
shift
exec nsenter -t "$(cat "$(dirname "$0")/$host.pid")" -n -u -i -m --wdns="$PWD" -- bash -c "$*"
"""


@dataclass
class Hosts:
    """``names`` are h1, h2 and so on; ``folder`` (on all of them) has ``ssh``, a program that runs
    a command on one.
    """

    folder: Path
    holders: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    carrier: subprocess.Popen[str] | None = None

    @property
    def names(self) -> list[str]:
        return list(self.holders)

    def enter(self, name: str) -> list[str]:
        """The words that run a command on the host when they precede it."""
        return [
            "nsenter",
            "-t",
            str(self.holders[name].pid),
            "-n",
            "-u",
            "-i",
            "-m",
            f"--wdns={ROOT}",
            "--",
        ]

    def processes(self, name: str) -> list[int]:
        """All processes on the host except the one that holds it."""
        holder = self.holders[name].pid
        own = os.readlink(f"/proc/{holder}/ns/net")  # noqa: PTH115  (no path at all)
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != holder:
                with suppress(OSError):
                    if os.readlink(folder / "ns/net") == own:  # noqa: PTH115
                        found.append(int(folder.name))
        return found

    def crash(self, name: str) -> None:
        """Kill every process on the host."""
        while found := self.processes(name):
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def set_network(
        self, delay_seconds: float = 0.0, bits_per_second: float = 0.0, cut: Sequence[str] = ()
    ) -> None:
        """Set how long a packet travels, the rate of each host's link (needs iproute2; 0 leaves it
        as it is), and the hosts that are cut off.
        """
        settings = {
            "delay_seconds": delay_seconds,
            "cut": [self.names.index(name) + 1 for name in cut],
        }
        (self.folder / "network.new").write_text(json.dumps(settings))
        (self.folder / "network.new").rename(self.folder / "network")
        if self.carrier is not None:
            self.carrier.send_signal(signal.SIGHUP)
            if bits_per_second:
                self._limit(bits_per_second)

    def _limit(self, bits_per_second: float) -> None:
        """A token bucket on each host's link. A burst lasts at most half a millisecond, and is at
        most one segment.
        """
        segment = int(min(65536, max(9000, bits_per_second * SECONDS_AT_ONCE / 8)))
        bucket = [
            "tbf",
            "rate",
            f"{bits_per_second:.0f}bit",
            "burst",
            str(segment + 1500),
            "limit",
            "10mb",
        ]
        for name in self.names:
            subprocess.run(
                [*self.enter(name), "ip", "link", "set", "eth0", "gso_max_size", str(segment)],
                check=True,
            )
            subprocess.run(
                [*self.enter(name), "tc", "qdisc", "replace", "dev", "eth0", "root", *bucket],
                check=True,
            )

    def launcher(self, mpi: Launcher, *names: str, ranks_a_host: int = 1) -> Launcher:
        """The mpirun of ``mpi``, as typed on the first of these hosts (by default all), for ranks
        on all of them.
        """
        names = names or tuple(self.names)
        ssh = str(self.folder / "ssh")
        if mpi.name == "openmpi":
            places = ",".join(f"{name}:{ranks_a_host}" for name in names)
            flags = [
                *as_flags(prtemca="plm_ssh_agent"),
                ssh,
                *as_flags(host=places, map_by=f"ppr:{ranks_a_host}:node:oversubscribe"),
            ]
        else:
            flags = [
                "-launcher",
                "ssh",
                "-launcher-exec",
                ssh,
                "-hosts",
                ",".join(names),
                "-ppn",
                str(ranks_a_host),
            ]
        script = self.folder / f"mpirun-{mpi.name}-{'-'.join(names)}-{ranks_a_host}"
        words = [*self.enter(names[0]), str(mpi.mpirun), *flags]
        script.write_text(f'#!/bin/bash\nexec {shlex.join(words)} "$@"\n')
        script.chmod(0o755)
        return Launcher(mpi.name, mpi.python, str(script))


@contextmanager
def hosts(count: int, folder: Path, delay_seconds: float = 0.0) -> Iterator[Hosts]:
    """Connected hosts, as many as ``count``. They share the parent of ``folder``, which is new, and
    the project's folder.

    Skips, with the reason, where namespaces cannot be made.
    """
    why = reason_for_none()
    if why:
        pytest.skip(f"no hosts of our own: {why}")
    folder.mkdir()
    cluster = Hosts(folder)
    names = [f"h{number}" for number in range(1, count + 1)]
    addresses = [f"{network.ADDRESS.format(number)} {name}" for number, name in enumerate(names, 1)]
    (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *addresses]) + "\n")
    (folder / "ssh").write_text(REMOTE_SHELL)
    (folder / "ssh").chmod(0o755)
    shared = [
        path
        for path in dict.fromkeys([str(ROOT), str(folder.parent), sys.prefix])
        if path.startswith("/tmp/")
    ]
    with ExitStack() as held:
        for name in names:
            holder = held.enter_context(
                _started(
                    "unshare",
                    "-n",
                    "-u",
                    "-i",
                    "-m",
                    "bash",
                    "-c",
                    HOST,
                    name,
                    name,
                    str(folder),
                    *shared,
                )
            )
            cluster.holders[name] = holder
            held.callback(cluster.crash, name)
            (folder / f"{name}.pid").write_text(str(holder.pid))
        cluster.set_network(delay_seconds)
        pids = [str(holder.pid) for holder in cluster.holders.values()]
        cluster.carrier = held.enter_context(
            _started(sys.executable, network.__file__, str(folder), *pids)
        )
        yield cluster


@contextmanager
def _started(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has reported that it is ready. It is killed at the end, and also when this
    process dies.
    """
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n", f"{command[0]} did not start"
        yield process
    finally:
        process.kill()
        process.communicate()


def reason_for_none() -> str | None:
    """Why hosts cannot be made here; None if they can."""
    missing = [
        name
        for name in ("unshare", "nsenter", "setpriv", "mount", "hostname")
        if shutil.which(name) is None
    ]
    if sys.platform != "linux" or missing:
        return f"Linux with {', '.join(missing) or 'namespaces'} is needed"
    if os.geteuid() != 0:
        return "only root may make namespaces with a network"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    done = subprocess.run(
        ["unshare", "-n", "-u", "-i", "-m", "true"], check=False, capture_output=True, text=True
    )
    return done.stderr.strip() or "unshare failed" if done.returncode else None

"""A real Slurm on our own hosts: munge, slurmctld and a slurmd on each, started by hand and ended
with the block.

It does not touch a Slurm that the machine may have: configuration, keys, sockets and state are in
the test's folder, and all daemons run in its namespaces.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import network
from tests.cluster.hosts import Hosts, hosts, reason_for_none
from tests.conftest import ROOT, clean_environment

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
CPUS_A_NODE = 2
GRACE_SECONDS = 20
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={control}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
TmpFS={folder}/tmp.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdTimeout=10
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
{nodes}
PartitionName=main Nodes={nodes_of_all} Default=YES MaxTime=120 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=high Nodes={nodes_of_all} MaxTime=120 State=UP PriorityTier=10 PreemptMode=OFF
"""  # noqa: E501
# The plugin for PMIx opens libpmix.so, a name that Debian keeps in its development package: a link
# beside the library, on this host alone.
WITH_PMIX = """
plugin=$1 links=$2; shift 2
if [ -d "$plugin" ] && [ ! -e "$plugin/libpmix.so" ]; then
    mkdir -p "$links"
    cp -a "$plugin/." "$links/"
    ln -s libpmix.so.2 "$links/libpmix.so"
    mount --bind "$links" "$plugin"
fi
exec "$@"
"""


@dataclass
class Slurm:
    """All hosts but the last are nodes. The last runs slurmctld and the commands, so that any node
    may crash.
    """

    hosts: Hosts
    folder: Path
    held: ExitStack

    def start_node(self, name: str) -> None:
        """Run a slurmd on the host until the cluster ends."""
        plugin = f"/usr/lib/{os.uname().machine}-linux-gnu/pmix2/lib"
        links = str(self.folder / f"pmix.{name}")
        self.held.enter_context(
            daemon(
                self, name, "bash", "-c", WITH_PMIX, name, plugin, links, "slurmd", "-D", "-N", name
            )
        )

    @property
    def control(self) -> str:
        return self.hosts.names[-1]

    @property
    def nodes(self) -> list[str]:
        return self.hosts.names[:-1]

    @property
    def environment(self) -> dict[str, str]:
        return clean_environment() | {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "MPIR_CVAR_CH4_NETMOD": "ofi",  # docs/cluster.md: with UCX, MPI_Init sometimes fails
        }

    def run(
        self, *command: str, timeout: float = 60, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command where slurmctld runs."""
        words = [*self.hosts.enter(self.control), *command]
        return subprocess.run(
            words,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment | environment,
            cwd=ROOT,
        )

    def ask(self, *command: str) -> str:
        """The output of a command, which must succeed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, *flags: str, **environment: str) -> int:
        """``sbatch flags``; the job's number."""
        done = self.run("sbatch", "--parsable", *flags, **environment)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def state(self, job: int) -> str:
        """The job's state as Slurm names it, such as RUNNING or COMPLETED."""
        return self.job(job).get("JobState", "GONE")

    def job(self, job: int) -> Mapping[str, str]:
        """Everything that Slurm reports about a job."""
        return dict(
            re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", str(job)).stdout)
        )

    def idle_nodes(self) -> int:
        """The number of idle nodes."""
        return int(
            self.run("sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D").stdout.strip() or 0
        )

    def ranks(self, job: int) -> dict[int, int]:
        """The process of each rank of a training job."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):
                    environment = dict(
                        pair.partition("=")[::2]
                        for pair in (folder / "environ").read_text(errors="replace").split("\0")
                    )
                    words = (folder / "cmdline").read_text(errors="replace").split("\0")
                    rank = next(
                        (environment[name] for name in RANK_VARIABLES if name in environment), None
                    )
                    if (
                        environment.get("SLURM_JOB_ID") == str(job)
                        and rank is not None
                        and words[1:3] == ["-m", "distcnn.train"]
                    ):
                        found[int(rank)] = int(folder.name)
        return found

    def wait_for(
        self, holds: Callable[[], bool], what: str, seconds: float, tell: Callable[[], str]
    ) -> None:
        """Wait until ``holds``; fails with the queue and the text of ``tell``."""
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                raise AssertionError(
                    f"{what} did not come in {seconds} s:\n{self.run('squeue').stdout}\n{tell()}"
                )
            time.sleep(0.2)

    def wait_for_end(
        self, job: int, output: Path, seconds: float = 120, again: Sequence[str] = ()
    ) -> str:
        """Wait until the job has ended; return its state.

        If it is requeued, it is released at once, with ``again`` changed.
        """
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "GONE")

        def ended() -> bool:
            facts = self.job(job)
            if facts.get("JobState") == "PENDING" and facts.get("Reason") == "BeginTime":
                self.run("scontrol", "update", f"JobId={job}", "StartTime=now", *again)
            return facts.get("JobState", "GONE") in over

        self.wait_for(ended, f"the end of job {job}", seconds, lambda: read(output))
        return self.state(job)


@contextmanager
def slurm(nodes: int, folder: Path) -> Iterator[Slurm]:
    """A cluster of ``nodes`` nodes and one host that controls them; ``folder`` as for ``hosts``.

    Skips, with the reason, where Slurm cannot run.
    """
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing or reason_for_none():
        pytest.skip(
            "no Slurm of our own:"
            f" {', '.join(missing) + ' missing (Debian: slurm-wlm munge)' if missing else reason_for_none()}"  # noqa: E501
        )
    with ExitStack() as held:
        cluster = Slurm(held.enter_context(hosts(nodes + 1, folder)), folder / "slurm", held)
        for name in ("state", "log"):
            (cluster.folder / name).mkdir(parents=True)
        lines = []
        for number, name in enumerate(cluster.nodes, 1):
            address = network.ADDRESS.format(number)
            (cluster.folder / f"spool.{name}").mkdir()
            (cluster.folder / f"tmp.{name}").mkdir()
            lines.append(f"NodeName={name} NodeAddr={address} CPUs={CPUS_A_NODE} RealMemory=2000")
        text = CONFIGURATION.format(
            control=cluster.control,
            address=network.ADDRESS.format(nodes + 1),
            folder=cluster.folder,
            nodes="\n".join(lines),
            nodes_of_all=",".join(cluster.nodes),
            grace=GRACE_SECONDS,
        )
        (cluster.folder / "slurm.conf").write_text(text)
        key = cluster.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        munge = [
            f"--{name}={cluster.folder}/munge.{name[:4]}"
            for name in ("pid-file", "log-file", "seed-file")
        ]
        munge += [f"--key-file={key}", f"--socket={cluster.folder}/munge.sock"]
        held.enter_context(
            daemon(cluster, cluster.control, "munged", "--foreground", "--force", *munge)
        )
        cluster.wait_for(
            (cluster.folder / "munge.sock").exists, "munge's socket", 10, lambda: logs(cluster)
        )
        held.enter_context(daemon(cluster, cluster.control, "slurmctld", "-D"))
        for name in cluster.nodes:
            cluster.start_node(name)
        cluster.wait_for(
            lambda: cluster.idle_nodes() == nodes, f"{nodes} idle nodes", 30, lambda: logs(cluster)
        )
        yield cluster


@contextmanager
def daemon(cluster: Slurm, host: str, *command: str) -> Iterator[None]:
    """Run a daemon on the host during the block, with its output in a log."""
    words = ["setpriv", "--pdeathsig", "KILL", *cluster.hosts.enter(host), *command]
    with (cluster.folder / "log" / f"{host}-{len(list((cluster.folder / 'log').iterdir()))}").open(
        "wb"
    ) as log:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=cluster.environment,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def logs(cluster: Slurm) -> str:
    """The last lines of all daemons' logs."""
    return "\n".join(
        f"{path.name}: {path.read_text(errors='replace')[-2000:]}"
        for path in sorted((cluster.folder / "log").iterdir())
    )


def read(path: Path) -> str:
    """The content of the file so far; empty if it does not exist."""
    return path.read_text(errors="replace") if path.exists() else ""

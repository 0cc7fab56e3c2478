"""``launch/slurm.sbatch`` on a real Slurm of two nodes: it trains, and continues after preemption
or the loss of a rank or a node.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.cluster.slurm import Slurm, read, slurm
from tests.conftest import ROOT, Launcher, MakeImageSet, as_flags
from tests.support.running import STAGED, reference_hash

# Now and then MPICH crashes inside a call before a job has taken its first steps. A test that fails
# is run again, at most three times; pytest counts the reruns.
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.xdist_group("hosts"),
    pytest.mark.flaky(reruns=3, reruns_delay=5, only_rerun="."),
]
SCRIPT = str(ROOT / "launch" / "slurm.sbatch")
PACE = "0.15"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(2, tmp_path_factory.getbasetemp() / "slurm-hosts") as made:
        yield made


@pytest.fixture(autouse=True)
def free_nodes(cluster: Slurm) -> Iterator[None]:
    """End the test's jobs, however it ended: the next one needs all nodes."""
    yield

    def is_empty() -> bool:
        cluster.run("scancel", "--user=root")  # again, if the job's script has it requeued
        return not cluster.run("squeue", "-h").stdout

    cluster.wait_for(is_empty, "an empty queue", 60, str)


class Job:
    """A run of ``STAGED`` under the script."""

    def __init__(
        self,
        cluster: Slurm,
        mpi: Launcher,
        launcher: str,
        data: Path,
        folder: Path,
        *flags: str,
        **environment: str,
    ) -> None:
        self.cluster, self.output, self.run = cluster, folder / "job.out", folder / "run"
        variables = {
            "DISTCNN_HOME": str(ROOT),
            "DISTCNN_SETUP": str(Path(mpi.python).parent / "activate"),
            "DISTCNN_LAUNCHER": launcher,
            "DISTCNN_RUN": str(self.run),
            "STAGED_PACE": PACE,
            **environment,
        }
        arguments = [*STAGED[2:], "--data", str(data), "--checkpoint-every", "1"]
        self.number = cluster.submit(
            f"--output={self.output}", *flags, SCRIPT, *arguments, **variables
        )

    @property
    def text(self) -> str:
        """Its output so far, over all starts."""
        return read(self.output)

    def wait_for_text(self, text: str, seconds: float = 60) -> None:
        self.cluster.wait_for(lambda: text in self.text, repr(text), seconds, lambda: self.text)

    def end(self, seconds: float = 120, again: Sequence[str] = ()) -> str:
        return self.cluster.wait_for_end(self.number, self.output, seconds, again)


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_it_trains_on_four_ranks(
    launcher: str, any_mpi: Launcher, cluster: Slurm, image_set: MakeImageSet, tmp_path: Path
) -> None:
    job = Job(cluster, any_mpi, launcher, image_set(), tmp_path, STAGED_PACE="0")
    assert job.end() == "COMPLETED", job.text
    assert "ranks    4 on 2 hosts (h1: 0-1; h2: 2-3)" in job.text
    assert f"weights {reference_hash(image_set())}" in job.text


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_preempted_it_saves_and_continues_later(
    launcher: str, any_mpi: Launcher, cluster: Slurm, image_set: MakeImageSet, tmp_path: Path
) -> None:
    job = Job(cluster, any_mpi, launcher, image_set(), tmp_path)
    job.wait_for_text("step 4/14")
    other = cluster.submit(
        f"--output={tmp_path}/other.out",
        "--partition=high",
        "--nodes=2",
        "--ntasks-per-node=2",
        "--wrap=sleep 1",
    )
    assert cluster.wait_for_end(other, tmp_path / "other.out") == "COMPLETED"
    assert job.end() == "COMPLETED", job.text
    assert "step 14/14" in job.text.partition("resuming ")[2]
    if (any_mpi.name, launcher) != (
        "openmpi",
        "mpirun",
    ):  # that one kills its ranks at once; its run goes on from a checkpoint
        assert "(code 85)" in job.text
    assert f"weights {reference_hash(image_set())}" in job.text


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_a_killed_rank_costs_a_restart(
    launcher: str, any_mpi: Launcher, cluster: Slurm, image_set: MakeImageSet, tmp_path: Path
) -> None:
    job = Job(cluster, any_mpi, launcher, image_set(), tmp_path)
    job.wait_for_text("step 4/14")
    os.kill(cluster.ranks(job.number)[2], signal.SIGKILL)
    assert job.end() == "COMPLETED", job.text
    assert "start number 2" in job.text, job.text
    assert f"weights {reference_hash(image_set())}" in job.text


@pytest.mark.parametrize("node", ["h1", "h2"])
def test_a_crashed_node_leaves_the_job_on_fewer_ranks(
    node: str, cluster: Slurm, mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    other = "h1" if node == "h2" else "h2"
    job = Job(cluster, mpirun, "srun", image_set(), tmp_path, "--nodes=1-2")
    job.wait_for_text("step 4/14")
    try:
        cluster.hosts.crash(node)
        # Slurm would have it wait for as many nodes as it had.
        assert job.end(180, again=["NumNodes=1", "NumTasks=2"]) == "COMPLETED", job.text
    finally:
        cluster.run("scancel", str(job.number))
        cluster.start_node(node)
        cluster.wait_for(
            lambda: cluster.idle_nodes() == 2, "the node's return", 60, lambda: job.text
        )
    assert f"on {other}, start number 2" in job.text
    assert "ranks    2 (MPICH" in job.text
    assert f"weights {reference_hash(image_set())}" in job.text


def test_no_plugin_and_a_wrong_one_are_reported(
    cluster: Slurm, mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    for plugin, words in (
        ("pmi7", "srun has no MPI plugin 'pmi7' for this mpich library: set DISTCNN_MPI to"),
        (
            "none",
            "the launcher started 4 processes (SLURM_STEP_NUM_TASKS, rank 0), but MPI sees 1 rank",
        ),
    ):
        folder = tmp_path / plugin
        folder.mkdir()
        job = Job(cluster, mpirun, "srun", image_set(), folder, DISTCNN_MPI=plugin)
        assert job.end() == "FAILED", job.text
        assert job.text.count(words) == 1, job.text
        assert "start number 2" not in job.text
        assert not job.run.exists()


def test_restarts_end_at_their_limit(
    cluster: Slurm, mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    job = Job(cluster, mpirun, "srun", image_set(), tmp_path, DISTCNN_MAX_RESTARTS="0")
    job.wait_for_text("step 4/14")
    cluster.ask("scancel", "--signal=USR1", str(job.number))
    assert job.end() == "FAILED", job.text
    assert "DISTCNN_MAX_RESTARTS" in job.text
    assert f"to resume: DISTCNN_RUN={job.run} sbatch" in job.text
    more = Job(cluster, mpirun, "mpirun", image_set(), tmp_path)
    assert more.end() == "COMPLETED", more.text
    assert f"weights {reference_hash(image_set())}" in more.text


def test_a_scaling_sweep_is_one_job(
    cluster: Slurm, mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    variables = {"DISTCNN_HOME": str(ROOT), "DISTCNN_SWEEP": str(tmp_path / "sweep")}
    variables["DISTCNN_SETUP"] = str(Path(mpirun.python).parent / "activate")
    flags = as_flags(ranks="2,4", repeats=1, steps=3, model="tutorial", data=image_set(train=640))
    output = tmp_path / "job.out"
    job = cluster.submit(
        f"--output={output}", str(ROOT / "launch" / "scaling.sbatch"), *flags, **variables
    )
    assert cluster.wait_for_end(job, output) == "COMPLETED", read(output)
    assert "2/2] " in read(output)
    rows = json.loads((tmp_path / "sweep" / "scaling.json").read_text())["rows"]
    assert [row["bits"] for row in rows] == ["same", "same"]

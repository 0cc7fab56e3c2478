"""``launch/hosts.sh`` with a substitute for ssh, and ``launch/pbs.sh`` as PBS would run it, on our
own hosts.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Hosts, hosts
from tests.conftest import ROOT, Launcher, MakeImageSet, clean_environment
from tests.support.running import STAGED, reference_hash, running

pytestmark = pytest.mark.xdist_group("hosts")

# Keeps what it was asked, and says what qsub says.
QSUB = """#!/bin/bash
printf '%s\\n' "$@" >"$(dirname "$0")/asked"
echo 8.server
"""
QSTAT = """#!/bin/bash
printf '%s\\n' 'Job Id: 7.server' '    Resource_List.select = 2:ncpus=2:' $'\\tmpiprocs=2' '    Resource_List.walltime = 00:30:00'
"""  # noqa: E501


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts(2, tmp_path_factory.getbasetemp() / "two-hosts") as made:
        yield made


def variables(mpi: Launcher, cluster: Hosts, run: Path) -> dict[str, str]:
    return {
        "DISTCNN_HOME": str(ROOT),
        "DISTCNN_SETUP": str(Path(mpi.python).parent / "activate"),
        "DISTCNN_SSH": str(cluster.folder / "ssh"),
        "DISTCNN_RUN": str(run),
        "DISTCNN_BIND": "none",
    }


def on_first(cluster: Hosts, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [*cluster.enter("h1"), *command]
    return subprocess.run(
        words,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env=clean_environment() | environment,
    )


def test_hosts_sh_trains_on_the_hosts_of_a_file(
    any_mpi: Launcher, two: Hosts, image_set: MakeImageSet, tmp_path: Path
) -> None:
    (tmp_path / "hosts").write_text("# our hosts\nh1 1\n\nh2 2  # the larger one\n")
    flags = [*STAGED[2:], "--data", str(image_set())]
    script = str(ROOT / "launch" / "hosts.sh")
    done = on_first(
        two, script, str(tmp_path / "hosts"), *flags, **variables(any_mpi, two, tmp_path / "run")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ranks    3 on 2 hosts (h1: 0; h2: 1-2)" in done.stdout
    assert f"weights {reference_hash(image_set())}" in done.stdout
    again = on_first(
        two, script, str(tmp_path / "hosts"), "-n", "2", **variables(any_mpi, two, tmp_path / "run")
    )
    assert again.returncode == 0, again.stderr
    assert "is finished" in again.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "no hosts given"), ("h1 two\n", "'h1 two': each line is"), (None, "no such host file")],
)
def test_a_wrong_host_file_is_reported(
    text: str | None, words: str, mpirun: Launcher, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "hosts").write_text(text)
    environment = clean_environment() | {
        "DISTCNN_SETUP": str(Path(mpirun.python).parent / "activate")
    }
    command = [str(ROOT / "launch" / "hosts.sh"), str(tmp_path / "hosts")]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 2
    assert words in done.stderr


def test_pbs_sh_trains_and_after_a_signal_submits_itself_again(
    any_mpi: Launcher, two: Hosts, image_set: MakeImageSet, tmp_path: Path
) -> None:
    for name, text in (("qsub", QSUB), ("qstat", QSTAT)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "nodes").write_text("h1\nh2\nh1\nh2\n")
    setup = tmp_path / "setup.sh"
    setup.write_text(f". {Path(any_mpi.python).parent / 'activate'}\nPATH={tmp_path}:$PATH\n")
    job = {
        **variables(any_mpi, two, tmp_path / "run"),
        "DISTCNN_SETUP": str(setup),
        "DISTCNN_FLAGS": " ".join([*STAGED[2:], "--data", str(image_set())]),
        "PBS_JOBID": "7.server",
        "PBS_O_WORKDIR": str(ROOT),
        "PBS_NODEFILE": str(tmp_path / "nodes"),
        "STAGED_PACE": "0.1",
    }
    bash = Launcher("bash", "bash", None)
    script = str(ROOT / "launch" / "pbs.sh")
    with running(bash, 1, script, prefix=two.enter("h1"), **job) as run:
        run.wait_for_text("step 4/14")
        for pid, environment in run.processes().items():
            if environment.get("PMI_RANK", environment.get("OMPI_COMM_WORLD_RANK")) == "2":
                os.kill(pid, signal.SIGUSR1)
        ended = run.end(60)
    assert ended.code == 85, ended.stderr
    assert "submitted again as 8.server" in ended.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[:4] == ["-l", "select=2:ncpus=2:mpiprocs=2", "-l", "walltime=00:30:00"]
    given = dict(pair.split("=", 1) for pair in asked[5].split(","))
    assert (given["DISTCNN_RUN"], given["DISTCNN_RESTARTS"]) == (str(tmp_path / "run"), "1")
    done = on_first(two, "bash", script, **job | given)
    assert done.returncode == 0, done.stderr
    assert f"resuming {tmp_path / 'run'}" in done.stderr
    assert "ranks    4 on 2 hosts (h1: 0-1; h2: 2-3)" in done.stdout
    assert f"weights {reference_hash(image_set())}" in done.stdout

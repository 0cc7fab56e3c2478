"""Spot checks find the rank that computes wrongly, in the expected step, and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from distcnn.training.spot_check import Check, SpotCheckSchedule
from tests.conftest import ROOT, SERIAL, Launcher, MakeImageSet, as_flags, launcher_of, slow
from tests.support.training_fixtures import EXIT_STOPPED, store_of, train

EXIT_INPUT, EXIT_TRAINING, EXIT_STALLED = 2, 3, 4
SEED, SHARDS, EPOCH_STEPS = 5, 8, 7
NETWORK = "tests.support.faulty:network"
SMALL = as_flags(num_shards=SHARDS, microbatch_size=4, seed=SEED, eval_every_epochs=0)
"""With the default image set, EPOCH_STEPS steps an epoch."""
PER_RANK = """
import os, socket
rank = os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or "0"
if hosts := os.environ.get("TEST_HOSTS"):
    socket.gethostname = lambda: hosts[int(rank)]
if rank == os.environ.get("TEST_OTHER_RANK"):
    os.environ["OPENBLAS_CORETYPE"] = "Prescott"
"""


@dataclass(frozen=True)
class Cluster:
    """Ranks on hosts whose names are single letters."""

    launcher: Launcher
    data: Path
    run: Path
    path: str

    def train(self, hosts: str, *flags: str, **environment: str) -> tuple[int, str]:
        """Exit code, and what was printed."""
        words = ["--data", str(self.data), "--output", str(self.run), *SMALL, *flags]
        done = train(
            *(self.launcher, len(hosts), *words),
            **{"TEST_HOSTS": hosts, "PYTHONPATH": self.path, **environment},
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    def fails(self, hosts: str, *flags: str, **environment: str) -> str:
        """Train until a spot check fails; the message."""
        flags = ("--model", NETWORK, "--epochs", "60", "--checkpoint-every", "2", *flags)
        code, printed = self.train(hosts, *flags, **environment)
        assert code == EXIT_TRAINING, printed
        assert not (self.run / "result.json").exists()
        return printed.partition("error: ")[2]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PYTHONPATH with which TEST_HOSTS names the ranks' hosts."""
    (tmp_path / "sitecustomize.py").write_text(PER_RANK)
    return f"{tmp_path}:{ROOT}"


@pytest.fixture
def cluster(mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path, path: str) -> Cluster:
    return Cluster(mpirun, image_set(), tmp_path / "run", path)


def first_check(hosts: str, fraction: float, rank: int, from_step: int = 0) -> tuple[int, Check]:
    """The first step with a check in which ``rank`` takes part, and the first such check."""
    schedule = SpotCheckSchedule(SEED, fraction, SHARDS, hosts)
    for step in range(from_step, from_step + 1000):
        if found := [check for check in schedule.checks(step) if rank in check[1:]]:
            return step, min(found)
    raise AssertionError("no check in 1000 steps")


@pytest.mark.parametrize(
    ("fault", "what", "flags"),
    [
        ("forward", "output of early1 (forward)", ""),
        ("backward", "input gradient of early1 (backward)", "--overlap on"),
        ("gradient", "gradient of scale1.factor (backward)", "--overlap on"),
        ("later", "gradient of scale1.factor (backward)", "--reduction fast"),
    ],
)
def test_a_flipped_bit_is_found_where_and_when_it_was(
    fault: str,
    what: str,
    flags: str,
    any_mpi: Launcher,
    image_set: MakeImageSet,
    tmp_path: Path,
    path: str,
) -> None:
    cluster = Cluster(any_mpi, image_set(), tmp_path / "run", path)
    where = {"FAULT": fault, "FAULT_RANKS": "2", "FAULT_STEP": "5"}
    text = cluster.fails("abc", "--spot-check", "1", *flags.split(), **where)
    step, check = first_check("abc", 1, 2, from_step=5)
    other = check.owner if check.checker == 2 else check.checker
    names = [f"rank {rank} (host {'abc'[rank]})" for rank in (2, other, 1 - other)]
    assert text.startswith(
        f"spot check: step {step}, shard {check.shard}: the {what} that {names[0]} computed is not"
        f" the one that {names[1]} and {names[2]} compute: rank 2's "
    )
    assert "the latest checkpoint is of step 4\n" in text
    resume = f"mpirun -n 2 python -m distcnn.train --resume {cluster.run} --model {NETWORK}"
    assert f"exclude host c, and continue with: {resume}" in text.splitlines()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_always_wrong_is_found_in_the_expected_step(
    rank: int, cluster: Cluster, mpirun: Launcher
) -> None:
    """Two ranks cannot tell which of them it is. On a good host the run comes to the right bits."""
    text = cluster.fails("ab", "--spot-check", "0.05", FAULT="forward", FAULT_RANKS=str(rank))
    step, check = first_check("ab", 0.05, rank)
    assert 0 < step <= 1 / 0.05
    assert text.startswith(
        f"spot check: step {step}, shard {check.shard}: rank {check.owner} "
        f"(host {'ab'[check.owner]}) and rank {check.checker} (host {'ab'[check.checker]}) compute"
        " different values of the output of early1 (forward): "
    )
    assert f"replay them elsewhere with: python -m distcnn.verify {cluster.run} --trust" in text
    assert "use other hosts than " in text


def test_verify_finds_the_checkpoints_that_are_still_right(
    cluster: Cluster, image_set: MakeImageSet, tmp_path: Path
) -> None:
    """The fault begins in step 6, and is found in step 9: the checkpoints of 7 and 8 are wrong."""
    assert first_check("ab", 0.05, 1, from_step=6)[0] == 9
    flags = as_flags(spot_check=0.05, check_every=2, log_every=1)
    where = {"FAULT": "forward", "FAULT_RANKS": "1", "FAULT_STEP": "6"}
    assert "the latest checkpoint is of step 8;" in cluster.fails("ab", *flags, **where)
    verified = SERIAL.run(1, "-m", "distcnn.verify", str(cluster.run), "--trust-model")
    assert verified.returncode == 1
    assert "(last recorded step that matches: step 6)" in verified.stdout
    for step in (7, 8):
        store_of(cluster.run).path_of(step).unlink()
    resumed = train(SERIAL, 1, "--resume", str(cluster.run), "--max-steps", "20")
    flags = as_flags(model=NETWORK, epochs=60, max_steps=20, data=cluster.data)
    plain = SERIAL.train(1, tmp_path / "plain", *SMALL, *flags)
    assert f"weights {plain['params_sha256']}\n" in resumed.stdout, resumed.stderr


def test_the_rank_that_repeats_may_be_the_one_at_fault(cluster: Cluster) -> None:
    where = {"FAULT": "repetition", "FAULT_RANKS": "1", "FAULT_STEP": "3"}
    text = cluster.fails("aab", "--spot-check", "1", **where)
    checks = SpotCheckSchedule(SEED, 1, SHARDS, "aab").checks(3)
    shard, owner, _ = min(check for check in checks if check.checker == 1)
    assert text.startswith(f"spot check: step 3, shard {shard}: ")
    assert f"that rank 1 (host a) computed is not the one that rank {owner} (host b)" in text
    assert text.splitlines()[-1].startswith("exclude host a, and continue with: python -m")


def test_where_all_ranks_are_wrong_nobody_is_blamed(cluster: Cluster) -> None:
    text = cluster.fails("aaa", "--spot-check", "1", FAULT="random", FAULT_RANKS="0,1,2")
    assert ": rank 0 (host a), rank 1 (host a) and rank 2 (host a) compute different values" in text
    assert "use other hosts than a, and continue with: mpirun -n 3 python" in text


def test_one_process_finds_faults_that_pass(
    image_set: MakeImageSet, tmp_path: Path, path: str
) -> None:
    alone = Cluster(SERIAL, image_set(), tmp_path / "run", path)
    where = {"FAULT": "forward", "FAULT_RANKS": "0", "FAULT_STEP": "4", "FAULTS": "1"}
    text = alone.fails("a", "--spot-check", "1", **where)
    assert text.startswith(
        "spot check: step 4, shard 0: rank 0 (host a) computed the output of early1 (forward)"
        " twice, with different results: "
    )


TWO, THREE, ONE, FOUR = ("aa", "on"), ("aab", "off"), ("a", "off"), ("abcd", "on")
"""The ranks' hosts, and whether sums overlap."""


@pytest.mark.parametrize(
    ("arithmetic", "worlds"),
    [
        ("native", [TWO, THREE]),
        ("portable", [ONE, FOUR]),
        *slow(("native", [ONE, FOUR]), ("portable", [TWO, THREE])),
    ],
)
def test_there_are_no_false_alarms_and_no_other_bits(
    arithmetic: str,
    worlds: list[tuple[str, str]],
    image_set: MakeImageSet,
    tmp_path: Path,
    path: str,
) -> None:
    """Over 200 steps; frozen layers, and windows of the data, too."""
    data = image_set(train=1597)
    flags = as_flags(model=NETWORK, epochs=4, arithmetic=arithmetic, freeze="conv1.bias")
    flags += as_flags(data_memory=4)
    plain = SERIAL.train(
        *(1, tmp_path / "plain", "--data", str(data), *SMALL, *flags), PYTHONPATH=path
    )
    assert "spot_checks" not in plain
    for hosts, overlap in worlds:
        run = tmp_path / hosts
        here = Cluster(launcher_of(len(hosts)), data, run, path)
        code, printed = here.train(hosts, *flags, "--spot-check", "1", "--overlap", overlap)
        assert code == 0, printed
        assert ("notice: in one process --spot-check" in printed) == (hosts == "a")
        assert "spot checks: 1,600 shards recomputed, all equal\n" in printed
        result = json.loads((run / "result.json").read_text())
        assert result["params_sha256"] == plain["params_sha256"]
        assert result["spot_checks"] == 200 * SHARDS
    done = SERIAL.run(1, "-m", "distcnn.verify", str(run), "--trust-model")
    assert "identical: steps 0 to 200 " in done.stdout, done.stdout


@pytest.mark.parametrize(("call", "steps"), [(10, 2), (15, 3)])
def test_a_signal_stops_the_run_as_without_them(
    call: int, steps: int, cluster: Cluster, stopping: str, mpirun: Launcher
) -> None:
    """In a step's own shards, or while others' are repeated: eight calls of forward each step."""
    flags = as_flags(model="stopping:network", max_steps=6)
    signal = {"STOP_SIGNAL": "SIGUSR1", "STOP_AT_CALL": str(call), "PYTHONPATH": stopping}
    code, printed = cluster.train("aa", *flags, "--spot-check", "1", **signal)
    assert code == EXIT_STOPPED, printed
    assert "checkpoint saved" in printed
    done = train(mpirun, 2, "--resume", str(cluster.run), "--spot-check", "0", PYTHONPATH=stopping)
    assert done.returncode == 0, done.stderr
    result = json.loads((cluster.run / "result.json").read_text())
    assert result["spot_checks"] == steps * SHARDS  # until the run stopped
    plain = SERIAL.train(
        *(1, cluster.run.parent / "plain", "--data", str(cluster.data), *SMALL, *flags),
        PYTHONPATH=stopping,
    )
    assert result["params_sha256"] == plain["params_sha256"]


@pytest.mark.parametrize("overlap", ["on", "off"])
def test_numbers_that_are_not_finite_are_reported_as_without_them(
    overlap: str, cluster: Cluster
) -> None:
    flags = ["--model", "tutorial", "--learning-rate", "1e30", "--warmup-steps", "0"]
    more = (["--spot-check", "1"], ["--spot-check", "0", "--output", f"{cluster.run}-2"])
    errors = []
    for each in more:
        code, printed = cluster.train("aab", *flags, "--overlap", overlap, *each)
        assert code == EXIT_TRAINING, printed
        errors.append(next(line for line in printed.splitlines() if "error: " in line))
    assert errors[0] == errors[1]
    assert "the training has diverged" in errors[0]


@pytest.mark.slow
def test_a_rank_that_hangs_meanwhile_is_named(cluster: Cluster) -> None:
    flags = as_flags(model=NETWORK, spot_check=1, stall_timeout=2)
    code, printed = cluster.train("aaa", *flags, FAULT="hang", FAULT_RANKS="1")
    assert code == EXIT_STALLED
    (late,) = (line for line in printed.splitlines() if line.startswith("late: "))
    assert late.startswith("late: rank 1 on host a ")
    assert "step 0, repeating shards for a spot check, for " in late


def test_ranks_that_round_differently_need_portable_arithmetic(cluster: Cluster) -> None:
    flags = ["--model", "lenet", "--max-steps", "3", "--spot-check", "1"]
    code, printed = cluster.train("ab", *flags, TEST_OTHER_RANK="1")
    assert code == EXIT_INPUT
    (line,) = printed.splitlines()
    assert "--spot-check: rank 1 on b has different software or a different processor" in line
    assert "--arithmetic portable" in line
    assert not cluster.run.exists()
    code, printed = cluster.train("ab", *flags, "--arithmetic", "portable", TEST_OTHER_RANK="1")
    assert code == 0, printed
    assert "spot checks: 24 shards recomputed, all equal\n" in printed

"""Predict the step on four hosts, then measure it there: UCX_RNDV_THRESH=inf python -m tests.measure_prediction [FOLDER [TURNS]], as root.

The prediction knows 1 and 2 ranks of this host (a sweep) and a network test between two hosts. Two hosts test each network twice: while
nobody else uses it, and while two other hosts do the same: one process carries all packets of this test bed, which no real network has.

All hosts share this machine's cores, so on the four hosts a rank does not compute: it sleeps, for as long as each piece of a shard took
on a rank that had the machine (almost) for itself, piece by piece, so that sums start when they would. The sums are real: gradients (not
computed, but as many numbers) added exactly, in the time that this takes included; buckets, threads, MPI, updates.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from distcnn.config import Config
from distcnn.parallel import open_communicator
from distcnn.parallel.threads import limit_blas_threads
from distcnn.projection.calibration import Calibration, Shard
from distcnn.projection.network import Network, fit_network
from distcnn.projection.outputs import calibrated
from distcnn.projection.step import Place, predict
from distcnn.sweep.plan import in_order
from distcnn.sweep.records import Records, read_settings
from distcnn.training.parts import replaced
from distcnn.training.setup import prepare_run
from tests.cluster.hosts import Hosts, hosts
from tests.conftest import SERIAL, Launcher, mpi_launcher

MODELS = ("lenet", "wide")
NETWORKS = {"0.2 ms, 10 Gbit/s": (2e-4, 1e10), "1 ms, 1 Gbit/s": (1e-3, 1e9), "5 ms, 100 Mbit/s": (5e-3, 1e8)}
SHARDS, MICROBATCH, HOSTS, STEPS, WARM_UP = 8, 32, 4, 10, 3
SECONDS_OF_TEST, TIMEOUT, ATTEMPTS = 20, 120, 3
QUIET, TRIES = 0.2, 40
"""Others' share of the cores with which a turn begins, and how many seconds it waits for that."""
MODULE = "tests.measure_prediction"


def main(folder: Path, turns: int) -> None:
    """Print a table; all that was measured goes to ``folder``."""
    mpi = mpi_launcher()
    found: dict[str, Calibration] = {model: calibrate(model, folder, mpi) for model in MODELS}
    for model, calibration in found.items():
        (folder / f"{model}.json").write_text(json.dumps(dataclasses.asdict(calibration.shards[1]) | {"update": calibration.update}))
    tests: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in NETWORKS}
    measured: dict[tuple[str, str], list[float]] = {(network, model): [] for network in NETWORKS for model in MODELS}
    with hosts(HOSTS, folder / "hosts") as cluster:
        for turn in range(turns):
            for name, (delay, rate) in NETWORKS.items():  # by turns, so that tests and steps meet the same machine
                cluster.set_network(delay, rate)
                busy = wait_for_quiet()
                tests[name].append(test_network(cluster, mpi, folder))
                for model in MODELS:
                    each = run(cluster.launcher(mpi), HOSTS, "-m", MODULE, "rank", model, str(folder / f"{model}.json"))
                    measured[name, model].append(median(json.loads(each)))
                print(
                    f"turn {turn + 1}, {name}: {[round(measured[name, model][-1] * 1e3, 1) for model in MODELS]} ms; "
                    f"before, others used {busy:.0%} of the cores",
                    flush=True,
                )
    (folder / "measured.json").write_text(json.dumps({"tests": tests, "measured": {str(key): each for key, each in measured.items()}}))
    fitted = {name: [fit_network(middle_of([turn[kind] for turn in of]), name) for kind in range(2)] for name, of in tests.items()}
    for name, (alone, together) in fitted.items():
        print(f"{name}\n    alone     {alone.describe()}\n    together  {together.describe()}")
    print(f"{'network':<18}{'model':<6}{'measured ms, each turn':>34}{'median':>9}{'predicted':>11}{'error':>8}{'(alone)':>10}{'error':>8}")
    for (name, model), seconds in measured.items():
        alone, together = (step_of(found[model], network) for network in fitted[name])
        middle, turns_ms = median(seconds), " ".join(f"{each * 1e3:.1f}" for each in seconds)
        print(
            f"{name:<18}{model:<6}{turns_ms:>34}{middle * 1e3:>9.1f}{together * 1e3:>11.1f}{together / middle - 1:>+8.1%}"
            f"{alone * 1e3:>10.1f}{alone / middle - 1:>+8.1%}"
        )


def step_of(calibration: Calibration, network: Network) -> float:
    """Predicted seconds of a step on the four hosts."""
    return predict(calibration, Place(HOSTS, 1, SHARDS), network).step_seconds


def calibrate(model: str, folder: Path, mpi: Launcher) -> Calibration:
    """A sweep over 1 and 2 ranks of this host."""
    flags = ["--ranks=1,2", f"--model={model}", f"--num-shards={SHARDS}", f"--microbatch-size={MICROBATCH}", "--steps=12"]
    launcher = f"--launcher={mpi.mpirun} -n {{ranks}}"
    path = folder / f"sweep-{model}"
    wait_for_quiet()
    print(run(SERIAL, 1, "-m", "distcnn.scaling", *flags, launcher, f"--output={path}"), flush=True)
    records = Records(path, read_settings(path))
    return calibrated(
        records.settings,
        [record for each in in_order(records.settings.points, records.settings.repeats) if (record := records.find(each))],
    )


def test_network(cluster: Hosts, mpi: Launcher, folder: Path) -> list[dict[str, Any]]:
    """Between two hosts alone, and the middle of two pairs of hosts at once."""
    pairs = [cluster.launcher(mpi, *cluster.names[:2]), cluster.launcher(mpi, *cluster.names[2:])]

    def of_pair(launcher: Launcher) -> dict[str, Any]:
        file = folder / f"{Path(str(launcher.mpirun)).name}.json"
        run(launcher, 2, "-m", "distcnn.network", "--json", str(file), "--seconds", str(SECONDS_OF_TEST))
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    alone = of_pair(pairs[0])
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(of_pair, pairs))
    return [alone, middle_of(both)]


def middle_of(tests: list[dict[str, Any]]) -> dict[str, Any]:
    """A network test with the median of each row that all of them have."""
    rows = {}
    for way in tests[0]["rows"]:
        of_each = [dict(test["rows"][way]) for test in tests]
        rows[way] = [[nbytes, median(of[nbytes] for of in of_each)] for nbytes in of_each[0] if all(nbytes in of for of in of_each)]
    return {**tests[0], "rows": rows}


def wait_for_quiet() -> float:
    """Wait until others use little of the cores, but not for ever; how much they used last."""
    busy = 1.0
    for _ in range(TRIES):
        before = cpu_seconds()
        time.sleep(1)
        idle, whole = (after - earlier for after, earlier in zip(cpu_seconds(), before, strict=True))
        busy = 1 - idle / whole
        if busy < QUIET:
            break
    return busy


def cpu_seconds() -> tuple[int, int]:
    """Idle, and all, in ticks."""
    ticks = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def run(launcher: Launcher, ranks: int, *arguments: str) -> str:
    """What it prints. A run that hangs is said, and tried again."""
    for _ in range(ATTEMPTS):
        try:
            done = launcher.run(ranks, *arguments, timeout=TIMEOUT)
        except subprocess.TimeoutExpired as late:
            print(f"not over after {TIMEOUT} s, tried again: {' '.join(late.cmd)}", flush=True)
            continue
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    raise TimeoutError(f"{ATTEMPTS} times not over after {TIMEOUT} s")


class Sleeper:
    """Takes the time of a rank's computing without a core: each piece ends when it would have, however long real work within took."""

    def __init__(self) -> None:
        self._end = 0.0

    def begin(self) -> None:
        self._end = time.perf_counter()

    def spend(self, seconds: float) -> None:
        self._end += seconds
        left = self._end - time.perf_counter()
        if left > 0:
            time.sleep(left)


def measure_rank(model: str, times: Path) -> None:
    """On a rank: steps whose computing is slept. Root prints the seconds of each."""
    limit_blas_threads()
    communicator = open_communicator()
    table = json.loads(times.read_text())
    update, shard = table.pop("update"), Shard(**{**table, "backward": tuple(table["backward"])})
    config = Config(model=model, num_shards=SHARDS, microbatch_size=MICROBATCH)
    ready = prepare_run(config, communicator, lambda line: None)
    step, sleeper = ready.step, Sleeper()
    assert step.overlap is not None, "between hosts overlap is on"
    whole = ready.network.values.size
    seen: set[int] = set()

    def sleeping(seconds: float, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result = work(*arguments)
            sleeper.spend(seconds)
            return result

        return call

    def add(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(grads: Any, bucket: slice) -> None:
            real(grads, bucket)
            seconds = shard.add_other if bucket.start in seen else shard.add_first
            seen.add(bucket.start)
            sleeper.spend(seconds * (bucket.stop - bucket.start) / whole)

        return call

    def backward(_: Any) -> Iterator[tuple[None, int]]:
        for bucket, seconds in zip(step.timing.buckets, shard.backward, strict=True):
            sleeper.spend(seconds)
            yield None, bucket.start

    def totals(real: Callable[..., Any]) -> Callable[..., Any]:
        def call() -> Any:
            sleeper.begin()  # the update's time counts from here (measure/split.py)
            return real()

        return call

    with ExitStack() as held:
        for part, lane in zip(step.shards, step.timing.lanes, strict=True):
            logits = np.zeros((*lane.network.output_shape, MICROBATCH), np.float32)

            def fill(microbatch: Any, epoch: int, step_of_epoch: int, part: Any = part) -> int:
                microbatch.chosen = part.chosen(epoch, step_of_epoch, MICROBATCH)
                return len(microbatch.chosen)

            held.enter_context(replaced(part, "fill", lambda _, fill=fill: sleeping(shard.data, fill)))
            forward = sleeping(shard.forward, lambda _, logits=logits: logits)
            held.enter_context(replaced(lane.network, "forward", lambda _, forward=forward: forward))
            held.enter_context(replaced(lane.network, "backward_by_layer", lambda _: backward))
        held.enter_context(replaced(step.reduction, "add", add))
        held.enter_context(replaced(step.reduction.tally, "totals", totals))
        held.enter_context(replaced(step.optimizer, "step", lambda real: sleeping(update, real)))
        communicator.barrier()
        ends = []
        for number in range(WARM_UP + STEPS):
            seen.clear()
            sleeper.begin()
            step(number, 0, number, 0.01)
            ends.append(time.perf_counter())
    if communicator.rank == 0:
        print(json.dumps(np.diff(ends[WARM_UP - 1 :]).tolist()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        measure_rank(sys.argv[2], Path(sys.argv[3]))
    else:
        main(
            Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="prediction-")), int(sys.argv[2]) if len(sys.argv) > 2 else 3
        )

"""Predict the step on four hosts, then measure it there: UCX_RNDV_THRESH=inf python -m
benchmarks.prediction [FOLDER [TURNS]], as root.

The prediction knows 1 and 2 ranks of this host (a sweep) and a network test between two hosts. Two
hosts test each network twice: while nobody else uses it, and while two other hosts do the same: one
process carries all packets of this test bed, which no real network has.

All hosts share this machine's cores, so on the four hosts a rank does not compute: it sleeps, for
as long as each piece of a shard took on a rank that had the machine (almost) for itself, piece by
piece, so that sums start when they would. The sums are real: gradients (not computed, but as many
numbers) added exactly, in the time that this takes included; buckets, threads, MPI, updates.

Nor can these cores carry what four hosts send at 10 Gbit/s. So time is dilated (Gupta et al., "To
infinity and beyond: time-warped network emulation", NSDI 2006): delays, sleeps and naps take
``dilation`` times as long, links are as much slower, in the network test as well, and all that is
measured is divided by it. What the processor itself does for a message so counts less; TURNS real
leaves time as it is.

A shared machine is at times slow: what was measured then is measured again, but not for ever
(``benchmarks/quiet.py``).
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
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

from benchmarks.quiet import Quiet
from distcnn.config import Config
from distcnn.distributed import Communicator, open_communicator
from distcnn.distributed.blas_threads import limit_blas_threads
from distcnn.scaling.interconnect_test import measure_sums
from distcnn.scaling.points import in_order
from distcnn.scaling.prediction import calibration as sweep_calibration
from distcnn.scaling.prediction.calibration import Calibration, ShardTimes
from distcnn.scaling.prediction.interconnect import Interconnect, fit_interconnect
from distcnn.scaling.prediction.step_time import Place, predict
from distcnn.scaling.result import SumTimes, read_sum_times
from distcnn.scaling.sweep_directory import Sweep, read_settings
from distcnn.training.parts import replaced
from distcnn.training.setup import prepare_run
from tests.cluster.hosts import Hosts, hosts
from tests.conftest import SERIAL, Launcher, mpi_launcher

MODELS = ("lenet", "wide")
NETWORKS = {
    "0.2 ms, 10 Gbit/s": (2e-4, 1e10, 40),
    "1 ms, 1 Gbit/s": (1e-3, 1e9, 10),
    "5 ms, 100 Mbit/s": (5e-3, 1e8, 3),
}
"""Seconds of delay, bits a second, dilation."""
SHARDS, MICROBATCH, HOSTS, STEPS, WARM_UP = 8, 32, 4, 6, 2
SECONDS_OF_TEST, TIMEOUT = 10, 180
MODULE = "benchmarks.prediction"


def main(folder: Path, turns: int, real: bool) -> None:
    """Print a table after each turn; all that was measured goes to ``folder``.

    In real time, or dilated.
    """
    mpi, quiet = mpi_launcher(), Quiet()
    found: dict[str, Calibration] = {
        model: calibrate(model, folder, mpi, quiet) for model in MODELS
    }
    for model, calibration in found.items():
        (folder / f"{model}.json").write_text(
            json.dumps(dataclasses.asdict(calibration.shards[1]) | {"update": calibration.update})
        )
    tests: dict[str, list[list[SumTimes]]] = {name: [] for name in NETWORKS}
    measured: dict[str, list[float]] = {
        f"{network}; {model}": [] for network in NETWORKS for model in MODELS
    }
    with hosts(HOSTS, folder / "hosts") as cluster:
        for turn in range(turns):
            for name, (
                delay,
                rate,
                dilation,
            ) in NETWORKS.items():  # by turns, so that tests and steps meet the same machine
                slower = 1 if real else dilation
                cluster.set_network(delay * slower, rate / slower)
                tests[name].append(test_network(cluster, mpi, folder, slower, quiet))
                for model in MODELS:
                    words = [
                        "-m",
                        MODULE,
                        "rank",
                        str(slower),
                        model,
                        str(folder / f"{model}.json"),
                    ]
                    each = quiet.when_quiet(
                        lambda words=words: run(cluster.launcher(mpi), HOSTS, *words)
                    )
                    measured[f"{name}; {model}"].append(median(json.loads(each)))
            (folder / "measured.json").write_text(
                json.dumps({"tests": tests, "measured": measured}, default=dataclasses.asdict)
            )
            print(f"\nturns: {turn + 1}; {quiet.describe()}")
            show(found, tests, measured)


def show(
    found: dict[str, Calibration],
    tests: dict[str, list[list[SumTimes]]],
    measured: dict[str, list[float]],
) -> None:
    """What is measured so far, beside what is predicted from the tests so far."""
    fitted = {
        name: [
            fit_interconnect(sweep_calibration.median_times([turn[kind] for turn in of]), name)
            for kind in range(2)
        ]
        for name, of in tests.items()
    }
    for name, (alone, together) in fitted.items():
        print(f"{name}\n    alone     {alone.describe()}\n    together  {together.describe()}")
    print(
        f"{'network':<18}{'model':<6}{'measured ms, each turn':>34}{'median':>9}{'predicted':>11}{'error':>8}{'(alone)':>10}{'error':>8}"  # noqa: E501
    )
    for place, seconds in measured.items():
        name, model = place.split("; ")
        alone, together = (step_of(found[model], network) for network in fitted[name])
        middle, turns_ms = median(seconds), " ".join(f"{each * 1e3:.1f}" for each in seconds)
        print(
            f"{name:<18}{model:<6}{turns_ms:>34}{middle * 1e3:>9.1f}{together * 1e3:>11.1f}{together / middle - 1:>+8.1%}"  # noqa: E501
            f"{alone * 1e3:>10.1f}{alone / middle - 1:>+8.1%}",
            flush=True,
        )


def step_of(calibration: Calibration, network: Interconnect) -> float:
    """Predicted seconds of a step on the four hosts."""
    return predict(calibration, Place(HOSTS, 1, SHARDS), network).step_seconds


def calibrate(model: str, folder: Path, mpi: Launcher, quiet: Quiet) -> Calibration:
    """A sweep over 1 and 2 ranks of this host: the one that ``folder`` has, if it has one."""
    flags = [
        "--ranks=1,2",
        f"--model={model}",
        f"--num-shards={SHARDS}",
        f"--microbatch-size={MICROBATCH}",
        "--steps=12",
    ]
    launcher = f"--launcher={mpi.mpirun} -n {{ranks}}"
    path = folder / f"sweep-{model}"

    def sweep() -> str:
        return run(SERIAL, 1, "-m", "distcnn.scaling", *flags, launcher, f"--output={path}")

    def sweep_anew() -> str:
        shutil.rmtree(path, ignore_errors=True)
        return sweep()

    print(sweep() if path.exists() else quiet.when_quiet(sweep_anew), flush=True)
    measured = Sweep(path, read_settings(path))
    return sweep_calibration.calibrate(
        [
            record.result
            for each in in_order(measured.settings.points, measured.settings.repeats)
            if (record := measured.find(each)) and record.result
        ]
    )


def test_network(
    cluster: Hosts, mpi: Launcher, folder: Path, dilation: int, quiet: Quiet
) -> list[SumTimes]:
    """Between two hosts alone, and the middle of two pairs of hosts at once."""
    pairs = [cluster.launcher(mpi, *cluster.names[:2]), cluster.launcher(mpi, *cluster.names[2:])]

    def of_pair(launcher: Launcher) -> SumTimes:
        file = folder / f"{Path(str(launcher.mpirun)).name}.json"
        run(launcher, 2, "-m", MODULE, "test", str(dilation), str(file))
        return read_sum_times(json.loads(file.read_text()))

    with ThreadPoolExecutor(2) as pool:
        return [
            quiet.when_quiet(lambda: of_pair(pairs[0])),
            sweep_calibration.median_times(
                quiet.when_quiet(lambda: list(pool.map(of_pair, pairs)))
            ),
        ]


def run(launcher: Launcher, ranks: int, *arguments: str) -> str:
    """What it prints."""
    done = launcher.run(ranks, *arguments, timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Sleeper:
    """Takes the time of a rank's computing without a core: each piece ends when it would have,
    however long real work within took.
    """

    def __init__(self, dilation: int) -> None:
        self._end, self._dilation = 0.0, dilation

    def begin(self) -> None:
        self._end = time.perf_counter()

    def spend(self, seconds: float) -> None:
        self._end += seconds * self._dilation
        left = self._end - time.perf_counter()
        if left > 0:
            time.sleep(left)


def open_dilated(dilation: int) -> Communicator:
    """All ranks; the thread that sums naps so much longer."""
    limit_blas_threads()
    communicator = open_communicator()
    mpi = sys.modules["distcnn.distributed.mpi"]
    mpi.SECONDS_BETWEEN_LOOKS *= dilation  # type: ignore[attr-defined]
    return communicator


def measure_network(dilation: int, file: Path) -> None:
    """On a rank: the network test.

    Root writes it as ``distcnn.scaling.interconnect_test`` does, in the time that is not dilated.
    """
    communicator = open_dilated(dilation)
    found = measure_sums(communicator, SECONDS_OF_TEST)
    rows = {
        way: [(nbytes, seconds / dilation) for nbytes, seconds in of_way]
        for way, of_way in found.rows.items()
    }
    per_byte = found.add_seconds_per_byte / dilation
    found = dataclasses.replace(found, rows=rows, add_seconds_per_byte=per_byte)
    if communicator.rank == 0:
        file.write_text(json.dumps(dataclasses.asdict(found)))


def measure_rank(dilation: int, model: str, times: Path) -> None:
    """On a rank: steps whose computing is slept.

    Root prints the seconds of each, in the time that is not dilated.
    """
    communicator = open_dilated(dilation)
    table = json.loads(times.read_text())
    update, shard = (
        table.pop("update"),
        ShardTimes(**{**table, "backward": tuple(table["backward"])}),
    )
    config = Config(model=model, num_shards=SHARDS, microbatch_size=MICROBATCH)
    ready = prepare_run(config, communicator, lambda line: None)
    step, sleeper = ready.step, Sleeper(dilation)
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

            held.enter_context(
                replaced(part, "fill", lambda _, fill=fill: sleeping(shard.data, fill))
            )
            forward = sleeping(shard.forward, lambda _, logits=logits: logits)
            held.enter_context(
                replaced(lane.network, "forward", lambda _, forward=forward: forward)
            )
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
        print(json.dumps((np.diff(ends[WARM_UP - 1 :]) / dilation).tolist()))


def begin(arguments: list[str]) -> None:
    """This command, or one of the ranks that it starts."""
    match arguments:
        case ["rank", dilation, model, times]:
            measure_rank(int(dilation), model, Path(times))
        case ["test", dilation, file]:
            measure_network(int(dilation), Path(file))
        case _:
            limit_blas_threads()
            signal.signal(
                signal.SIGTERM, lambda *_: sys.exit("ended")
            )  # the hosts, and all on them, end with it
            folder = Path(arguments[0] if arguments else tempfile.mkdtemp(prefix="prediction-"))
            main(folder, int(arguments[1]) if len(arguments) > 1 else 3, "real" in arguments)


if __name__ == "__main__":
    begin(sys.argv[1:])

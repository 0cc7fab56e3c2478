"""How much slower two ranks are than twice one, and what of it is the machine's: python -m
benchmarks.copies IMAGE_SET MODEL TURNS.

By turns of half a second, of three jobs two of which are stopped meanwhile: one process that takes
the whole global batch; two ranks that share it; two processes that know nothing of each other, each
with half of it. What two such copies lose, no sum over ranks can win back.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, quantiles

from distcnn.config import Config
from distcnn.distributed import open_communicator
from distcnn.distributed.blas_threads import limit_blas_threads
from distcnn.training.setup import prepare_run
from tests.conftest import ROOT, SERIAL, Launcher, clean_environment, mpi_launcher

SHARD, WARM_UP, SECONDS_A_TURN = 128, 6, 0.5
RATIOS = {
    "two ranks / one": ("one", "ranks"),
    "two copies / one": ("one", "copies"),
    "two ranks / two copies": ("copies", "ranks"),
}


def work(folder: str, image_set: str, model: str, shards: str) -> None:
    """Take steps until the end; the file named after this process gets a line for each: when it
    ended, and its seconds.
    """
    limit_blas_threads()
    config = Config(data=image_set, model=model, num_shards=int(shards), microbatch_size=SHARD)
    run = prepare_run(config, open_communicator(), lambda line: None)
    with (Path(folder) / str(os.getpid())).open("w", buffering=1) as file:
        step = 0
        while True:
            start = time.perf_counter()
            run.step(step, 0, step % 100, 0.001)
            step, end = step + 1, time.perf_counter()
            file.write(f"{end} {end - start}\n")


@dataclass
class Job:
    """Processes that take steps, stopped but in their turn."""

    folder: Path
    processes: int

    def rows(self) -> list[list[tuple[float, float]]]:
        """Of each process that has begun: (end, seconds) of each step so far."""
        lines = [
            each.read_text().rpartition("\n")[0].splitlines()
            for each in sorted(self.folder.iterdir())
        ]
        return [
            [(float(end), float(seconds)) for end, seconds in map(str.split, of_one)]
            for of_one in lines
        ]

    def is_warm(self) -> bool:
        return len(found := self.rows()) == self.processes and min(map(len, found)) >= WARM_UP

    def send(self, number: signal.Signals) -> None:
        for each in self.folder.iterdir():
            with suppress(ProcessLookupError):
                os.kill(int(each.name), number)

    def turn(self) -> float | None:
        """Seconds for a step of its own, the mean over processes of their medians; None where the
        machine stalled.
        """
        start = time.perf_counter()
        self.send(signal.SIGCONT)
        time.sleep(SECONDS_A_TURN)
        self.send(signal.SIGSTOP)
        end = time.perf_counter()
        whole = [
            [seconds for ended, seconds in steps if start < ended - seconds and ended < end]
            for steps in self.rows()
        ]
        return mean(median(each) for each in whole) if all(whole) else None


@contextmanager
def started(launchers: list[Launcher], ranks: int, folder: Path, *arguments: str) -> Iterator[Job]:
    """``ranks`` of each launcher; stopped, once they are warm. They end with the block."""
    folder.mkdir()
    job = Job(folder, ranks * len(launchers))
    processes = []
    try:
        for each in launchers:
            start = [each.mpirun, "-n", str(ranks)] if each.mpirun else []
            command = [
                *start,
                each.python,
                "-m",
                "benchmarks.copies",
                "work",
                str(folder),
                *arguments,
            ]
            processes.append(subprocess.Popen(command, cwd=ROOT, env=clean_environment()))
        while not job.is_warm():
            assert all(each.poll() is None for each in processes), (
                "a process has ended: its own words are above"
            )
            time.sleep(0.1)
        job.send(signal.SIGSTOP)
        yield job
    finally:
        job.send(signal.SIGKILL)
        for process in processes:
            process.kill()
            process.wait()


def main(image_set: str, model: str, turns: str) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        jobs = {
            "one": stack.enter_context(started([SERIAL], 1, folder / "one", image_set, model, "2")),
            "ranks": stack.enter_context(
                started([mpi_launcher()], 2, folder / "ranks", image_set, model, "2")
            ),
            "copies": stack.enter_context(
                started([SERIAL, SERIAL], 1, folder / "copies", image_set, model, "1")
            ),
        }
        rows = []
        for turn in range(int(turns)):
            order = list(jobs) if turn % 2 else list(jobs)[::-1]
            seconds = {name: jobs[name].turn() for name in order}
            if None not in seconds.values():
                rows.append({name: each for name, each in seconds.items() if each})
    print(f"{model}: {len(rows)} of {turns} turns without a stall; ms a step, median: ", end="")
    print(", ".join(f"{name} {1000 * median(row[name] for row in rows):.1f}" for name in jobs))
    for text, (slow, fast) in RATIOS.items():
        low, middle, high = quantiles([row[slow] / row[fast] for row in rows], n=4)
        print(f"{text}: {middle:.2f} (quartiles {low:.2f} {high:.2f})")


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(*sys.argv[2:])
    else:
        main(*sys.argv[1:])

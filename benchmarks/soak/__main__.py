"""Kill small runs at random moments in random ways, and resume them on other numbers of ranks:
``python -m benchmarks.soak --rounds 100``.

Each round must leave exactly what an uninterrupted run leaves. ``DISTCNN_TEST_OPENMPI`` adds Open
MPI.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.soak.compare import artifacts, damaged_checkpoints, differences
from benchmarks.soak.counts import Counts, table
from benchmarks.soak.starts import Place, Problem, Start, steps_taken
from benchmarks.soak.ways import Kill, Sent, result_files, temporary_checkpoints
from distcnn.cli.command import EXIT_OK, EXIT_STOPPED
from tests.conftest import SERIAL, mpi_launcher, openmpi_launcher, write_image_set

MOST_RANKS, MOST_KILLS = 4, 3
ROUNDS_BETWEEN_REPLAYS = 10
LENET_CHANCE = 0.15
NOTHING_YET = "before the first step: nothing to save"
LAUNCHER_CHANCES = {"mpirun": 0.55, "openmpi": 0.3, "serial": 0.15}
SHARED_FLAGS = [
    "--checkpoint-every",
    "3",
    "--check-every",
    "4",
    "--log-every",
    "2",
    "--warmup-steps",
    "4",
    "--microbatch-size",
    "4",
]
RUNS = {
    "tutorial": (403, ["--model", "tutorial", "--epochs", "12"]),
    "lenet": (203, ["--model", "lenet", "--epochs", "7"]),
}
"""Training examples, and flags."""


@dataclass
class Reference:
    """An uninterrupted run in one process, and what it left."""

    flags: list[str]
    total_steps: int
    left: dict[str, Any]


class Round:
    """One run in its own folder, from its first start to the comparison at its end."""

    def __init__(
        self,
        number: int,
        rng: np.random.Generator,
        reference: Reference,
        folder: Path,
        counts: Counts,
    ) -> None:
        self._number, self._rng, self._reference, self._counts = number, rng, reference, counts
        self._folder, self.run = folder, folder / "run"
        self._starts = 0
        self._must_be_named: list[Path] = []
        self.story: list[str] = []

    def play(self) -> None:
        """Start, kill and resume until the run ends. Raises ``Problem``."""
        for _ in range(self._rng.integers(1, MOST_KILLS + 1)):
            if self._killed_start() == EXIT_OK:
                break
        else:
            self._last_start()
        found = differences(self._reference.left, artifacts(self.run))
        if found:
            raise Problem("\n".join(found))
        if self._number % ROUNDS_BETWEEN_REPLAYS == 0:
            self._replay()

    def _killed_start(self) -> int:
        place, kill = draw_place(self._rng), Kill.draw(self._rng)
        start = self._begin(place)
        try:
            sent = kill.wait_and_send(start, self.run, self._reference.total_steps)
            seconds = start.wait_until_gone(sent.time if sent else time.monotonic())
        finally:
            start.end()
        code = start.code
        assert code is not None
        self._note(kill, sent, code, seconds)
        self.story[-1] += ", a rank reported an exception" * ("failed on host" in start.text)
        self._check_start(start)
        self._check_code(kill, sent, start, code)
        damaged, self._must_be_named = damaged_checkpoints(self.run)
        self._counts.damaged += len(damaged)
        return code

    def _last_start(self) -> None:
        start = self._begin(draw_place(self._rng))
        try:
            code = start.finish()
        finally:
            start.end()
        self.story.append(f"to the end, code {code}")
        self._check_start(start)
        if code != EXIT_OK:
            raise Problem(f"exit code {code} of a start that nobody stopped:\n{start.text[-3000:]}")

    def _begin(self, place: Place) -> Start:
        """Start the command, or resume it if a run exists."""
        self._starts += 1
        if (self.run / "config.toml").exists():
            what = ["--resume", str(self.run)]
            self._counts.resumes[str(place)] += 1
            self.story.append(f"resumed on {place}")
        else:
            what = [*self._reference.flags, "--output", str(self.run)]
            self._counts.fresh_starts += self._starts > 1
            self.story.append(f"started on {place}")
        return Start(place, ["-m", "distcnn.train", *what], self._folder, f"start-{self._starts}")

    def _note(self, kill: Kill, sent: Sent | None, code: int, seconds: float) -> None:
        """Count it and add it to the story."""
        steps = f"{steps_taken(self.run)}/{self._reference.total_steps} steps"
        if sent is None:
            self._counts.too_late += 1
            self.story.append(f"{kill.way} came too late, code {code}")
            return
        in_checkpoint = bool(temporary_checkpoints(self.run / "checkpoints"))
        in_results = bool(result_files(self.run))
        in_results = in_results and not (self.run / "result.json").exists()
        counts = self._counts
        counts.kills[kill.way, kill.moment] += 1
        counts.in_checkpoint += in_checkpoint
        counts.in_results += in_results
        counts.codes[code] += 1
        counts.longest_seconds = max(counts.longest_seconds, seconds)
        half = ", partial checkpoint left" * in_checkpoint + ", partial results left" * in_results
        self.story.append(
            f"{kill.way} ({kill.moment}) at {steps}, code {code}, gone after {seconds:.2f} s{half}"
        )

    def _check_start(self, start: Start) -> None:
        """A resume that restored a checkpoint must have named damaged ones and set them aside."""
        if "results  " in start.text or "is finished" in start.text:
            for path in self._must_be_named:
                if f"checkpoint {path} is damaged" not in start.text:
                    raise Problem(
                        f"{path} was damaged, and the resume did not say so:\n{start.text[:2000]}"
                    )

    def _check_code(self, kill: Kill, sent: Sent | None, start: Start, code: int) -> None:
        """The exit code must match the signal and what is on the disk."""
        saved = re.search(r"stopped.* after step (\d+) of", start.text)
        allowed_codes = [EXIT_OK] if sent is None else None
        if (
            sent
            and sent.listened
            and sent.steps <= self._reference.total_steps / 2
            and _stops_gently(kill, start.place)
        ):
            allowed_codes = [EXIT_STOPPED]
        checks = {
            f"expected one of {allowed_codes}": allowed_codes is None or code in allowed_codes,
            "unexpected error": ("distcnn.train: error:" not in start.text),
            "no signal asked it to stop": code != EXIT_STOPPED or kill.asks_to_stop,
            "the step that was saved is not printed": (
                code != EXIT_STOPPED or saved is not None or NOTHING_YET in start.text
            ),
            "there is nothing to resume": (
                code != EXIT_STOPPED or (self.run / "config.toml").exists()
            ),
            "there is no result": code != EXIT_OK or (self.run / "result.json").exists(),
            "the checkpoint that was printed is missing": (
                not saved or (self.run / f"checkpoints/step-{int(saved[1]):09d}.h5").exists()
            ),
        }
        wrong = [problem for problem, is_fine in checks.items() if not is_fine]
        if wrong:
            raise Problem(f"exit code {code}: {'; '.join(wrong)}:\n{start.text[-3000:]}")

    def _replay(self) -> None:
        start = Start(
            draw_place(self._rng), ["-m", "distcnn.verify", str(self.run)], self._folder, "verify"
        )
        try:
            code = start.finish()
        finally:
            start.end()
        if code != EXIT_OK or "identical" not in start.text:
            raise Problem(f"distcnn.verify: exit code {code}:\n{start.text[-3000:]}")
        self._counts.replays += 1
        self.story.append(f"replayed on {start.place}: identical")


def _stops_gently(kill: Kill, place: Place) -> bool:
    """Whether the signal must end in exit code 85.

    Open MPI's mpirun ends with 1 by itself and soon kills the ranks.
    """
    return kill.asks_to_stop and not (
        place.launcher.name == "openmpi" and kill.target == "launcher"
    )


def draw_place(rng: np.random.Generator) -> Place:
    """A random number of ranks under a random launcher."""
    with_openmpi = bool(os.environ.get("DISTCNN_TEST_OPENMPI"))
    chosen = str(rng.choice(list(LAUNCHER_CHANCES), p=list(LAUNCHER_CHANCES.values())))
    ranks = int(rng.integers(1, MOST_RANKS + 1))
    if chosen == "serial":
        return Place(SERIAL, 1)
    return Place(
        openmpi_launcher() if chosen == "openmpi" and with_openmpi else mpi_launcher(), ranks
    )


def make_reference(model: str, folder: Path) -> Reference:
    """Run a configuration once, in one process."""
    folder.mkdir()
    examples, flags = RUNS[model]
    data = write_image_set(folder / "images.h5", train=examples)
    flags = ["--data", str(data), *flags, *SHARED_FLAGS]
    result = SERIAL.train(1, folder / "run", *flags)
    return Reference(flags, result["steps"], artifacts(folder / "run"))


def play_round(
    number: int, seed: int, references: dict[str, Reference], base: Path, counts: Counts
) -> bool:
    """Play a round, print and count it; return whether it was equal to its reference.

    If not, its folder is kept.
    """
    rng = np.random.default_rng((seed, number))
    model = "lenet" if rng.random() < LENET_CHANCE else "tutorial"
    if model not in references:
        references[model] = make_reference(model, base / model)
    folder = base / f"round-{number:04d}"
    folder.mkdir()
    this, begun, problem = (
        Round(number, rng, references[model], folder, counts),
        time.monotonic(),
        "",
    )
    try:
        this.play()
    except (Problem, OSError, ValueError, KeyError) as error:
        problem = f"{type(error).__name__}: {error}"
    counts.rounds += 1
    counts.equal += not problem
    print(
        f"round {number} ({model}, {time.monotonic() - begun:.1f} s): {'; '.join(this.story)}:"
        f" {'DIFFERENT' if problem else 'equal'}"
    )
    if problem:
        print(
            f"{problem}\nkept: {folder}\nrepeat: python -m benchmarks.soak --seed {seed} --first"
            f" {number} --rounds 1",
            flush=True,
        )
        return False
    shutil.rmtree(folder)
    sys.stdout.flush()
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code is 1 when a round differed from its reference."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="how many (default 100)")
    parser.add_argument(
        "--seed", type=int, default=0, help="decides what happens in each round (default 0)"
    )
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first round (default 0)"
    )
    parser.add_argument(
        "--keep-going", action="store_true", help="continue after a round that differs"
    )
    args = parser.parse_args(arguments)
    if (
        signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    ):  # a shell's background job, whose children would ignore it too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    base, begun = Path(tempfile.mkdtemp(prefix="distcnn-soak-")), time.monotonic()
    counts, references = Counts(), dict[str, Reference]()
    for number in range(args.first, args.first + args.rounds):
        if not play_round(number, args.seed, references, base, counts) and not args.keep_going:
            break
    print(table(counts, time.monotonic() - begun))
    if counts.equal < counts.rounds:
        return 1
    shutil.rmtree(base)
    return 0


if __name__ == "__main__":
    sys.exit(main())

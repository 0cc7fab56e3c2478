"""The command line of ``distcnn.scaling``: its own flags, and those of training."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distcnn.cli.parser import Parser
from distcnn.config import Config, as_flag
from distcnn.config_parsing import CONFIG_FLAGS, parse_request
from distcnn.distributed import shards_of_rank
from distcnn.errors import InputError
from distcnn.scaling.interconnect import Interconnect, parse_interconnect
from distcnn.scaling.points import MODES, STRONG, Point, plan_points
from distcnn.system.host import usable_cores

RANKS = "{ranks}"
"""Stands for the number of ranks in a launcher."""
MOST_RANKS = 1_000_000
"""Of a prediction."""
SET_BY_SWEEP = {
    "expect_ranks": "use --ranks for the numbers of ranks",
    "max_steps": "use --steps for the number of timed steps",
}
"""Flags of training that the sweep sets itself, and what to use instead."""
INSTEAD = {
    "resume": "to continue a sweep, run the same command with the same --output",
    "shards-per-rank": "give --num-shards, for the smallest point of --mode weak",
    **dict.fromkeys(
        ("predict-shards", "predict-examples"),
        "a prediction is for the batch and data that were measured: give --num-shards",
    ),
}


@dataclass(frozen=True)
class Settings:
    """Everything the measurements depend on; a sweep directory belongs to one of these.

    Attributes:
        ranks: in ascending order.
        launcher: the command that starts ranks, with ``RANKS`` in it.
        mode: one of ``MODES``.
        repeats: measurements of every point.
        steps: timed steps of a measurement.
        flags: those of training that were given.
    """

    ranks: tuple[int, ...]
    launcher: str
    mode: str = STRONG
    repeats: int = 3
    steps: int = 30
    flags: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, instead in SET_BY_SWEEP.items():
            if name in self.flags:
                raise InputError(f"{as_flag(name)} is set by the sweep: {instead}")
        for point in self.points:
            shards_of_rank(Config(**self.flags_of(point)).num_shards, point.ranks, 0)
        launcher_command(self.launcher, 1)

    @property
    def points(self) -> list[Point]:
        """By mode and number of ranks."""
        Config(**self.flags)
        return plan_points(self.mode, self.ranks, self.flags)

    def flags_of(self, point: Point) -> dict[str, Any]:
        """The flags of training for one point."""
        return {
            **self.flags,
            "num_shards": point.num_shards,
            "microbatch_size": point.microbatch_size,
            "expect_ranks": point.ranks,
        }


@dataclass(frozen=True)
class Request:
    """What to measure in which sweep directory, and what to predict from it: step times on
    ``predict`` ranks, with each of the ``interconnects`` between hosts.
    """

    settings: Settings
    output: str
    timeout: float
    predict: tuple[int, ...]
    interconnects: list[Interconnect]
    ranks_per_host: int


def parse(arguments: Sequence[str]) -> Request:
    """Read a command line; ``InputError`` if a flag is unknown or has an invalid value."""
    own, of_training = make_parser().parse_own(arguments)
    flags = dict(parse_request(of_training).given)
    flags.pop("output", None)
    settings = Settings(own.ranks, own.launcher, own.mode, own.repeats, own.steps, flags)
    interconnects = list(map(parse_interconnect, own.interconnect))
    if (interconnects or own.ranks_per_host) and not own.predict:
        raise InputError(
            "--interconnect and --ranks-per-host are part of a prediction: add --predict"
            " 4,8,...,4096"
        )
    shards = settings.points[0].num_shards
    if own.predict and own.mode == STRONG and shards < own.predict[0]:
        raise InputError(
            f"--predict {own.predict[0]}: strong scaling has {shards} shards, and every rank"
            f" needs one: add --num-shards {own.predict[-1]}, or use --mode weak"
        )
    return Request(
        settings, own.output, own.timeout, own.predict, interconnects, own.ranks_per_host
    )


def ranks_from(text: str) -> tuple[int, ...]:
    """Return ``"4,8,...,64"`` in ascending order; "..." continues with the factor of the two
    numbers before it, or with their difference if the factor is not an integer.
    """
    found: list[int] = []
    words = [word.strip() for word in text.split(",")]
    try:
        for word, following in zip(words, [*words[1:], ""], strict=True):
            if word not in ("...", "…"):
                found.append(int(word))
                continue
            before, last, end = found[-2], found[-1], int(following)
            if not 0 < before < last < end <= MOST_RANKS:
                raise ValueError
            factor, step = (1, last - before) if last % before else (last // before, 0)
            while (number := found[-1] * factor + step) < end:
                found.append(number)
        if not all(1 <= number <= MOST_RANKS for number in found):
            raise ValueError
    except (ValueError, IndexError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of numbers of ranks, such as 1,2,4 or 4,8,...,4096"
        ) from None
    return tuple(sorted(set(found)))


def positive(text: str) -> int:
    """Return ``text`` as an integer of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return int(text)


def seconds_from(text: str) -> float:
    """Return ``text`` as a number of seconds that is not negative."""
    with suppress(ValueError):
        if 0 <= float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, or 0 for no limit")


def default_ranks() -> tuple[int, ...]:
    """Return 1, 2, 4 ... up to the tasks of the Slurm allocation, or else up to the cores."""
    tasks = os.environ.get("SLURM_NTASKS", "")
    most = int(tasks) if tasks.isdigit() and int(tasks) else len(usable_cores("").ids)
    return tuple(2**power for power in range(most.bit_length()))


def default_launcher() -> str:
    """Return the mpirun on the path, else the one next to this Python."""
    beside = Path(sys.executable).parent / "mpirun"
    mpirun = str(beside) if shutil.which("mpirun") is None and beside.exists() else "mpirun"
    return f"{shlex.quote(mpirun)} -n {RANKS}"


def launcher_command(launcher: str, ranks: int) -> list[str]:
    """Return the launcher's words for ``ranks`` ranks; the command to start follows them."""
    try:
        words = shlex.split(launcher)
    except ValueError as error:
        raise InputError(f"--launcher is {launcher!r} ({error}): close its quotes") from error
    if not any(RANKS in word for word in words):
        raise InputError(
            f"--launcher is {launcher!r}, without {RANKS}: put it where the number of ranks goes,"
            f" as in 'mpirun -n {RANKS}'"
        )
    return [word.replace(RANKS, str(ranks)) for word in words]


def make_parser() -> Parser:
    """Return the command's own flags; all others are flags of training."""
    parser = Parser(
        prog="python -m distcnn.scaling",
        description=(
            "Measure training steps on several numbers of ranks: images per second, efficiency,"
            " where the time goes, and whether all points end with the same bits. The sweep starts"
            " the ranks through a launcher; run the same command with the same --output again to"
            " continue a sweep that was stopped or had failed points. See docs/scaling.md."
        ),
        epilog=(
            "All flags of training that change a step are accepted as well (python -m distcnn.train"
            " --help). --num-shards is the number of shards at every point of strong scaling, and"
            " at the smallest point of weak scaling."
        ),
        elsewhere=CONFIG_FLAGS,
        instead=INSTEAD,
    )
    parser.add_argument(
        "--ranks",
        type=ranks_from,
        default=default_ranks(),
        metavar="1,2,4",
        help="numbers of ranks (default 1,2,4 ... up to the cores)",
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        default=STRONG,
        help="strong: same batch at every point; weak: same batch on every rank (default strong)",
    )
    parser.add_argument(
        "--repeats",
        type=positive,
        default=3,
        metavar="N",
        help="measurements per point (default 3)",
    )
    parser.add_argument(
        "--steps",
        type=positive,
        default=30,
        metavar="N",
        help="timed steps per measurement (default 30)",
    )
    parser.add_argument(
        "--launcher",
        default=default_launcher(),
        metavar="COMMAND",
        help=f"command that starts the ranks (default 'mpirun -n {RANKS}')",
    )
    parser.add_argument(
        "--output", default="", metavar="DIR", help="sweep directory (default runs/scaling-<time>)"
    )
    parser.add_argument(
        "--timeout",
        type=seconds_from,
        default=600.0,
        metavar="SECONDS",
        help="time limit of one measurement; 0: none (default 600)",
    )
    group = parser.add_argument_group("prediction", "step times on more ranks (docs/prediction.md)")
    group.add_argument(
        "--predict",
        type=ranks_from,
        default=(),
        metavar="4,8,...,4096",
        help="numbers of ranks to predict",
    )
    group.add_argument(
        "--interconnect",
        action="append",
        default=[],
        metavar="latency=1ms,bandwidth=10Gbit|FILE",
        help=(
            "network between hosts: one-way latency (s, ms, us) and bandwidth (bit, kbit, Mbit,"
            " Gbit per second), or a file written by distcnn.scaling.interconnect_test --json; may"
            " be repeated (default: as measured by a sweep over several hosts)"
        ),
    )
    group.add_argument("--network", action="append", dest="interconnect", help=argparse.SUPPRESS)
    group.add_argument(
        "--ranks-per-host",
        type=positive,
        default=0,
        metavar="N",
        help="ranks on a full host (default: as measured)",
    )
    return parser

"""What a command line of ``distcnn.scaling`` asks for: its own flags, and those of training."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distcnn.cli.parser import Parser
from distcnn.config import Config, as_flag
from distcnn.config_parsing import CONFIG_FLAGS, parse_request
from distcnn.distributed import shards_of_rank
from distcnn.errors import InputError
from distcnn.scaling.points import MODES, STRONG, Point, plan_points
from distcnn.scaling.prediction.interconnect import parse_interconnect
from distcnn.system.host import usable_cores

RANKS = "{ranks}"
"""Stands for the number of ranks in a launcher."""
MOST_RANKS, MOST_NUMBERS = 1_000_000, 100
"""Of a prediction."""
SET_BY_SWEEP = {
    "expect_ranks": "use --ranks for the numbers of ranks",
    "max_steps": "use --steps for the number of timed steps",
}
"""Flags of training that the sweep sets for its points, and what to use instead."""


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
        for flag, value in (("--repeats", self.repeats), ("--steps", self.steps)):
            if value < 1:
                raise InputError(f"{flag} is {value}: it must be at least 1")
        if self.mode not in MODES:
            raise InputError(f"unknown --mode {self.mode!r}: choose one of {', '.join(MODES)}")
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
class Wanted:
    """What to predict.

    Attributes:
        ranks: in ascending order.
        interconnects: values of ``--interconnect``.
        ranks_per_host: 0 for as many as were measured.
    """

    ranks: tuple[int, ...]
    interconnects: tuple[str, ...] = ()
    ranks_per_host: int = 0


@dataclass(frozen=True)
class Request:
    """Settings, and what does not change a measurement.

    Attributes:
        output: the sweep directory; empty for a new one.
        timeout: of one measurement, in seconds; 0 for no limit.
        wanted: None without ``--predict``.
    """

    settings: Settings
    output: str = ""
    timeout: float = 600.0
    wanted: Wanted | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.timeout) and self.timeout >= 0):
            raise InputError(
                f"--timeout is {self.timeout:g}: it must be a number of seconds, or 0 for no limit"
            )


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Request:
    """Read a command line.

    Raises:
        InputError: a flag is unknown or has an invalid value.
    """
    known, of_training = make_parser().parse_own(arguments)
    own = vars(known)
    flags = parse_request(of_training).given
    flags = {name: value for name, value in flags.items() if name != "output"}
    if not own.get("output", "x"):
        raise InputError("--output is empty: name the sweep directory")
    wanted = _wanted(own)
    around = {name: own.pop(name) for name in ("output", "timeout") if name in own}
    ranks = parse_ranks(own.pop("ranks")) if "ranks" in own else default_ranks(environment)
    settings = Settings(ranks, own.pop("launcher", default_launcher()), flags=flags, **own)
    num_shards = settings.points[0].num_shards
    if wanted and settings.mode == STRONG and num_shards < wanted.ranks[0]:
        raise InputError(
            f"--predict {wanted.ranks[0]}: strong scaling has {num_shards} shards, and every rank"
            f" needs one: add --num-shards {wanted.ranks[-1]}, or use --mode weak"
        )
    return Request(settings, wanted=wanted, **around)


def _wanted(own: dict[str, Any]) -> Wanted | None:
    """Take the flags of a prediction out of ``own``, and check them before anything is measured."""
    predict = own.pop("predict", None)
    interconnects = tuple(own.pop("interconnect", ()))
    per_host = own.pop("ranks_per_host", None)
    if predict is None:
        if interconnects or per_host is not None:
            flag = "--interconnect" if interconnects else "--ranks-per-host"
            raise InputError(f"{flag} is part of a prediction: add --predict 4,8,...,4096")
        return None
    if per_host is not None and per_host < 1:
        raise InputError(f"--ranks-per-host is {per_host}: it must be at least 1")
    for text in interconnects:
        parse_interconnect(text)
    return Wanted(parse_predicted(predict), interconnects, per_host or 0)


def parse_ranks(text: str) -> tuple[int, ...]:
    """Return ``"4,1,2"`` in ascending order, without duplicates."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise InputError(
            f"--ranks is {text!r}: it must be numbers of ranks, all at least 1, such as 1,2,4"
        )
    return tuple(sorted({int(word) for word in words}))


def parse_predicted(text: str) -> tuple[int, ...]:
    """Return ``"4,8,...,64"`` in ascending order; "..." continues with the factor of the two
    numbers before it, or with their difference if the factor is not an integer.
    """
    found: list[int] = []
    words = [word.strip() for word in text.split(",")]
    try:
        for index, word in enumerate(words):
            if word in ("...", "…"):
                before, last, end = found[-2], found[-1], int(words[index + 1])
                if not 0 < before < last:
                    raise ValueError
                while (
                    following := found[-1] * last // before
                    if last % before == 0
                    else found[-1] + last - before
                ) < end and len(found) < MOST_NUMBERS:
                    found.append(following)
            else:
                found.append(int(word))
        if not all(1 <= number <= MOST_RANKS for number in found):
            raise ValueError
    except (ValueError, IndexError):
        raise InputError(
            f"--predict is {text!r}: it must be numbers of ranks from 1 to {MOST_RANKS:,}, such as"
            " 4,16,64 or 4,8,...,4096"
        ) from None
    return tuple(sorted(set(found)))


def default_ranks(environment: Mapping[str, str]) -> tuple[int, ...]:
    """Return 1, 2, 4 ... up to the tasks of the Slurm allocation, or else up to the cores."""
    tasks = environment.get("SLURM_NTASKS", "")
    most = int(tasks) if tasks.isdigit() and int(tasks) else len(usable_cores("").ids)
    return tuple(2**power for power in range(most.bit_length()))


def default_launcher() -> str:
    """Return the mpirun on the path, or else the one beside this Python."""
    beside = Path(sys.executable).parent / "mpirun"
    mpirun = str(beside) if shutil.which("mpirun") is None and beside.exists() else "mpirun"
    return f"{shlex.quote(mpirun)} -n {RANKS}"


def launcher_command(launcher: str, ranks: int) -> list[str]:
    """Return the words that start ``ranks`` ranks of whatever follows them."""
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


def require_launcher(launcher: str) -> None:
    """Raise ``InputError`` if the launcher is not installed, because every point would fail."""
    program = launcher_command(launcher, 1)[0]
    if shutil.which(program) is None:
        raise InputError(
            f"--launcher: there is no program {program!r}: load the MPI module or activate the"
            f" environment that has it, or name another launcher, such as 'mpirun -n {RANKS}'"
        )


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
            " --help), such as --model, --data, --microbatch-size, --reduction, --overlap and"
            " --config. --num-shards is the number of shards at every point of strong scaling, and"
            " at the smallest point of weak scaling."
        ),
        argument_default=argparse.SUPPRESS,
        elsewhere=CONFIG_FLAGS,
        instead={"resume": "to continue a sweep, run the same command with the same --output"},
    )
    add = parser.add_argument
    add(
        "--ranks",
        metavar="1,2,4",
        help="numbers of ranks (default: powers of two up to the allocation's tasks, or the cores)",
    )
    add(
        "--mode",
        metavar="|".join(MODES),
        help="strong: same batch at every point; weak: same batch on every rank (default strong)",
    )
    add("--repeats", type=int, metavar="N", help="measurements per point (default 3)")
    add("--steps", type=int, metavar="N", help="timed steps per measurement (default 30)")
    add(
        "--launcher",
        metavar="COMMAND",
        help=f"what starts the ranks, such as 'srun -n {RANKS}' (default 'mpirun -n {RANKS}')",
    )
    add("--output", metavar="DIR", help="sweep directory (default runs/scaling-<time>)")
    add(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="end a measurement that takes longer; 0: no limit (default 600)",
    )
    prediction = parser.add_argument_group("prediction", "for more ranks (docs/prediction.md)")
    add = prediction.add_argument
    add("--predict", metavar="4,8,...,4096", help="predict step times on these numbers of ranks")
    add(
        "--interconnect",
        action="append",
        metavar="latency=1ms,bandwidth=10Gbit|FILE",
        help=(
            "between hosts: latency one way (s, ms, us) and bandwidth (bit, kbit, Mbit, Gbit per"
            " second), or a file written by distcnn.scaling.interconnect_test --json; may be"
            " repeated (default: as measured by a sweep over several hosts)"
        ),
    )
    add("--network", action="append", dest="interconnect", help=argparse.SUPPRESS)
    add(
        "--ranks-per-host",
        type=int,
        metavar="N",
        help="how many ranks fill a host (default: as measured)",
    )
    return parser

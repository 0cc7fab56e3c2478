"""The command line of ``distcnn.scaling``: its own flags, and those of training."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distcnn.cli.parser import Parser
from distcnn.config import Config
from distcnn.config_parsing import CONFIG_FLAGS, parse_request
from distcnn.distributed import shards_of_rank
from distcnn.errors import InputError
from distcnn.scaling.interconnect import parse_interconnect
from distcnn.scaling.points import MODES, STRONG, Point, plan_points
from distcnn.system.host import usable_cores

RANKS = "{ranks}"  # stands for the number of ranks in a launcher
MOST_RANKS = 1_000_000  # of a prediction
INSTEAD = {
    "resume": "to continue a sweep, run the same command with the same --output",
    "shards-per-rank": "give --num-shards, for the smallest point of --mode weak",
    **dict.fromkeys(("expect-ranks", "world-size"), "use --ranks for the numbers of ranks"),
    "max-steps": "use --steps for the number of timed steps",
    **dict.fromkeys(
        ("predict-shards", "predict-examples"),
        "a prediction is for the batch and data that were measured: give --num-shards",
    ),
}


@dataclass(frozen=True)
class Settings:
    """Everything the measurements depend on; a sweep directory belongs to one of these."""

    ranks: tuple[int, ...]  # in ascending order
    launcher: str
    mode: str = STRONG
    repeats: int = 3
    steps: int = 30
    flags: dict[str, Any] = field(default_factory=dict)  # those of training that were given

    def __post_init__(self) -> None:
        Config(**self.flags)
        for point in self.points:
            shards_of_rank(point.num_shards, point.ranks, 0)
        launcher_command(self.launcher, 1)

    @property
    def points(self) -> list[Point]:
        """By mode and number of ranks."""
        return plan_points(self.mode, self.ranks, self.flags)

    def flags_of(self, point: Point) -> dict[str, Any]:
        """The flags of training for one point."""
        work = {"num_shards": point.num_shards, "microbatch_size": point.microbatch_size}
        return {**self.flags, **work, "expect_ranks": point.ranks}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read a command line: own flags, ``settings`` and parsed interconnects."""
    args, of_training = make_parser().parse_own(arguments)
    given = parse_request(of_training).given  # a file may have flags that the sweep sets itself
    own = ("output", "max_steps", "expect_ranks")
    flags = {name: value for name, value in given.items() if name not in own}
    args.settings = Settings(args.ranks, args.launcher, args.mode, args.repeats, args.steps, flags)
    args.interconnect = list(map(parse_interconnect, args.interconnect))
    if (args.interconnect or args.ranks_per_host) and not args.predict:
        raise InputError(
            "--interconnect and --ranks-per-host are part of a prediction: add --predict"
            " 4,8,...,4096"
        )
    shards = args.settings.points[0].num_shards
    if args.predict and args.mode == STRONG and shards < args.predict[0]:
        raise InputError(
            f"--predict {args.predict[0]}: strong scaling has {shards} shards, and every rank"
            f" needs one: add --num-shards {args.predict[-1]}, or use --mode weak"
        )
    return args


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
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return int(text)


def seconds_from(text: str) -> float:
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
        elsewhere={flag: name for flag, name in CONFIG_FLAGS.items() if flag[2:] not in INSTEAD},
        instead=INSTEAD,
    )
    group: argparse._ActionsContainer = parser

    def add(flag: str, metavar: str, kind: Callable[[str], Any], default: Any, text: str) -> None:
        group.add_argument(flag, metavar=metavar, type=kind, default=default, help=text)

    ranks, launcher = default_ranks(), default_launcher()
    add("--ranks", "1,2,4", ranks_from, ranks, "numbers of ranks (default 1,2,4 ... up to cores)")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default=STRONG,
        help="strong: same batch at every point; weak: same batch on every rank (default strong)",
    )
    add("--repeats", "N", positive, 3, "measurements per point (default 3)")
    add("--steps", "N", positive, 30, "timed steps per measurement (default 30)")
    add("--launcher", "COMMAND", str, launcher, f"starts the ranks (default 'mpirun -n {RANKS}')")
    add("--output", "DIR", str, "", "sweep directory (default runs/scaling-<time>)")
    add("--timeout", "SECONDS", seconds_from, 600.0, "limit per measurement; 0: none (default 600)")
    group = parser.add_argument_group("prediction", "step times on more ranks (docs/prediction.md)")
    add("--predict", "4,8,...,4096", ranks_from, (), "numbers of ranks to predict")
    add("--ranks-per-host", "N", positive, 0, "ranks on a full host (default: as measured)")
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
    return parser

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
from distcnn.system.host import usable_cores

OUTPUT, RANKS = "--output", "{ranks}"
"""In a launcher ``{ranks}`` is where the number of ranks goes."""
OF_THE_SWEEP = {
    "expect_ranks": "--ranks says on how many ranks points run",
    "max_steps": "--steps says how many steps are timed",
}
"""Flags of training that the sweep gives to its points itself, and what to use instead."""


@dataclass(frozen=True)
class Settings:
    """All that the measurements depend on; a sweep directory is for one of these.

    ``flags`` are those of training that were given.
    """

    ranks: tuple[int, ...]
    launcher: str
    mode: str = STRONG
    repeats: int = 3
    steps: int = 30
    shards_per_rank: int = 0
    flags: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--repeats", self.repeats, 1),
            ("--steps", self.steps, 1),
            ("--shards-per-rank", self.shards_per_rank, 0),
        ):
            if value < least:
                raise InputError(f"{flag} is {value}: it must be at least {least}")
        if self.mode not in MODES:
            raise InputError(f"unknown --mode {self.mode!r}: choose one of {', '.join(MODES)}")
        for name, instead in OF_THE_SWEEP.items():
            if name in self.flags:
                raise InputError(f"{as_flag(name)} is not for a sweep: {instead}")
        for point in self.points:
            config = self.config_of(point)
            shards_of_rank(config.num_shards, point.ranks, 0)
        launcher_command(self.launcher, 1)

    @property
    def points(self) -> list[Point]:
        """In order of modes and ranks."""
        Config(**self.flags)
        return plan_points(self.mode, self.ranks, self.flags, self.shards_per_rank)

    def config_of(self, point: Point) -> Config:
        """What a point computes. ``InputError`` when that is impossible."""
        return Config(**self.flags_of(point))

    def flags_of(self, point: Point) -> dict[str, Any]:
        """The flags of training with which a point is started."""
        chosen = {
            "num_shards": point.num_shards,
            "microbatch_size": point.microbatch_size,
            "expect_ranks": point.ranks,
        }
        return {**self.flags, **chosen}


@dataclass(frozen=True)
class Request:
    """Settings, and where and how long: ``timeout`` is of one measurement, in seconds, 0
    for any.
    """

    settings: Settings
    output: str = ""
    timeout: float = 600.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.timeout) and self.timeout >= 0):
            raise InputError(
                f"--timeout is {self.timeout:g}: it must be a number of seconds, or 0 for no limit"
            )


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Request:
    """``InputError`` names what is wrong."""
    known, of_training = make_parser().parse_own(arguments)
    own = vars(known)
    given = {
        name: value for name, value in parse_request(of_training).given.items() if name != "output"
    }
    around = {name: own.pop(name) for name in ("output", "timeout") if name in own}
    if "output" in around and not around["output"]:
        raise InputError(f"{OUTPUT} is empty: name the sweep directory")
    ranks = parse_ranks(own.pop("ranks")) if "ranks" in own else default_ranks(environment)
    launcher = own.pop("launcher", None)
    return Request(
        Settings(ranks, default_launcher() if launcher is None else launcher, flags=given, **own),
        **around,
    )


def parse_ranks(text: str) -> tuple[int, ...]:
    """``"4,1,2"`` in ascending order, each once."""
    words = [each.strip() for each in text.split(",")]
    if not all(each.isascii() and each.isdigit() and int(each) for each in words):
        raise InputError(
            f"--ranks is {text!r}: it must be numbers of ranks, each at least 1, such as 1,2,4"
        )
    return tuple(sorted({int(each) for each in words}))


def default_ranks(environment: Mapping[str, str]) -> tuple[int, ...]:
    """1, 2, 4 ... up to the tasks of the Slurm allocation, else to the cores where this process may
    run.
    """
    tasks = environment.get("SLURM_NTASKS", "")
    most = int(tasks) if tasks.isdigit() and int(tasks) else len(usable_cores("").ids)
    return tuple(2**power for power in range(most.bit_length()))


def default_launcher() -> str:
    """The mpirun on the path, else the one beside this Python."""
    beside = Path(sys.executable).parent / "mpirun"
    mpirun = str(beside) if shutil.which("mpirun") is None and beside.exists() else "mpirun"
    return f"{shlex.quote(mpirun)} -n {RANKS}"


def launcher_command(launcher: str, ranks: int) -> list[str]:
    """The words that start ``ranks`` ranks of whatever follows.

    ``InputError`` when they are no such words.
    """
    try:
        words = shlex.split(launcher)
    except ValueError as error:
        raise InputError(
            f"--launcher is {launcher!r}, which no shell would take apart ({error}): close its"
            " quotes"
        ) from error
    if not any(RANKS in each for each in words):
        raise InputError(
            f"--launcher is {launcher!r}, without {RANKS}: write it where the number of ranks goes,"
            f" as in 'mpirun -n {RANKS}'"
        )
    return [each.replace(RANKS, str(ranks)) for each in words]


def require_launcher(launcher: str) -> None:
    """``InputError`` when there is no such program: every point would fail."""
    program = launcher_command(launcher, 1)[0]
    if shutil.which(program) is None:
        raise InputError(
            f"--launcher: there is no program {program!r} that can be run, so no point could be"
            " measured: load the MPI module or activate the environment that has it, or name"
            f" another one, such as --launcher 'mpirun -n {RANKS}'"
        )


def make_parser() -> Parser:
    """The command's own flags; what it does not know are flags of training."""
    parser = Parser(
        prog="python -m distcnn.scaling",
        description=(
            "Measure training steps on several numbers of ranks, each started by a launcher: images"
            " a second, efficiency, where the time goes, and whether all points ended with the same"
            " bits. Writes a table, JSON, CSV and a picture. Run the same command again with the"
            " same --output to go on with a sweep that was broken off or had points that failed."
            " docs/scaling.md says more."
        ),
        epilog=(
            "Besides these, every flag of training (python -m distcnn.train --help) that says what"
            " a step does, such as --model, --data, --microbatch-size, --reduction, --overlap or"
            " --config; --num-shards is the number of shards at every point of strong scaling, and"
            " at the smallest point of weak scaling."
        ),
        argument_default=argparse.SUPPRESS,
        elsewhere=CONFIG_FLAGS,
        instead={"resume": "to go on with a sweep, run the same command with the same --output"},
    )
    parser.add_argument(
        "--ranks",
        metavar="1,2,4",
        help="numbers of ranks (default 1,2,4 ... up to the allocation's tasks, or the cores)",
    )
    parser.add_argument(
        "--mode",
        metavar="|".join(MODES),
        help=(
            "strong: the same batch at every point; weak: the same batch on every rank; both"
            " (default strong)"
        ),
    )
    parser.add_argument(
        "--repeats",
        type=int,
        metavar="N",
        help="measurements of each point, by turns with the others' (default 3)",
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="timed steps of a measurement (default 30)"
    )
    parser.add_argument(
        "--shards-per-rank",
        type=int,
        metavar="N",
        help="of weak scaling (default: a batch of 256 on each rank)",
    )
    parser.add_argument(
        "--launcher",
        metavar="COMMAND",
        help=(
            f"what starts ranks, {RANKS} for how many: 'srun -n {RANKS}' (default 'mpirun -n"
            f" {RANKS}')"
        ),
    )
    parser.add_argument(OUTPUT, metavar="DIR", help="sweep directory (default runs/scaling-<time>)")
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="end a measurement that takes longer; 0: never (default 600)",
    )
    return parser

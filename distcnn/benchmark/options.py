"""What a command line of ``distcnn.benchmark`` asks for: its own flags, and those of training."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcnn.cli.parser import Parser
from distcnn.config import Config
from distcnn.config_parsing import CONFIG_FLAGS, parse_request
from distcnn.errors import InputError

PEERS = ("torch",)
BATCH = 256
"""The global batch, unless flags say otherwise."""
SHARDS = (2, 4, Config.num_shards)
"""Into how many shards it is cut: the first that gives all ranks as many, or the last.

The fewer, the faster: docs/speed.md.
"""


@dataclass(frozen=True)
class Request:
    """What to measure, and what to do with it; ``draw`` measures nothing."""

    config: Config
    steps: int = 30
    turns: int = 5
    json: str = ""
    picture: str = ""
    peer: str = ""
    draw: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for flag, value in (("--steps", self.steps), ("--turns", self.turns)):
            if value < 1:
                raise InputError(f"{flag} is {value}: it must be at least 1")
        if self.peer and self.peer not in PEERS:
            raise InputError(f"unknown --peer {self.peer!r}: choose {', '.join(PEERS)}")
        if self.draw and not self.picture:
            raise InputError(
                "--draw names measurements to draw: name the picture too, --picture FILE.png"
            )
        for flag, file in (("--json", self.json), ("--picture", self.picture)):
            if file and not Path(file).parent.is_dir():  # rather now than when all was measured
                raise InputError(
                    f"{flag}: there is no folder {Path(file).parent}: make it, or name another file"
                )


def parse(arguments: Sequence[str], world_size: int = 1) -> Request:
    """``InputError`` names what is wrong."""
    known, of_training = make_parser().parse_own(arguments)
    own = vars(known)
    given = parse_request(of_training).given
    config = Config(**(default_split(given, world_size) | given))
    return Request(config, **{**own, "draw": tuple(own.get("draw", ()))})


def default_split(given: Mapping[str, Any], world_size: int) -> dict[str, int]:
    """Shards and microbatch size, as far as they are not ``given``: a global batch of 256, cut so
    that all ranks have as many shards.
    """
    if "microbatch_size" in given:
        return {}
    num_shards = given.get(
        "num_shards", next((each for each in SHARDS if each % world_size == 0), SHARDS[-1])
    )
    return {"num_shards": num_shards, "microbatch_size": max(1, BATCH // max(1, num_shards))}


def make_parser() -> Parser:
    """The command's own flags; what it does not know are flags of training."""
    parser = Parser(
        prog="python -m distcnn.benchmark",
        description=(
            "Measure training steps on the ranks that a launcher started, such as mpirun -n 2, or"
            " in this one process: images a second, where the time of a step goes, what its matrix"
            " products alone would take, memory. Nothing is trained to an end and no run directory"
            " is written. docs/speed.md says what each line means."
        ),
        epilog=(
            "Besides these, every flag of training (python -m distcnn.train --help) that says what"
            " a step does, such as --model, --data, --num-shards, --optimizer, --reduction,"
            " --overlap or --config. Unless --microbatch-size is given, the global batch is"
            f" {BATCH}, in the first of {SHARDS[0]}, {SHARDS[1]} or {SHARDS[2]} shards that gives"
            f" all ranks as many; in {SHARDS[2]} if none does."
        ),
        argument_default=argparse.SUPPRESS,
        elsewhere=CONFIG_FLAGS,
    )
    parser.add_argument("--steps", type=int, metavar="N", help="timed steps a turn (default 30)")
    parser.add_argument(
        "--turns", type=int, metavar="N", help="turns, of which medians are taken (default 5)"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write all that was measured, every turn's too"
    )
    parser.add_argument(
        "--picture", metavar="FILE.png", help="draw where a step's time goes (needs matplotlib)"
    )
    parser.add_argument(
        "--peer",
        metavar="|".join(PEERS),
        help=(
            "by turns, the same network in PyTorch's DistributedDataParallel: as many processes,"
            " batch"
        ),
    )
    parser.add_argument(
        "--draw",
        nargs="+",
        metavar="FILE.json",
        help="measure nothing: draw what --json wrote into one --picture",
    )
    return parser

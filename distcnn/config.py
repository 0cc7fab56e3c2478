"""The configuration: one frozen dataclass, checked when it is made.

Flags, `--help` and the TOML file derive from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distcnn.cli.parser import Parser, meant
from distcnn.datasets.default import DEFAULT_PATH, SOURCE_VARIABLE
from distcnn.errors import InputError
from distcnn.models import MODELS
from distcnn.nn import LOSSES
from distcnn.optim import OPTIMIZERS, SCHEDULES
from distcnn.system.files import open_named
from distcnn.user_code import ACCEPT_FLAG, TRUST_FLAG, require_trust


def _flag(
    default: Any,
    help: str,
    unit: str = "",
    choices: Sequence[str] = (),
    fixed: bool = True,
    bare: Any = None,
) -> Any:
    """A field and its flag.

    ``fixed``: a resumed run must keep its value, for the bits hang on it. ``bare``: what it means
    without one.
    """
    return field(
        default=default,
        metadata={
            "help": help,
            "unit": unit,
            "choices": tuple(choices),
            "fixed": fixed,
            "bare": bare,
        },
    )


LARGEST_GRADIENT_LIMIT = 2.0**40
STEPS_TRACED = 100
"""What a bare --trace asks for: some megabytes."""


KINDS = {int: "an integer", float: "a number", str: 'a text in "quotes"'}


@dataclass(frozen=True)
class Config:
    """All that a run depends on. ``InputError`` when a value is impossible."""

    data: str = _flag(
        DEFAULT_PATH,
        "image set to train on (HDF5, data/README.md); the default is prepared when it is not"
        " there",
        "file",
        fixed=False,
    )
    source: str = _flag(
        "",
        "where to take MNIST from when it must be prepared: the four IDX files, gzipped or not;"
        f" else ${SOURCE_VARIABLE}, then mirrors",
        "folder",
        fixed=False,
    )
    data_memory: float = _flag(
        0.0,
        "read the set in windows of so much memory on each rank, shuffled within them"
        " (data/README.md); 0: all of it is kept in memory",
        "MiB",
    )
    model: str = _flag(
        "lenet", f"network: {', '.join(MODELS)}, or your own as package.module:function", "name"
    )
    loss: str = _flag("cross-entropy", "what is minimised", choices=tuple(LOSSES))
    epochs: int = _flag(3, "passes over the training set", "epochs", fixed=False)
    max_steps: int = _flag(
        0, "stop after so many steps, the schedule as without it; 0: no limit", "steps", fixed=False
    )
    target_accuracy: float = _flag(
        0.0,
        "stop at the first test whose accuracy reaches this (0.99 is 99 %); some defaults then"
        " differ; 0: no target",
        "fraction",
        fixed=False,
    )
    num_shards: int = _flag(
        8,
        "fixed slices of the training set, the most ranks there can be; they decide the bits, ranks"
        " do not",
        "shards",
    )
    microbatch_size: int = _flag(
        16,
        "examples of each shard in a step; the global batch is num-shards times this",
        "examples",
    )
    optimizer: str = _flag(
        "nesterov",
        "update rule: SGD with Nesterov's or classical momentum, Adam, AdamW",
        choices=tuple(OPTIMIZERS),
    )
    learning_rate: float = _flag(0.03, "peak learning rate, after the warm-up", "rate")
    momentum: float = _flag(0.9, "momentum of nesterov and sgd, from 0 to below 1", "factor")
    weight_decay: float = _flag(0.0, "L2 weight decay (adamw: decoupled)", "factor")
    schedule: str = _flag("cosine", "learning rate after the warm-up", choices=tuple(SCHEDULES))
    cycle_epochs: int = _flag(
        0,
        "lay warm-up and schedule out over so many epochs, then begin them again; 0: over all"
        " epochs",
        "epochs",
    )
    warmup_steps: int = _flag(100, "steps of linear warm-up, at most a quarter of the run", "steps")
    seed: int = _flag(0, "decides the first weights and every order of examples", "integer")
    output: str = _flag(
        "",
        "run directory, new or without a run in it; default runs/<model>-<time>",
        "folder",
        fixed=False,
    )
    eval_every: int = _flag(
        1, "test after every so many epochs; 0: at the end only", "epochs", fixed=False
    )
    log_every: int = _flag(50, "a line of metrics every so many steps", "steps", fixed=False)
    reduction: str = _flag(
        "exact",
        "sum of gradients: exact (same bits on any ranks) or fast (plain float32, other bits)",
        choices=("exact", "fast"),
    )
    gradient_limit: float = _flag(
        65536.0,
        "largest gradient of one shard that the exact sum takes, a power of two: larger is coarser",
        "magnitude",
    )
    checkpoint_every: int = _flag(
        500,
        "a checkpoint every so many steps, besides the one at each epoch's end; 0: those only",
        "steps",
        fixed=False,
    )
    keep: int = _flag(
        3,
        "keep so many of the last checkpoints, and the one with the best test accuracy",
        "checkpoints",
        fixed=False,
    )
    check_every: int = _flag(
        100,
        "compare the weights' hash over all ranks, and note it in the receipt, every so many steps",
        "steps",
        fixed=False,
    )
    overlap: str = _flag(
        "auto",
        "sum gradients while backward goes on, the same bits: auto is on between hosts, for the"
        " exact sum",
        choices=("auto", "on", "off"),
        fixed=False,
    )
    threads_per_rank: str = _flag(
        "1",
        "BLAS threads of each rank, which decide the bits; auto: the cores for each rank, as the"
        " run begins",
        "N|auto",
    )
    stall_timeout: float = _flag(
        300.0,
        "end all ranks, and name the late one, when nothing has moved for so long; 0: never",
        "seconds",
        fixed=False,
    )
    trace: int = _flag(
        0,
        "write a timeline of all ranks, with so many steps in full, for Perfetto (docs/trace.md);"
        f" no number: {STEPS_TRACED}; 0: none",
        "steps",
        fixed=False,
        bare=STEPS_TRACED,
    )
    trace_from: int = _flag(0, "the first step that is traced, from 0", "step", fixed=False)
    world_size: int = _flag(
        0, "refuse to run on another number of ranks; 0: any", "ranks", fixed=False
    )

    def __post_init__(self) -> None:
        for each in dataclasses.fields(
            self
        ):  # flags have their types; what comes from a file may not
            value, kind = (
                getattr(self, each.name),
                (numbers.Real if type(each.default) is float else type(each.default)),
            )
            if not isinstance(value, numbers.Integral if kind is int else kind) or isinstance(
                value, bool
            ):
                raise InputError(
                    f"{as_flag(each.name)} is {value!r}: it must be {KINDS[type(each.default)]}"
                )
            self._require(each.name, "\0" not in str(value), "without a null character")
        for name, choices in (
            (each.name, each.metadata["choices"]) for each in dataclasses.fields(self)
        ):
            if choices and getattr(self, name) not in choices:
                raise InputError(
                    f"unknown {as_flag(name)} {getattr(self, name)!r}: choose one of"
                    f" {', '.join(choices)}"
                )
        for name in ("epochs", "num_shards", "microbatch_size", "log_every", "keep", "check_every"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in (
            "max_steps",
            "cycle_epochs",
            "warmup_steps",
            "eval_every",
            "checkpoint_every",
            "trace",
            "trace_from",
            "world_size",
        ):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        threads = self.threads_per_rank
        self._require(
            "threads_per_rank",
            threads == "auto" or (threads.isdecimal() and int(threads) >= 1),
            "at least 1, or auto",
        )
        self._require("seed", 0 <= self.seed < 2**64, "0 to 2^64 - 1")
        self._require(
            "learning_rate",
            math.isfinite(self.learning_rate) and self.learning_rate > 0,
            "a number above 0",
        )
        self._require("momentum", 0 <= self.momentum < 1, "0 or more and below 1")
        self._require(
            "weight_decay",
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            "a number, 0 or more",
        )
        self._require(
            "stall_timeout",
            self.stall_timeout == 0 or 1 <= self.stall_timeout < 1e9,
            "at least 1 second, or 0 for never",
        )
        self._require("target_accuracy", 0 <= self.target_accuracy <= 1, "a fraction from 0 to 1")
        self._require(
            "data_memory", math.isfinite(self.data_memory) and self.data_memory >= 0, "0 or more"
        )
        counts_are_exact = self.reduction == "exact" or self.global_batch_size < 2**24
        self._require(
            "microbatch_size",
            counts_are_exact,
            "smaller: --reduction fast counts a global batch below 2^24 examples",
        )
        power_of_two = (
            math.isfinite(self.gradient_limit) and math.frexp(self.gradient_limit)[0] == 0.5
        )
        self._require(
            "gradient_limit",
            power_of_two and 1 <= self.gradient_limit <= LARGEST_GRADIENT_LIMIT,
            "a power of two from 1 to 2^40",
        )

    @property
    def global_batch_size(self) -> int:
        """Examples of one step, over all shards."""
        return self.num_shards * self.microbatch_size

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise InputError(f"{as_flag(name)} is {getattr(self, name)}: it must be {what}")


TARGET_DEFAULTS: dict[str, Any] = {
    "epochs": 6,
    "cycle_epochs": 1,
    "microbatch_size": 8,
    "learning_rate": 0.05,
    "schedule": "linear",
}
"""In the place of the fields' own where a new run has --target-accuracy: a whole schedule in each
epoch, so that the first may suffice.

``docs/target.md`` has what was measured.
"""


@dataclass(frozen=True)
class Request:
    """What a command line asks for: the configuration it ``given``s in part, and what to do with
    it.
    """

    given: dict[str, Any]
    resume: str = ""
    trust_model: bool = False
    accept_changed_model: bool = False
    debug: bool = False
    break_at_step: int | None = None
    shard: int | None = None
    allow_other_owner: bool = False

    @property
    def config(self) -> Config:
        """What was given, over the defaults."""
        return Config(
            **{**(TARGET_DEFAULTS if self.given.get("target_accuracy") else {}), **self.given}
        )


def parse_request(arguments: Sequence[str]) -> Request:
    """What flags and the file of ``--config`` ask for; flags win.

    ``InputError`` names what is wrong.
    """
    flags = vars(make_parser().parse_args(arguments))
    file = flags.pop("config", None)
    actions = {
        each.name: flags.pop(each.name)
        for each in dataclasses.fields(Request)
        if each.name in flags
    }
    read = read_toml(file) if file else {}
    request = Request({**read, **flags}, **actions)
    if "model" in read and "model" not in flags:
        require_trust(read["model"], f"--config: {file}", None, request.trust_model)
    if request.shard is not None and request.break_at_step is None:
        raise InputError(f"--shard {request.shard} says where to break: give --break-at-step too")
    for flag, value in (("--break-at-step", request.break_at_step), ("--shard", request.shard)):
        if value is not None and value < 0:
            raise InputError(f"{flag} is {value}: it must be 0 or more")
    if "resume" in actions and not request.resume:
        raise InputError("--resume is empty: name the run directory to continue")
    return request


def parse_config(arguments: Sequence[str]) -> Config:
    """The configuration from flags over ``--config FILE.toml`` over defaults.

    ``InputError`` names what is wrong.
    """
    return parse_request(arguments).config


def make_parser() -> argparse.ArgumentParser:
    """The command's flags, one for each field of ``Config``."""
    parser = Parser(
        prog="python -m distcnn.train",
        description=(
            "Train a CNN on the ranks that a launcher started, such as mpirun -n 4, or in this one"
            " process: the same bits."
        ),
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--config",
        metavar="FILE.toml",
        help="take flags from a TOML file (learning_rate = 0.1); flags given here win",
    )
    parser.add_argument(
        "--resume",
        metavar="RUN_DIR",
        help=(
            "continue the run in this directory, on any number of ranks: the same bits; its flags"
            " stay"
        ),
    )
    parser.add_argument(
        TRUST_FLAG,
        action="store_true",
        help="import the package.module:function that the run directory or the --config file names",
    )
    parser.add_argument(
        ACCEPT_FLAG,
        action="store_true",
        help="resume although the source of your own model was edited: other bits from there on",
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        help="one process: check the network's gradients first, then every layer's numbers",
    )
    parser.add_argument(
        "--break-at-step",
        type=int,
        metavar="N",
        help=(
            "one process: open the debugger in step N (from 0), write nothing; with --resume from"
            " the nearest checkpoint"
        ),
    )
    parser.add_argument(
        "--shard", type=int, metavar="K", help="at which shard of that step (default 0)"
    )
    parser.add_argument(
        "--allow-other-owner",
        action="store_true",
        help="write into a run directory that belongs to another user",
    )
    for each in dataclasses.fields(Config):
        unit, choices, bare = each.metadata["unit"], each.metadata["choices"], each.metadata["bare"]
        default = f" (default {each.default})" if each.default != "" else ""
        with_target = (
            f", {TARGET_DEFAULTS[each.name]} with --target-accuracy"
            if each.name in TARGET_DEFAULTS
            else ""
        )
        parser.add_argument(
            as_flag(each.name),
            type=type(each.default),
            metavar="|".join(choices) if choices else unit if "|" in unit else unit.upper(),
            help=(each.metadata["help"] + default + with_target).replace("%", "%%"),
            **({} if bare is None else {"nargs": "?", "const": bare}),
        )
    return parser


def read_toml(path: str | Path, errors: str = "strict") -> dict[str, Any]:
    """The flags in a TOML file, their names and types checked; ``errors`` says how bytes that are
    not UTF-8 are decoded.
    """
    import tomllib  # root's alone

    try:
        with open_named(path) as file:
            content = tomllib.loads(
                file.read().decode("utf-8-sig", errors)
            )  # editors on Windows write a byte order mark first
    except OSError as error:
        raise InputError(
            f"--config: {path} cannot be read ({error.strerror}): name a TOML file"
        ) from error
    except InputError as error:
        raise InputError(f"--config: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"--config: {path} is not UTF-8 text (byte {error.start}): save it in UTF-8, as TOML"
            " requires"
        ) from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # TOMLDecodeError is one; so is what Python says of a number of thousands of digits
        raise InputError(
            f"--config: {path} is not TOML ({error}): write lines such as learning_rate = 0.1"
        ) from error
    return dict(_checked(key, value, path) for key, value in content.items())


def _checked(written: str, value: Any, path: str | Path) -> tuple[str, Any]:
    key = written.replace("-", "_")
    types = {each.name: type(each.default) for each in dataclasses.fields(Config)}
    if key not in types:
        close = meant(written.lower().replace("_", "-"), [each.replace("_", "-") for each in types])
        guess = f"did you mean {close.replace('-', '_')!r}? " if close else ""
        raise InputError(
            f"--config: {path}: unknown key {written!r}: {guess}the keys are {', '.join(types)}"
        )
    if types[key] is float and type(value) is int and abs(value) < 1 << 1000:
        value = float(value)
    if key == "threads_per_rank" and type(value) is int:
        value = str(value)
    if type(value) is not types[key]:
        raise InputError(
            f"--config: {path}: {written} is {value!r}: it must be {KINDS[types[key]]}"
        )
    return key, value


def as_flag(name: str) -> str:
    """A field's name as people type it."""
    return "--" + name.replace("_", "-")


CONFIG_FLAGS = frozenset(
    {*(as_flag(each.name) for each in dataclasses.fields(Config)), "--config", TRUST_FLAG}
)
"""The flags that a configuration is made of: other commands take them too."""

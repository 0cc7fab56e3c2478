"""From a command line and a TOML file to a configuration."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcnn.cli.parser import Parser, meant
from distcnn.config import CHOICES, KINDS, RENAMED, Config, as_flag
from distcnn.datasets.dataset import SOURCE_VARIABLE
from distcnn.errors import InputError
from distcnn.models import MODELS
from distcnn.registry import OWN
from distcnn.system.files import open_named
from distcnn.user_code import TRUST_FLAG, own_code, require_trust

STEPS_TRACED = 100
"""Steps of a bare --trace, which take some megabytes."""
HELP = f"""
config FILE.toml: read flags from a TOML file; flags given here win

[data]: what to train on
data FILE: image set in HDF5 (data/README.md); the default, MNIST, is prepared if it is missing
source FOLDER: folder with the four MNIST files (IDX, gzipped or not) to prepare MNIST from;
    without it: ${SOURCE_VARIABLE}, then public mirrors
data_memory MIB: memory per rank for images; a larger set is read and shuffled in windows of this
    size (data/README.md); 0: keep everything in memory

[model]: what to train
model NAME: network: {", ".join(MODELS)}, or your own: package.module:function
loss: loss function

[optimisation]: how to train it
epochs EPOCHS: passes over the training set
microbatch_size EXAMPLES: examples per shard and step; the global batch is --num-shards times this
learning_rate RATE: peak learning rate, reached after the warm-up
optimizer: update rule (nesterov and sgd: SGD with Nesterov's or classical momentum)
momentum FACTOR: momentum of nesterov and sgd, in [0, 1)
weight_decay FACTOR: L2 weight decay (adamw: decoupled)
schedule: learning-rate schedule after the warm-up
warmup_steps STEPS: steps of linear warm-up, at most a quarter of the run
cycle_epochs EPOCHS: length of one learning-rate cycle, warm-up included (warm restarts);
    0: one cycle
seed INTEGER: seed of the initial weights and of the order of examples
max_steps STEPS: stop early after this many steps; the schedule is unchanged; 0: no limit
target_accuracy FRACTION: stop at the first test that reaches this accuracy (0.99 is 99 %);
    changes some defaults; 0: no target

[parallel]: how the ranks share the work
num_shards SHARDS: number of data shards, the upper limit for ranks; results depend on it, not on
    the number of ranks
threads_per_rank N|auto: BLAS threads per rank; results depend on it; auto: share the cores among
    the ranks
reduction: sum of the gradients: exact (same bits on any number of ranks) or fast (plain float32)
overlap: sum gradients during the backward pass (same bits); auto: on across hosts with the exact
    sum
expect_ranks RANKS: refuse to run on any other number of ranks; 0: any
stall_timeout SECONDS: abort with a report if no progress is made for this long; 0: never
gradient_limit MAGNITUDE: largest gradient of one shard that the exact sum accepts, a power of two;
    larger limits round more coarsely

[checkpoints]: what the run directory keeps
output FOLDER: run directory, new or empty; default runs/<model>-<time>
checkpoint_every STEPS: steps between checkpoints, in addition to one per epoch; 0: only per epoch
keep CHECKPOINTS: number of checkpoints to keep, in addition to the one with the best test accuracy
check_every STEPS: steps between comparisons of the weights' hash across ranks, recorded in the
    receipt

[logging]: what is measured and printed
log_every STEPS: steps between lines of metrics
eval_every_epochs EPOCHS: epochs between tests; 0: only at the end
trace STEPS: record a timeline of all ranks for Perfetto, with this many steps in detail
    (docs/trace.md); a bare --trace means {STEPS_TRACED}; 0: none
trace_from STEP: first step to trace, from 0

[resuming]: continue a run, on any number of ranks
resume RUN_DIR: continue the run in this directory, with its flags and to the same bits
trust_model: import the package.module:name that the run directory or --config file names
accept_changed_model: resume although the source of your own code has changed; results will differ
allow_other_owner: write into a run directory that belongs to another user

[debugging]: need a single process
debug: check the gradients, then check every layer's values for NaN and infinity
break_at_step N: open the debugger in step N (from 0) and write nothing; with --resume, start from
    the nearest checkpoint
shard K: shard of that step to stop at (default 0)
"""
"""Every flag: its field of ``Config`` or ``Request``, its placeholder, its help."""
TARGET_DEFAULTS: dict[str, Any] = {
    "epochs": 6,
    "cycle_epochs": 1,
    "microbatch_size": 8,
    "learning_rate": 0.05,
    "schedule": "linear",
}
"""Defaults with --target-accuracy: a whole schedule in each epoch (measured in docs/target.md)."""


@dataclass(frozen=True)
class Request:
    """What a command line asks for: the settings that were ``given``, and what to do with them."""

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
        """The given values over the defaults."""
        defaults = TARGET_DEFAULTS if self.given.get("target_accuracy") else {}
        return Config(**{**defaults, **self.given})


SETTINGS = {field.name: field.default for field in dataclasses.fields(Config)}
ACTIONS = {field.name: field.default for field in dataclasses.fields(Request)[1:]}
CONFIG_FLAGS = {
    **{as_flag(name): as_flag(RENAMED.get(name, name)) for name in [*SETTINGS, *RENAMED]},
    **{flag: flag for flag in ("--config", TRUST_FLAG)},
}
"""The flags that make up a configuration, and their present names. Other commands take them too."""


def parse_request(arguments: Sequence[str]) -> Request:
    """What the flags and the file of ``--config`` ask for; flags win.

    ``InputError`` names what is wrong.
    """
    flags = vars(make_parser().parse_args(arguments))
    file = flags.pop("config", None)
    actions = {name: flags.pop(name) for name in ACTIONS if name in flags}
    request = Request({**(read_toml(file) if file else {}), **flags}, **actions)
    require_trust(own_code(request.given), f"--config: {file}", flags, request.trust_model)
    if request.shard is not None and request.break_at_step is None:
        raise InputError(f"--shard {request.shard} needs a step to stop in: add --break-at-step N")
    for flag, value in (("--break-at-step", request.break_at_step), ("--shard", request.shard)):
        if value is not None and value < 0:
            raise InputError(f"{flag} is {value}: it must be 0 or more")
    if "resume" in actions and not request.resume:
        raise InputError("--resume is empty: name the run directory to continue")
    return request


def make_parser() -> argparse.ArgumentParser:
    """The command's flags, as ``HELP`` has them."""
    parser = Parser(
        prog="python -m distcnn.train",
        usage="python -m distcnn.train [flags]",
        description=(
            "Train a CNN, in this process or on the ranks that a launcher such as mpirun -n 4"
            " started. The result is the same, bit for bit."
        ),
        argument_default=argparse.SUPPRESS,
    )
    group: Any = parser
    for entry in HELP.replace("\n    ", " ").split("\n"):
        flag, _, text = entry.partition(": ")
        if flag.startswith("["):
            group = parser.add_argument_group(flag.strip("[]"), text)
        elif flag:
            name, _, placeholder = flag.partition(" ")
            _add_flag(group, name, placeholder, text.replace("%", "%%"))
    for old, new in RENAMED.items():
        parser.add_argument(
            as_flag(old), dest=new, type=type(SETTINGS[new]), help=argparse.SUPPRESS
        )
    return parser


def _add_flag(group: Any, name: str, placeholder: str, text: str) -> None:
    default = {"config": "", **SETTINGS, **ACTIONS}[name]
    if default is False:
        group.add_argument(as_flag(name), action="store_true", help=text)
        return
    if name in SETTINGS and default != "":
        text += f" (default {default})"
    if name in TARGET_DEFAULTS:
        text += f", {TARGET_DEFAULTS[name]} with --target-accuracy"
    choices = [*CHOICES.get(name, ()), *(["MODULE:NAME"] if name in OWN else [])]
    group.add_argument(
        as_flag(name),
        type=int if default is None else type(default),
        metavar=placeholder or "|".join(choices),
        help=text,
        **({"nargs": "?", "const": STEPS_TRACED} if name == "trace" else {}),
    )


def read_toml(path: str | Path, errors: str = "strict") -> dict[str, Any]:
    """The flags in a TOML file, checked by name and type. A table such as [data] may group them.

    ``errors`` says how bytes that are not UTF-8 are decoded. ``InputError`` names the file and what
    is wrong.
    """
    import tomllib  # needed on root only

    try:
        with open_named(path) as file:
            # Editors on Windows write a byte order mark first.
            content = tomllib.loads(file.read().decode("utf-8-sig", errors))
    except (OSError, ValueError, RecursionError) as error:
        match error:
            case OSError():
                problem = f"{path} cannot be read ({error.strerror}): name a TOML file"
            case InputError():
                problem = str(error)
            case UnicodeDecodeError():
                where = f"byte {error.start}"
                problem = f"{path} is not UTF-8 text ({where}): save it in UTF-8, as TOML requires"
            case _:  # TOMLDecodeError, or Python's error for a number of thousands of digits
                problem = f"{path} is not TOML ({error}): write lines such as learning_rate = 0.1"
        raise InputError(f"--config: {problem}") from error
    read: dict[str, Any] = {}
    for name, value in content.items():
        is_table = isinstance(value, dict) and f"\n[{name}]: " in HELP
        for written, setting in (value if is_table else {name: value}).items():
            key, checked = _checked(written, setting, path)
            if key in read:
                raise InputError(f"--config: {path}: {key} is given twice: keep one line")
            read[key] = checked
    return read


def _checked(written: str, value: Any, path: str | Path) -> tuple[str, Any]:
    key = written.replace("-", "_")
    key = RENAMED.get(key, key)
    if key not in SETTINGS:
        close = meant(
            written.lower().replace("_", "-"), [name.replace("_", "-") for name in SETTINGS]
        )
        guess = f"did you mean {close.replace('-', '_')!r}? " if close else ""
        raise InputError(
            f"--config: {path}: unknown key {written!r}: {guess}the keys are {', '.join(SETTINGS)}"
        )
    kind = type(SETTINGS[key])
    if kind is float and type(value) is int and abs(value) < 1 << 1000:
        value = float(value)
    if key == "threads_per_rank" and type(value) is int:
        value = str(value)
    if type(value) is not kind:
        raise InputError(f"--config: {path}: {written} is {value!r}: it must be {KINDS[kind]}")
    return key, value

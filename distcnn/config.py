"""The configuration of a run: one frozen dataclass, validated when it is made.

The flags of the commands, ``--help`` and the TOML file are derived from it
(``distcnn.config_parsing``), and every checkpoint stores it.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from distcnn.datasets.default import DEFAULT_PATH, SOURCE_VARIABLE
from distcnn.errors import InputError
from distcnn.models import MODELS
from distcnn.nn import LOSSES
from distcnn.optim import OPTIMIZERS, SCHEDULES
from distcnn.user_code import is_own, own_code

DATA, MODEL, OPTIMISATION = "data", "model", "optimisation"
PARALLEL, CHECKPOINTS, LOGGING = "parallel", "checkpoints", "logging"
GROUPS = {
    DATA: "what to train on",
    MODEL: "what to train",
    OPTIMISATION: "how to train it",
    PARALLEL: "how the ranks share the work",
    CHECKPOINTS: "what the run directory keeps",
    LOGGING: "what is measured and printed",
}
"""The groups of fields, in the order of ``--help``, each with its subtitle."""

RENAMED = {"world_size": "expect_ranks", "eval_every": "eval_every_epochs"}
"""Fields by their names before 0.3, as flags, in TOML files and in stored runs."""
LARGEST_GRADIENT_LIMIT = 2.0**40
STEPS_TRACED = 100
"""Steps of a bare --trace, which take some megabytes."""
KINDS = {int: "an integer", float: "a number", str: 'a text in "quotes"'}


def _flag(group: str, default: Any, help: str, unit: str = "", **more: Any) -> Any:
    """A field and its flag.

    Args:
        group: of ``GROUPS``.
        default: its value and, by its type, the field's.
        help: a line for ``--help``.
        unit: placeholder of the value in ``--help``.
        more: ``choices``, the names that are allowed (empty: any value); ``own``, what the user's
            own may be (function, class), as package.module:name (empty: none); ``bare``, the
            value of the flag when it is given without one.
    """
    usual = {"choices": (), "own": "", "bare": None, "fixed": True}
    metadata = {"group": group, "help": help, "unit": unit, **usual, **more}
    return field(default=default, metadata=metadata)


_free = partial(_flag, fixed=False)
"""A field that a resumed run may change, because the weights do not depend on it."""


@dataclass(frozen=True)
class Config:
    """The configuration of a run. Raises ``InputError`` when a value is impossible."""

    data: str = _free(
        DATA,
        DEFAULT_PATH,
        "image set in HDF5 (data/README.md); the default, MNIST, is prepared if it is missing",
        "file",
    )
    source: str = _free(
        DATA,
        "",
        "folder with the four MNIST files (IDX, gzipped or not) to prepare MNIST from; default:"
        f" without it: ${SOURCE_VARIABLE}, then public mirrors",
        "folder",
    )
    data_memory: float = _flag(
        DATA,
        0.0,
        "memory per rank for images; a larger set is read and shuffled in windows of this size"
        " (data/README.md); 0: keep everything in memory",
        "MiB",
    )
    model: str = _flag(
        MODEL,
        "lenet",
        f"network: {', '.join(MODELS)}, or your own: package.module:function",
        "name",
    )
    loss: str = _flag(
        MODEL, "cross-entropy", "loss function", choices=tuple(LOSSES), own="function"
    )
    epochs: int = _free(OPTIMISATION, 3, "passes over the training set", "epochs")
    microbatch_size: int = _flag(
        OPTIMISATION,
        16,
        "examples per shard and step; the global batch is --num-shards times this",
        "examples",
    )
    learning_rate: float = _flag(
        OPTIMISATION, 0.03, "peak learning rate, reached after the warm-up", "rate"
    )
    optimizer: str = _flag(
        OPTIMISATION,
        "nesterov",
        "update rule (nesterov and sgd: SGD with Nesterov's or classical momentum)",
        choices=tuple(OPTIMIZERS),
        own="class",
    )
    momentum: float = _flag(OPTIMISATION, 0.9, "momentum of nesterov and sgd, in [0, 1)", "factor")
    weight_decay: float = _flag(OPTIMISATION, 0.0, "L2 weight decay (adamw: decoupled)", "factor")
    schedule: str = _flag(
        OPTIMISATION,
        "cosine",
        "learning-rate schedule after the warm-up",
        choices=tuple(SCHEDULES),
        own="function",
    )
    warmup_steps: int = _flag(
        OPTIMISATION, 100, "steps of linear warm-up, at most a quarter of the run", "steps"
    )
    cycle_epochs: int = _flag(
        OPTIMISATION,
        0,
        "length of one learning-rate cycle, warm-up included (warm restarts); 0: one cycle",
        "epochs",
    )
    seed: int = _flag(
        OPTIMISATION, 0, "seed of the initial weights and of the order of examples", "integer"
    )
    max_steps: int = _free(
        OPTIMISATION,
        0,
        "stop early after this many steps; the schedule is unchanged; 0: no limit",
        "steps",
    )
    target_accuracy: float = _free(
        OPTIMISATION,
        0.0,
        "stop at the first test that reaches this accuracy (0.99 is 99 %); changes some defaults;"
        " 0: no target",
        "fraction",
    )
    num_shards: int = _flag(
        PARALLEL,
        8,
        "number of data shards, the upper limit for ranks; results depend on it, not on the number"
        " of ranks",
        "shards",
    )
    threads_per_rank: str = _flag(
        PARALLEL,
        "1",
        "BLAS threads per rank; results depend on it; auto: share the cores among the ranks",
        "N|auto",
    )
    reduction: str = _flag(
        PARALLEL,
        "exact",
        "sum of the gradients: exact (same bits on any number of ranks) or fast (plain float32)",
        choices=("exact", "fast"),
    )
    overlap: str = _free(
        PARALLEL,
        "auto",
        "sum gradients during the backward pass (same bits); auto: on across hosts with the exact"
        " sum",
        choices=("auto", "on", "off"),
    )
    expect_ranks: int = _free(
        PARALLEL, 0, "refuse to run on any other number of ranks; 0: any", "ranks"
    )
    stall_timeout: float = _free(
        PARALLEL,
        300.0,
        "abort with a report if no progress is made for this long; 0: never",
        "seconds",
    )
    gradient_limit: float = _flag(
        PARALLEL,
        65536.0,
        "largest gradient of one shard that the exact sum accepts, a power of two; larger limits"
        " round more coarsely",
        "magnitude",
    )
    output: str = _free(
        CHECKPOINTS, "", "run directory, new or empty; default runs/<model>-<time>", "folder"
    )
    checkpoint_every: int = _free(
        CHECKPOINTS,
        500,
        "steps between checkpoints, in addition to one per epoch; 0: only per epoch",
        "steps",
    )
    keep: int = _free(
        CHECKPOINTS,
        3,
        "number of checkpoints to keep, in addition to the one with the best test accuracy",
        "checkpoints",
    )
    check_every: int = _free(
        CHECKPOINTS,
        100,
        "steps between comparisons of the weights' hash across ranks, recorded in the receipt",
        "steps",
    )
    log_every: int = _free(LOGGING, 50, "steps between lines of metrics", "steps")
    eval_every_epochs: int = _free(LOGGING, 1, "epochs between tests; 0: only at the end", "epochs")
    trace: int = _free(
        LOGGING,
        0,
        "record a timeline of all ranks for Perfetto, with this many steps in detail"
        f" (docs/trace.md); a bare --trace means {STEPS_TRACED}; 0: none",
        "steps",
        bare=STEPS_TRACED,
    )
    trace_from: int = _free(LOGGING, 0, "first step to trace, from 0", "step")

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> Config:
        """The configuration recorded by a run, possibly with field names of an older version.

        Raises:
            InputError, TypeError: it is not one.
        """
        return cls(**{RENAMED.get(name, name): value for name, value in values.items()})

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            self._check_type(each)
            choices, own = each.metadata["choices"], each.metadata["own"]
            value = getattr(self, each.name)
            known = value in choices or (own and value.partition("(")[0] in choices)
            if choices and not known and not (own and is_own(value)):
                more = f", or your own as package.module:{own}" if own else ""
                raise InputError(
                    f"unknown {as_flag(each.name)} {value!r}: choose one of"
                    f" {', '.join(choices)}{more}"
                )
        for name in ("epochs", "num_shards", "microbatch_size", "log_every", "keep", "check_every"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        counts = ("max_steps", "cycle_epochs", "warmup_steps", "eval_every_epochs")
        for name in (*counts, "checkpoint_every", "trace", "trace_from", "expect_ranks"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("seed", 0 <= self.seed < 2**64, "0 to 2^64 - 1")
        self._check_numbers()
        threads = self.threads_per_rank
        is_number = threads.isdecimal() and int(threads) >= 1
        self._require("threads_per_rank", is_number or threads == "auto", "at least 1, or auto")
        self._require(
            "microbatch_size",
            self.reduction == "exact" or self.global_batch_size < 2**24,
            "smaller: --reduction fast supports global batches below 2^24 examples",
        )

    def _check_type(self, each: dataclasses.Field[Any]) -> None:
        """Check the type: flags are parsed by type, but values from a file are not."""
        value, wanted = getattr(self, each.name), type(each.default)
        kind = {float: numbers.Real, int: numbers.Integral}.get(wanted, wanted)
        if not isinstance(value, kind) or isinstance(value, bool):
            choices = each.metadata["choices"]
            what = f"one of {', '.join(choices)}" if choices else KINDS[wanted]
            raise InputError(f"{as_flag(each.name)} is {value!r}: it must be {what}")
        self._require(each.name, "\0" not in str(value), "without a null character")

    def _check_numbers(self) -> None:
        rate, decay, limit = self.learning_rate, self.weight_decay, self.gradient_limit
        memory, timeout = self.data_memory, self.stall_timeout
        self._require("learning_rate", math.isfinite(rate) and rate > 0, "a number above 0")
        self._require("momentum", 0 <= self.momentum < 1, "0 or more and below 1")
        self._require("weight_decay", math.isfinite(decay) and decay >= 0, "a number, 0 or more")
        is_timeout = timeout == 0 or 1 <= timeout < 1e9
        self._require("stall_timeout", is_timeout, "at least 1 second, or 0 for never")
        self._require("target_accuracy", 0 <= self.target_accuracy <= 1, "a fraction from 0 to 1")
        self._require("data_memory", math.isfinite(memory) and memory >= 0, "0 or more")
        power_of_two = math.isfinite(limit) and math.frexp(limit)[0] == 0.5
        in_range = 1 <= limit <= LARGEST_GRADIENT_LIMIT
        self._require("gradient_limit", power_of_two and in_range, "a power of two from 1 to 2^40")

    @property
    def own_code(self) -> dict[str, str]:
        """The user's own code by field, such as ``{"model": "my_nets:small"}``."""
        return own_code(vars(self))

    @property
    def global_batch_size(self) -> int:
        """Examples of one step, over all shards."""
        return self.num_shards * self.microbatch_size

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise InputError(f"{as_flag(name)} is {getattr(self, name)}: it must be {what}")


def as_flag(name: str) -> str:
    """A field's name as a flag."""
    return "--" + name.replace("_", "-")

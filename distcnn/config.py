"""The configuration of a run: one frozen dataclass, validated when it is made.

``distcnn.config_parsing`` explains its fields and reads them from flags and TOML files. Every
checkpoint stores it.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from distcnn.datasets.dataset import DEFAULT_PATH
from distcnn.errors import InputError
from distcnn.nn import LOSSES
from distcnn.optim import OPTIMIZERS, SCHEDULES
from distcnn.registry import OWN
from distcnn.user_code import is_own, own_code

CHOICES: dict[str, tuple[str, ...]] = {
    "loss": tuple(LOSSES),
    "optimizer": tuple(OPTIMIZERS),
    "schedule": tuple(SCHEDULES),
    "reduction": ("exact", "fast"),
    "overlap": ("auto", "on", "off"),
}
"""The names that a field accepts, besides the user's own where ``OWN`` has the field."""
RENAMED = {"world_size": "expect_ranks", "eval_every": "eval_every_epochs"}
"""Fields by their names before 0.3, as flags, in TOML files and in stored runs."""
LARGEST_GRADIENT_LIMIT = 2.0**40
KINDS = {int: "an integer", float: "a number", str: 'a text in "quotes"'}
LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "epochs num_shards microbatch_size keep check_every log_every": (lambda n: n > 0, "at least 1"),
    "max_steps cycle_epochs warmup_steps expect_ranks checkpoint_every eval_every_epochs trace"
    " trace_from": (lambda n: n >= 0, "0 or more"),
    "seed": (lambda n: 0 <= n < 2**64, "0 to 2^64 - 1"),
    "learning_rate": (lambda x: 0 < x < math.inf, "a number above 0"),
    "momentum": (lambda x: 0 <= x < 1, "0 or more and below 1"),
    "weight_decay": (lambda x: 0 <= x < math.inf, "a number, 0 or more"),
    "stall_timeout": (lambda x: x == 0 or 1 <= x < 1e9, "at least 1 second, or 0 for never"),
    "target_accuracy": (lambda x: 0 <= x <= 1, "a fraction from 0 to 1"),
    "data_memory": (lambda x: 0 <= x < math.inf, "0 or more"),
    "threads_per_rank": (
        lambda text: text == "auto" or (text.isdecimal() and int(text) >= 1),
        "at least 1, or auto",
    ),
    "gradient_limit": (
        lambda x: 1 <= x <= LARGEST_GRADIENT_LIMIT and math.frexp(x)[0] == 0.5,
        "a power of two from 1 to 2^40",
    ),
}
"""What the values of fields must be: a test and its text."""


def _free(default: Any) -> Any:
    """A field that a resumed run may change, because the weights do not depend on it."""
    return dataclasses.field(default=default, metadata={"free": True})


@dataclass(frozen=True)
class Config:
    """The configuration of a run. Raises ``InputError`` when a value is impossible."""

    data: str = _free(DEFAULT_PATH)
    source: str = _free("")
    data_memory: float = 0.0

    model: str = "lenet"
    loss: str = "cross-entropy"

    epochs: int = _free(3)
    microbatch_size: int = 16
    learning_rate: float = 0.03
    optimizer: str = "nesterov"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup_steps: int = 100
    cycle_epochs: int = 0
    seed: int = 0
    max_steps: int = _free(0)
    target_accuracy: float = _free(0.0)

    num_shards: int = 8
    threads_per_rank: str = "1"
    reduction: str = "exact"
    overlap: str = _free("auto")
    expect_ranks: int = _free(0)
    stall_timeout: float = _free(300.0)
    gradient_limit: float = 65536.0

    output: str = _free("")
    checkpoint_every: int = _free(500)
    keep: int = _free(3)
    check_every: int = _free(100)

    log_every: int = _free(50)
    eval_every_epochs: int = _free(1)
    trace: int = _free(0)
    trace_from: int = _free(0)

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> Config:
        """What a run, perhaps of an older version, recorded; ``TypeError`` if it is not one."""
        return cls(**{RENAMED.get(name, name): value for name, value in values.items()})

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check_type(field.name, type(field.default))
        for name, choices in CHOICES.items():
            value, own = getattr(self, name), OWN.get(name)
            known = value in choices or (own and value.partition("(")[0] in choices)
            if not known and not (own and is_own(value)):
                more = f", or your own as package.module:{own}" if own else ""
                raise InputError(
                    f"unknown {as_flag(name)} {value!r}: choose one of {', '.join(choices)}{more}"
                )
        for names, (holds, what) in LIMITS.items():
            for name in names.split():
                self._require(name, holds(getattr(self, name)), what)
        self._require(
            "microbatch_size",
            self.reduction == "exact" or self.global_batch_size < 2**24,
            "smaller: --reduction fast supports global batches below 2^24 examples",
        )

    def _check_type(self, name: str, wanted: type) -> None:
        """Check a value of a file or a caller; make NumPy's numbers Python's."""
        value = getattr(self, name)
        kind = {float: numbers.Real, int: numbers.Integral}.get(wanted, wanted)
        if not isinstance(value, kind) or isinstance(value, bool):
            what = f"one of {', '.join(CHOICES[name])}" if name in CHOICES else KINDS[wanted]
            raise InputError(f"{as_flag(name)} is {value!r}: it must be {what}")
        self._require(name, "\0" not in str(value), "without a null character")
        with suppress(OverflowError):
            object.__setattr__(self, name, wanted(value))

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise InputError(f"{as_flag(name)} is {getattr(self, name)}: it must be {what}")

    @property
    def own_code(self) -> dict[str, str]:
        """The user's own code by field, such as ``{"model": "my_nets:small"}``."""
        return own_code(vars(self))

    @property
    def global_batch_size(self) -> int:
        """Examples of one step, over all shards."""
        return self.num_shards * self.microbatch_size


def as_flag(name: str) -> str:
    """A field's name as a flag."""
    return "--" + name.replace("_", "-")


FREE = {field.name for field in dataclasses.fields(Config) if field.metadata}

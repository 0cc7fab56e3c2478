"""The configuration of a run: one frozen dataclass, validated when it is made.

Beside each field stands what ``distcnn.config_parsing`` makes flags and TOML keys of. Every
checkpoint stores the configuration.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from distcnn.datasets.dataset import DEFAULT_PATH, SOURCE_VARIABLE
from distcnn.datasets.normalisation import is_normalisation
from distcnn.distributed import SUMS
from distcnn.errors import InputError
from distcnn.models import MODELS
from distcnn.nn import ARITHMETICS, LOSSES, NATIVE, PORTABLE
from distcnn.optim import OPTIMIZERS, SCHEDULES
from distcnn.registry import OWN
from distcnn.user_code import is_own, own_code

RENAMED = {"world_size": "expect_ranks", "eval_every": "eval_every_epochs"}
"""Fields by their names before 0.3, as flags, in TOML files and in stored runs."""
LARGEST_GRADIENT_LIMIT = 2.0**40
STEPS_TRACED = 100
"""Steps of a bare --trace, which take some megabytes."""
KINDS = {int: "an integer", float: "a number", str: 'a text in "quotes"', bool: "true or false"}


@dataclass(frozen=True)
class Values:
    """What a field accepts: the placeholder for it in ``--help``, a test and its text for errors.

    ``choices`` are names; the user's own code may take their place where ``OWN`` has the field.
    """

    placeholder: str = ""
    holds: Callable[[Any], bool] = lambda value: True
    text: str = ""
    choices: tuple[str, ...] = ()


def at_least(least: int, placeholder: str) -> Values:
    text = f"at least {least}" if least else "0 or more"
    return Values(placeholder, lambda x: least <= x < math.inf, text)


def one_of(*names: str) -> Values:
    return Values(choices=names)


SEEDS = Values("INTEGER", lambda n: 0 <= n < 2**64, "0 to 2^64 - 1")
RATES = Values("RATE", lambda x: 0 < x < math.inf, "a number above 0")
MOMENTA = Values("FACTOR", lambda x: 0 <= x < 1, "0 or more and below 1")
FRACTIONS = Values("FRACTION", lambda x: 0 <= x <= 1, "a fraction from 0 to 1")
HOLD_OUTS = Values(
    "FRACTION|N",
    lambda x: 0 <= x < 1 or (2 <= x < 2**53 and x == int(x)),  # 1 is a fraction mistaken
    "a fraction below 1, or a whole number of at least 2 examples",
)
TIMEOUTS = Values("SECONDS", lambda x: x == 0 or 1 <= x < 1e9, "at least 1 second, or 0 for never")
THREADS = Values(
    "N|auto",
    lambda text: text in ("", "auto") or (text.isdecimal() and int(text) >= 1),
    "at least 1, or auto",
)
NORMALISATIONS = Values(
    "data|weights|MEAN/STD",
    is_normalisation,
    "data, weights, or MEAN/STD of pixels / 255, such as 0.1307/0.3081 (of colours: a,b,c/d,e,f)",
)
GRADIENT_LIMITS = Values(
    "MAGNITUDE",
    lambda x: 1 <= x <= LARGEST_GRADIENT_LIMIT and math.frexp(x)[0] == 0.5,
    "a power of two from 1 to 2^40",
)


@dataclass(frozen=True)
class Group:
    """Fields under one heading of ``--help``, and in one optional table of a TOML file."""

    name: str
    description: str
    free: bool = False
    """Whether a resumed run may change the fields, because the weights do not depend on them."""

    def field(
        self, default: Any, help: str, values: Values | str = "", *, free: bool = False
    ) -> Any:
        """A field of a dataclass, with the metadata that its flag and its checks are made of.

        ``help`` says what a value means, with its unit. ``values`` may be just a placeholder, if
        all values of the default's type are accepted. ``free`` is as for the group.
        """
        accepted = Values(values) if isinstance(values, str) else values
        metadata = {"group": self, "help": help, "values": accepted, "free": free or self.free}
        return dataclasses.field(default=default, metadata=metadata)


DATA = Group("data", "what to train on")
MODEL = Group("model", "what to train")
FINE_TUNING = Group("fine-tuning", "start from weights that exist already")
OPTIM = Group("optimisation", "how to train it")
PARALLEL = Group("parallel", "how the ranks share the work")
CHECKPOINTS = Group("checkpoints", "what the run directory keeps", free=True)
LOGGING = Group("logging", "what is measured and printed", free=True)


@dataclass(frozen=True)
class Config:
    """The configuration of a run. Raises ``InputError`` when a value is impossible."""

    data: str = DATA.field(
        DEFAULT_PATH,
        "image set in HDF5 (docs/data_format.md); the default, MNIST, is prepared if it is missing",
        "FILE",
        free=True,
    )
    source: str = DATA.field(
        "",
        "folder with the four MNIST files (IDX, gzipped or not) to prepare MNIST from;"
        f" without it: ${SOURCE_VARIABLE}, then public mirrors",
        "FOLDER",
        free=True,
    )
    data_memory: float = DATA.field(
        0.0,
        "memory per rank for images; a larger set is read and shuffled in windows of this size"
        " (docs/data_format.md); 0: keep everything in memory",
        at_least(0, "MIB"),
    )

    validation: float = DATA.field(
        0.0,
        "hold out this part of the training set, a fraction below 1 or a number of examples: it"
        " chooses the best weights instead of the test set; 0: none",
        HOLD_OUTS,
    )

    model: str = MODEL.field(
        "lenet", f"network: {', '.join(MODELS)}, or your own: package.module:function", "NAME"
    )
    loss: str = MODEL.field("cross-entropy", "loss function", one_of(*LOSSES))

    initial_weights: str = FINE_TUNING.field(
        "",
        "start from the weights of a run directory or of a file: .h5 (distcnn, Keras),"
        " .keras, .safetensors, .npz, .onnx, or .pt and .pth (a PyTorch state dict)",
        "FILE",
    )
    map: str = FINE_TUNING.field(
        "",
        "which of them to load, by parameters or layers: conv1=features.0,dense1=fc1; conv* means"
        " those of the same names; the rest is newly initialised; default: all, by name or order",
        "OURS=THEIRS,...",
    )
    normalisation: str = FINE_TUNING.field(
        "data",
        "mean and standard deviation of the inputs: those of the image set, those recorded with"
        " --initial-weights, or numbers (for pixels / 255)",
        NORMALISATIONS,
    )
    freeze: str = FINE_TUNING.field(
        "",
        "do not train these parameters or layers, such as conv1,dense1.bias or 'conv*'; may be"
        " repeated",
        "PATTERN,...",
    )

    epochs: int = OPTIM.field(3, "passes over the training set", at_least(1, "EPOCHS"), free=True)
    microbatch_size: int = OPTIM.field(
        16,
        "examples per shard and step; the global batch is --num-shards times this",
        at_least(1, "EXAMPLES"),
    )
    learning_rate: float = OPTIM.field(0.03, "peak learning rate, reached after the warm-up", RATES)
    optimizer: str = OPTIM.field(
        "nesterov",
        "update rule (nesterov and sgd: SGD with Nesterov's or classical momentum)",
        one_of(*OPTIMIZERS),
    )
    momentum: float = OPTIM.field(0.9, "momentum of nesterov and sgd, in [0, 1)", MOMENTA)
    weight_decay: float = OPTIM.field(
        0.0, "L2 weight decay (adamw: decoupled)", at_least(0, "FACTOR")
    )
    schedule: str = OPTIM.field(
        "cosine", "learning-rate schedule after the warm-up", one_of(*SCHEDULES)
    )
    warmup_steps: int = OPTIM.field(
        100, "steps of linear warm-up, at most a quarter of the run", at_least(0, "STEPS")
    )
    cycle_epochs: int = OPTIM.field(
        0,
        "length of one learning-rate cycle, warm-up included (warm restarts); 0: one cycle",
        at_least(0, "EPOCHS"),
    )
    seed: int = OPTIM.field(0, "seed of the initial weights and of the order of examples", SEEDS)
    max_steps: int = OPTIM.field(
        0,
        "stop early after this many steps; the schedule is unchanged; 0: no limit",
        at_least(0, "STEPS"),
        free=True,
    )
    target_accuracy: float = OPTIM.field(
        0.0,
        "stop at the first evaluation that reaches this accuracy (0.99 is 99 %), on the validation"
        " set, or without --validation on the test set; changes some defaults; 0: no target",
        FRACTIONS,
        free=True,
    )
    patience: int = OPTIM.field(
        0,
        "stop after this many evaluations without a better accuracy, on the validation set, or"
        " without --validation on the test set; 0: never",
        at_least(0, "EVALUATIONS"),
        free=True,
    )

    arithmetic: str = PARALLEL.field(
        NATIVE,
        "native (fastest; bits depend on processor, BLAS and NumPy) or portable (the same bits on"
        " every machine, with any number of BLAS threads)",
        one_of(*ARITHMETICS),
    )
    num_shards: int = PARALLEL.field(
        8,
        "number of data shards, the upper limit for ranks; results depend on it, not on the number"
        " of ranks",
        at_least(1, "SHARDS"),
    )
    threads_per_rank: str = PARALLEL.field(
        "",
        "threads per rank; auto: share the cores among the ranks. Native arithmetic: of BLAS, and"
        " results depend on them (default 1). Portable arithmetic: number of shards a rank"
        " computes at a time (default auto)",
        THREADS,
    )
    reduction: str = PARALLEL.field(
        "exact",
        "sum of the gradients: exact (same bits on any number of ranks) or fast (plain float32)",
        one_of(*SUMS),
    )
    overlap: str = PARALLEL.field(
        "auto",
        "sum gradients during the backward pass (same bits); auto: on across hosts with the exact"
        " sum",
        one_of("auto", "on", "off"),
        free=True,
    )
    expect_ranks: int = PARALLEL.field(
        0, "refuse to run on any other number of ranks; 0: any", at_least(0, "RANKS"), free=True
    )
    stall_timeout: float = PARALLEL.field(
        300.0,
        "abort with a report if no progress is made for this long; 0: never",
        TIMEOUTS,
        free=True,
    )
    gradient_limit: float = PARALLEL.field(
        65536.0,
        "largest gradient of one shard that the exact sum accepts, a power of two; larger limits"
        " round more coarsely",
        GRADIENT_LIMITS,
    )

    spot_check: float = PARALLEL.field(
        0.0,
        "let another rank, on another host if there is one, repeat this part of all shards to find"
        " faulty hardware (docs/spot_checks.md); one process repeats its own, which finds only"
        " faults that come and go; costs one to two times this part of the time; 0: none",
        FRACTIONS,
        free=True,
    )

    output: str = CHECKPOINTS.field(
        "", "run directory, new or without a run; default runs/<model>-<time>", "FOLDER"
    )
    checkpoint_every: int = CHECKPOINTS.field(
        500,
        "steps between checkpoints, in addition to one per epoch; 0: only per epoch",
        at_least(0, "STEPS"),
    )
    keep: int = CHECKPOINTS.field(
        3,
        "number of checkpoints to keep, in addition to the one with the best accuracy on the"
        " validation set, or without --validation on the test set",
        at_least(1, "CHECKPOINTS"),
    )
    check_every: int = CHECKPOINTS.field(
        100,
        "steps between comparisons of the weights' hash across ranks, recorded in the receipt",
        at_least(1, "STEPS"),
    )

    log_every: int = LOGGING.field(50, "steps between lines of metrics", at_least(1, "STEPS"))
    eval_every_epochs: int = LOGGING.field(
        1,
        "epochs between evaluations on the validation set, or without --validation on the test set;"
        " 0: only at the end",
        at_least(0, "EPOCHS"),
    )
    trace: int = LOGGING.field(
        0,
        "record a timeline of all ranks for Perfetto, with this many steps in detail"
        f" (docs/trace.md); a bare --trace means {STEPS_TRACED}; 0: none",
        at_least(0, "STEPS"),
    )
    trace_from: int = LOGGING.field(0, "first step to trace, from 0", at_least(0, "STEP"))

    tensorboard: bool = LOGGING.field(
        False, "write the metrics for TensorBoard into the run directory, too"
    )

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> Config:
        """What a run, perhaps of an older version, recorded; ``TypeError`` if it is not one."""
        return cls(**{RENAMED.get(name, name): value for name, value in values.items()})

    def __post_init__(self) -> None:
        fields = dataclasses.fields(self)
        for field in fields:
            self._check_type(field.name, type(field.default), field.metadata["values"].choices)
        for field in fields:
            values = field.metadata["values"]
            self._check_choice(field.name, values.choices)
            self._require(field.name, values.holds(getattr(self, field.name)), values.text)
        self._require(
            "microbatch_size",
            self.reduction != "fast" or self.global_batch_size < 2**24,
            "smaller: --reduction fast supports global batches below 2^24 examples",
        )
        self._require(
            "reduction",
            self.reduction == "exact" or self.arithmetic == NATIVE,
            "exact, as --arithmetic portable keeps the bits on any number of ranks",
        )
        if not self.threads_per_rank:
            object.__setattr__(self, "threads_per_rank", "auto" if self.is_portable else "1")
        for name in ("map", "normalisation"):
            needs = name == "map" or self.normalisation == "weights"
            if needs and getattr(self, name) and not self.initial_weights:
                raise InputError(
                    f"{as_flag(name)} is {getattr(self, name)}, but there are no initial weights:"
                    " add --initial-weights FILE"
                )

    def _check_type(self, name: str, wanted: type, choices: tuple[str, ...]) -> None:
        """Check a value of a file or a caller; make NumPy's numbers Python's."""
        value = getattr(self, name)
        kind = {float: numbers.Real, int: numbers.Integral}.get(wanted, wanted)
        if not isinstance(value, kind) or isinstance(value, bool) != (wanted is bool):
            what = f"one of {', '.join(choices)}" if choices else KINDS[wanted]
            raise InputError(f"{as_flag(name)} is {value!r}: it must be {what}")
        self._require(name, "\0" not in str(value), "without a null character")
        with suppress(OverflowError):
            object.__setattr__(self, name, wanted(value))

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        value, own = getattr(self, name), OWN.get(name)
        known = value in choices or (own and value.partition("(")[0] in choices)
        if choices and not known and not (own and is_own(value)):
            more = f", or your own as package.module:{own}" if own else ""
            raise InputError(
                f"unknown {as_flag(name)} {value!r}: choose one of {', '.join(choices)}{more}"
            )

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise InputError(f"{as_flag(name)} is {getattr(self, name)}: it must be {what}")

    @property
    def is_portable(self) -> bool:
        """Whether bits are the same on every machine."""
        return self.arithmetic == PORTABLE

    @property
    def free(self) -> set[str]:
        """The fields that a resumed run may change."""
        return FREE | {"threads_per_rank"} if self.is_portable else FREE

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


FREE = {field.name for field in dataclasses.fields(Config) if field.metadata["free"]}
"""Fields that any resumed run may change."""
OF_THE_MACHINE = {
    *("data", "source", "output", "expect_ranks", "stall_timeout", "threads_per_rank", "overlap"),
    *("checkpoint_every", "keep", "trace", "trace_from", "tensorboard", "spot_check"),
}
"""Fields on which neither the bits of a portable run nor the lines of its receipt depend."""

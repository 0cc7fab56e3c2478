"""Command lines: a mistake is an ``InputError`` of one line that suggests the right flag."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from distcnn.errors import InputError
from distcnn.user_code import TRUST_FLAG, TRUST_HELP

ALIASES = {
    alias: flag
    for flag, aliases in {
        "learning-rate": "lr rate max-lr peak-lr",
        "microbatch-size": "batch-size batch bs b micro-batch-size train-batch-size",
        "epochs": "e n-epochs num-epochs max-epochs num-train-epochs",
        "max-steps": "steps max-iters iterations iters num-steps",
        "weight-decay": "wd l2",
        "optimizer": "opt optim",
        "model": "arch network net architecture",
        "data": "dataset data-dir data-path data-root input",
        "output": "o out out-dir output-dir save-dir log-dir logdir run-dir",
        "warmup-steps": "warmup warmup-iters",
        "schedule": "scheduler lr-scheduler lr-schedule lr-policy",
        "seed": "random-seed manual-seed",
        "resume": "checkpoint ckpt load resume-from resume-from-checkpoint restart continue",
        "checkpoint-every": "save-every save-steps save-interval checkpoint-interval save-freq",
        "log-every": "log-interval log-steps print-freq logging-steps",
        "eval-every-epochs": "eval-interval eval-steps test-every",
        "threads-per-rank": "threads num-threads n-threads nthreads",
        "num-shards": "shards",
        "loss": "criterion loss-fn",
        "target-accuracy": "target-acc target",
        "keep": "keep-last max-checkpoints save-total-limit",
        "stall-timeout": "timeout",
        "data-memory": "memory max-memory",
        "quiet": "q silent",
        "verbose": "v",
        "initial-weights": (
            "weights pretrained init-from finetune finetune-from init-weights load-weights"
        ),
        "normalisation": "normalization normalize normalise",
        "freeze": "freeze-layers frozen",
        "validation": "val validation-split val-split validation-fraction val-fraction val-size",
        "patience": "early-stopping early-stopping-patience early-stop",
    }.items()
    for alias in aliases.split()
}
"""Our flags by their names in other training programs, without dashes."""

ADVICE = {
    flag: advice
    for advice, flags in {
        "ranks are started by a launcher, as in mpirun -n 4 python -m distcnn.train": (
            "n np ranks nproc processes num-processes nproc-per-node world workers num-workers gpus"
            " nodes"
        ),
        "distcnn runs on CPUs only and has no choice of device": "device gpu cuda no-cuda cpu",
    }.items()
    for flag in flags.split()
}
"""Advice for flags that have no counterpart."""
RUN_FIRST = dict.fromkeys(
    ("run", "run-dir", "model", "checkpoint"), "name the run directory first, without a flag"
)
"""``instead`` for commands that take a finished run."""


class Parser(argparse.ArgumentParser):
    """argparse's parser, without abbreviations; mistakes raise ``InputError``.

    ``elsewhere`` holds the flags that another parser takes from what this one leaves, with the
    names to suggest; ``instead`` what to use for flags that do not exist here, without dashes.
    """

    def __init__(
        self,
        *,
        elsewhere: Mapping[str, str] = MappingProxyType({}),
        instead: Mapping[str, str] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        super().__init__(allow_abbrev=False, **options)
        self._elsewhere, self._instead = elsewhere, instead

    def add_network(self) -> None:
        """``RUN_DIR``, --weights and --trust-model, which say what network to load."""
        run = "run directory of distcnn.train, or a weights.h5 in one"
        weights = "weights of the last step, or of the best accuracy (default: last)"
        self.add_argument("run", metavar="RUN_DIR", help=run)
        self.add_argument("--weights", choices=("last", "best"), default="last", help=weights)
        self.add_argument(TRUST_FLAG, action="store_true", help=TRUST_HELP)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown)
        return known

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        words = sys.argv[1:] if args is None else list(args)
        for before, word in zip(["", *words], words, strict=False):
            flag, equals, value = word.partition("=")
            is_empty_value = flag.startswith("--") and equals and not value
            if is_empty_value or not word:  # a path "" would be the current folder
                empty = next((each for each in (flag, before) if each.startswith("-")), "a name")
                self.error(f"{empty} is empty: give a value, or leave it out")
        return super().parse_known_args(words, namespace)

    def parse_own(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """This parser's flags, and the arguments left for the other parser."""
        known, others = self.parse_known_args(arguments)
        flags = (word for word in others if word.startswith("--"))
        strange = [flag for flag in flags if flag.partition("=")[0] not in self._elsewhere]
        if strange:
            self._refuse(strange)
        return known, others

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")

    def _refuse(self, unknown: Sequence[str]) -> NoReturn:
        flags = (word for word in unknown if len(word) > 1 and word.startswith("-"))
        flag = next(flags, "").partition("=")[0]
        if not flag:
            self.error(f"unexpected argument {unknown[0]!r}")
        visible = [
            name
            for name, action in self._option_string_actions.items()
            if action.help != argparse.SUPPRESS
        ]
        known = [*visible, *self._elsewhere.values()]
        self.error(f"unknown flag {flag}{advice(flag, known, self._instead)}")


def advice(
    flag: str, flags: Iterable[str], instead: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Suggest one of ``flags`` for an unknown one, or say what to use instead; empty if neither."""
    name = flag.lstrip("-").lower().replace("_", "-")
    found = meant(name, [known[2:] for known in flags if known.startswith("--")])
    if found != name and name in (known := {**ADVICE, **instead}):
        return f": {known[name]}"
    more = ""
    if found == "microbatch-size":
        more = " (per shard and step; the global batch is --num-shards times it)"
    return f": did you mean --{found}?{more}" if found else ""


def meant(name: str, names: Sequence[str]) -> str | None:
    """The one of ``names``, without leading dashes, that is most similar; None if none is."""
    import difflib  # only rank 0 needs it

    if name in names:
        return name
    if ALIASES.get(name) in names:
        return ALIASES[name]
    if close := difflib.get_close_matches(name, names, n=1):
        return close[0]
    begun = [known for known in names if known.startswith(name)]
    return begun[0] if len(begun) == 1 else None


# -- whether all ranks were started with the same command line: only rank 0's would count

COMMAND = "the command"
ADD_UP = {"--freeze", "--interconnect", "--network"}
"""Flags whose values are all used when they are repeated."""


def flags_of(command: str, arguments: Sequence[str]) -> dict[str, str]:
    """Split a command line into the command, each flag with its values, and other arguments.

    If a flag is repeated, the last value wins, unless they add up; ``--flag value`` and
    ``--flag=value`` are the same.
    """
    found, flag = {COMMAND: command}, "arguments"
    for word in arguments:
        if word.startswith("--"):
            flag, _, value = word.partition("=")
            before = f"{found[flag]} and" if flag in ADD_UP and flag in found else ""
            found[flag] = f"{before} {value}".strip()
        else:
            found[flag] = f"{found.get(flag, '')} {word}".strip()
    return found


def difference(everyone: Sequence[Mapping[str, str]]) -> str | None:
    """How the first ``flags_of`` that differs from those of rank 0 does so; None if all agree."""

    def shown(flags: Mapping[str, str], name: str) -> str:
        if name not in flags:
            return f"no {name}"
        return f"{name} {flags[name]!r}" if flags[name] else name

    first = everyone[0]
    for rank, flags in enumerate(everyone):
        names = [name for name in {**first, **flags} if first.get(name) != flags.get(name)]
        names = [COMMAND] if COMMAND in names else names
        if names:
            own, other = (", ".join(shown(of, name) for name in names) for of in (flags, first))
            return f"rank {rank} was started with {own}, but rank 0 with {other}"
    return None

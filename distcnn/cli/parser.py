"""Command lines: a mistake is an ``InputError`` of one line, with a guess at what was meant."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from distcnn.errors import InputError

ALIASES = {
    **dict.fromkeys(("lr", "rate", "max-lr", "peak-lr"), "learning-rate"),
    **dict.fromkeys(
        ("batch-size", "batch", "bs", "b", "micro-batch-size", "train-batch-size"),
        "microbatch-size",
    ),
    **dict.fromkeys(("e", "n-epochs", "num-epochs", "max-epochs", "num-train-epochs"), "epochs"),
    **dict.fromkeys(("steps", "max-iters", "iterations", "iters", "num-steps"), "max-steps"),
    **dict.fromkeys(("wd", "l2"), "weight-decay"),
    **dict.fromkeys(("opt", "optim"), "optimizer"),
    **dict.fromkeys(("arch", "network", "net", "architecture"), "model"),
    **dict.fromkeys(("dataset", "data-dir", "data-path", "data-root", "input"), "data"),
    **dict.fromkeys(
        ("o", "out", "out-dir", "output-dir", "save-dir", "log-dir", "logdir", "run-dir"), "output"
    ),
    **dict.fromkeys(("warmup", "warmup-iters"), "warmup-steps"),
    **dict.fromkeys(("scheduler", "lr-scheduler", "lr-schedule", "lr-policy"), "schedule"),
    **dict.fromkeys(("random-seed", "manual-seed"), "seed"),
    **dict.fromkeys(
        (
            "checkpoint",
            "ckpt",
            "load",
            "resume-from",
            "resume-from-checkpoint",
            "restart",
            "continue",
        ),
        "resume",
    ),
    **dict.fromkeys(
        ("save-every", "save-steps", "save-interval", "checkpoint-interval", "save-freq"),
        "checkpoint-every",
    ),
    **dict.fromkeys(("log-interval", "log-steps", "print-freq", "logging-steps"), "log-every"),
    **dict.fromkeys(("eval-interval", "eval-steps", "test-every"), "eval-every-epochs"),
    **dict.fromkeys(("threads", "num-threads", "n-threads", "nthreads"), "threads-per-rank"),
    **dict.fromkeys(("shards",), "num-shards"),
    **dict.fromkeys(("criterion", "loss-fn"), "loss"),
    **dict.fromkeys(("target-acc", "target"), "target-accuracy"),
    **dict.fromkeys(("keep-last", "max-checkpoints", "save-total-limit"), "keep"),
    **dict.fromkeys(("timeout",), "stall-timeout"),
    **dict.fromkeys(("memory", "max-memory"), "data-memory"),
}
"""What the flags of other training programs are called here, without dashes."""

ADVICE = {
    **dict.fromkeys(
        (
            "n",
            "np",
            "ranks",
            "nproc",
            "processes",
            "num-processes",
            "nproc-per-node",
            "world",
            "workers",
            "num-workers",
            "gpus",
            "nodes",
        ),
        "ranks are started by a launcher, as in mpirun -n 4 python -m distcnn.train",
    ),
    **dict.fromkeys(
        ("device", "gpu", "cuda", "no-cuda", "cpu"),
        "distcnn computes on processors only; there is no device to choose",
    ),
    **dict.fromkeys(
        ("v", "verbose", "quiet", "q"),
        "what is printed is set by --log-every; results are in the run directory",
    ),
}
"""What to say of flags that have no counterpart."""


class Parser(argparse.ArgumentParser):
    """argparse's, without abbreviations.

    Args:
        elsewhere: flags that another parser takes from what this one leaves; they are guessed
            at too.
        instead: for flags without dashes that are not here, what to use in their place.
        options: argparse's own.
    """

    def __init__(
        self,
        *,
        elsewhere: Iterable[str] = (),
        instead: Mapping[str, str] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        super().__init__(allow_abbrev=False, **options)
        self._elsewhere, self._instead = tuple(elsewhere), instead

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's; ``InputError`` names the first argument that is unknown."""
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown)
        return known

    def parse_own(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """This parser's flags, and the arguments that are left for another one.

        ``InputError`` on a flag that neither knows.
        """
        known, others = self.parse_known_args(arguments)
        strange = [
            each
            for each in others
            if each.startswith("--") and each.partition("=")[0] not in self._elsewhere
        ]
        if strange:
            self._refuse(strange)
        return known, others

    def error(self, message: str) -> NoReturn:
        """As for every other bad input, so that one rank prints it."""
        raise InputError(f"{message} (see {self.prog} --help)")

    def _refuse(self, unknown: Sequence[str]) -> NoReturn:
        flag = next(
            (each for each in unknown if len(each) > 1 and each.startswith("-")), ""
        ).partition("=")[0]
        if flag:
            self.error(
                "unknown flag"
                f" {flag}{advice(flag, [*self._option_string_actions, *self._elsewhere], self._instead)}"  # noqa: E501
            )
        self.error(f"unexpected argument {unknown[0]!r}")


def advice(
    flag: str, flags: Iterable[str], instead: Mapping[str, str] = MappingProxyType({})
) -> str:
    """A guess at which of ``flags`` was meant by an unknown one, or what to use instead; empty
    where nothing is like it.
    """
    name = flag.lstrip("-").lower().replace("_", "-")
    found = meant(name, [each[2:] for each in flags if each.startswith("--")])
    if name in instead or (name in ADVICE and found != name):
        return f": {instead.get(name) or ADVICE[name]}"
    more = (
        " (of each shard in a step; the global batch is --num-shards times it)"
        if found == "microbatch-size"
        else ""
    )
    return f": did you mean --{found}?{more}" if found else ""


def meant(name: str, names: Sequence[str]) -> str | None:
    """Which of ``names`` a wrong ``name`` (both with dashes between words, none before) stands for;
    None where nothing is like it.
    """
    import difflib  # root's alone

    if name in names:
        return name
    if ALIASES.get(name) in names:
        return ALIASES[name]
    begun = [each for each in names if each.startswith(name)]
    return next(
        iter([*difflib.get_close_matches(name, names, n=1), *(begun if len(begun) == 1 else [])]),
        None,
    )


# -- whether all ranks were started with the same command line

COMMAND, POSITION = "the command", "argument"


def flags_of(command: str, arguments: Sequence[str]) -> dict[str, str]:
    """The command line by names: the command, each flag with its values (the last one wins), each
    argument before the first flag.

    ``--flag value`` and ``--flag=value`` are the same, and so is another order of flags.
    """
    found = {COMMAND: command}
    flag = ""
    for index, each in enumerate(arguments):
        if each.startswith("--"):
            flag, _, value = each.partition("=")
            found[flag] = value
        elif flag:
            found[flag] = f"{found[flag]} {each}".strip()
        else:
            found[f"{POSITION} {index + 1}"] = each
    return found


def difference(everyone: Mapping[int, Mapping[str, str]]) -> str | None:
    """The first rank whose command line is not the lowest rank's, and all that differs, in words;
    None when all are the same.
    """
    first = min(everyone)
    for rank, flags in sorted(everyone.items()):
        names = [
            name
            for name in dict.fromkeys([*everyone[first], *flags])
            if everyone[first].get(name) != flags.get(name)
        ]
        if COMMAND in names:
            names = [COMMAND]
        if names:
            mine, theirs = (
                ", ".join(_shown(each, name) for name in names) for each in (flags, everyone[first])
            )
            return f"rank {rank} was started with {mine}, but rank {first} with {theirs}"
    return None


def _shown(flags: Mapping[str, str], name: str) -> str:
    if name not in flags:
        return f"no {name}"
    return f"{name} {flags[name]!r}" if flags[name] else name

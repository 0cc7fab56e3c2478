"""Command lines: a mistake is an ``InputError`` of one line, with a guess at what was meant."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from distcnn.errors import InputError

ALIASES = {
    **dict.fromkeys(("lr", "rate", "max-lr", "peak-lr"), "learning-rate"),
    **dict.fromkeys(("batch-size", "batch", "bs", "b", "micro-batch-size", "train-batch-size"), "microbatch-size"),
    **dict.fromkeys(("e", "n-epochs", "num-epochs", "max-epochs", "num-train-epochs"), "epochs"),
    **dict.fromkeys(("steps", "max-iters", "iterations", "iters", "num-steps"), "max-steps"),
    **dict.fromkeys(("wd", "l2"), "weight-decay"),
    **dict.fromkeys(("opt", "optim"), "optimizer"),
    **dict.fromkeys(("arch", "network", "net", "architecture"), "model"),
    **dict.fromkeys(("dataset", "data-dir", "data-path", "data-root", "input"), "data"),
    **dict.fromkeys(("o", "out", "out-dir", "output-dir", "save-dir", "log-dir", "logdir", "run-dir"), "output"),
    **dict.fromkeys(("warmup", "warmup-iters"), "warmup-steps"),
    **dict.fromkeys(("scheduler", "lr-scheduler", "lr-schedule", "lr-policy"), "schedule"),
    **dict.fromkeys(("random-seed", "manual-seed"), "seed"),
    **dict.fromkeys(("checkpoint", "ckpt", "load", "resume-from", "resume-from-checkpoint", "restart", "continue"), "resume"),
    **dict.fromkeys(("save-every", "save-steps", "save-interval", "checkpoint-interval", "save-freq"), "checkpoint-every"),
    **dict.fromkeys(("log-interval", "log-steps", "print-freq", "logging-steps"), "log-every"),
    **dict.fromkeys(("eval-interval", "eval-steps", "test-every"), "eval-every"),
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
        ("n", "np", "ranks", "nproc", "processes", "num-processes", "nproc-per-node", "world", "workers", "num-workers", "gpus", "nodes"),
        "ranks are started by a launcher, as in mpirun -n 4 python -m distcnn.train",
    ),
    **dict.fromkeys(("device", "gpu", "cuda", "no-cuda", "cpu"), "distcnn computes on processors only; there is no device to choose"),
    **dict.fromkeys(("v", "verbose", "quiet", "q"), "what is printed is set by --log-every; results are in the run directory"),
}
"""What to say of flags that have no counterpart."""


class Parser(argparse.ArgumentParser):
    """argparse's, without abbreviations. ``known_elsewhere`` are flags that another parser will take, for guesses."""

    def __init__(self, *, known_elsewhere: Iterable[str] = (), **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self._known_elsewhere = tuple(known_elsewhere)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's; ``InputError`` names the first argument that is unknown."""
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.refuse(unknown)
        return known

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """``InputError`` on the first of these arguments that is a flag, else on the first."""
        flag = next((each for each in unknown if len(each) > 1 and each.startswith("-")), "").partition("=")[0]
        if flag:
            flags = [*self._option_string_actions, *self._known_elsewhere]
            self.error(f"unknown flag {flag}{advice(flag, flags)}")
        self.error(f"unexpected argument {unknown[0]!r}")

    def error(self, message: str) -> NoReturn:
        """As for every other bad input, so that one rank prints it."""
        raise InputError(f"{message} (see {self.prog} --help)")


def advice(flag: str, flags: Sequence[str]) -> str:
    """A guess at which of ``flags`` was meant by an unknown one, or what to use instead; empty where nothing is like it."""
    name = flag.lstrip("-").lower().replace("_", "-")
    names = {each.lstrip("-"): each for each in flags if each.startswith("--")}
    alias = ALIASES.get(name, "")
    if name in names or alias in names:
        return _guess(names.get(name) or names[alias])
    if name in ADVICE:
        return f": {ADVICE[name]}"
    close = closest(name, names)
    return _guess(names[close]) if close else ""


def _guess(flag: str) -> str:
    more = " (of each shard in a step; the global batch is --num-shards times it)" if flag == "--microbatch-size" else ""
    return f": did you mean {flag}?{more}"


def closest(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that is most like ``name``, where one is."""
    import difflib  # root's alone

    return next(iter(difflib.get_close_matches(name, list(names), n=1)), None)

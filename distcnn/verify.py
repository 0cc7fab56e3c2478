"""Replay a run and compare it with its records: ``python -m distcnn.verify RUN_DIR``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import distcnn.cli.start
import distcnn.system.rank0_imports  # noqa: F401
from distcnn.checkpoints.weights import BEST_WEIGHTS, WEIGHTS
from distcnn.cli.command import run_command
from distcnn.cli.parser import Parser
from distcnn.distributed import Communicator, on_root
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.spans import READ_RUN, Span
from distcnn.system.wording import counted
from distcnn.training.comparison import Different, problem_of_files
from distcnn.training.progress import NoProgress, Progress
from distcnn.training.replay import Replayed, replay
from distcnn.training.results import RESULT, SHA256SUMS
from distcnn.user_code import TRUST_FLAG

NAME = "distcnn.verify"
IDENTICAL, DIFFERENT = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 identical, 1 different, 2 bad input."""
    return run_command(NAME, make_parser, verify_command, arguments)


def make_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = Parser(
        prog="python -m distcnn.verify",
        description=(
            "Replay a run, alone or under a launcher on any number of ranks, and compare every line"
            " of its receipt.jsonl and metrics.jsonl, its result.json and its weights. Prints"
            " 'identical' (exit code 0), or the first step and parameter that differ (exit code 1)."
            " Nothing is written."
        ),
    )
    run = "run directory of distcnn.train, finished or not"
    begin = "begin at the last checkpoint up to step A (default 0)"
    end = "end after step B (default: the receipt's last)"
    moved = "the image set, if it has moved; its content must be the same"
    model = "the model to replay with, such as the run's own package.module:function"
    trust = "import the package.module:function that the receipt names, and run its code"
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help=run)
    parser.add_argument("--from-step", type=int, default=0, metavar="A", help=begin)
    parser.add_argument("--to-step", type=int, metavar="B", help=end)
    parser.add_argument("--data", metavar="FILE", help=moved)
    parser.add_argument("--model", metavar="NAME", help=model)
    parser.add_argument(TRUST_FLAG, action="store_true", help=trust)
    return parser


def verify_command(communicator: Communicator, arguments: Sequence[str]) -> int:
    """Parse, replay, print the result."""
    say = (Progress() if communicator.rank == 0 else NoProgress()).say
    args = on_root(communicator, lambda: make_parser().parse_args(arguments))
    run, span = args.run, (args.from_step, args.to_step)
    with Watchdog(NAME, communicator):
        try:
            replayed = replay(
                run, args.data, *span, communicator, say, args.model, args.trust_model
            )
            if result := replayed.result:
                with Span(READ_RUN):
                    problem = on_root(
                        communicator, lambda: problem_of_files(run, replayed.receipt, result)
                    )
                if problem:
                    raise Different(f"step {replayed.to_step}: {problem}")
        except Different as difference:
            say(f"different: {difference}")
            return DIFFERENT
    kinds = [line["kind"] for line in replayed.lines]
    say(
        f"identical: steps {replayed.from_step} to {replayed.to_step} (compared:"
        f" {counted(kinds.count('weights'), 'weight hash')},"
        f" {counted(kinds.count('epoch'), 'epoch')})"
    )
    say(f"not checked: {'; '.join(on_root(communicator, lambda: unchecked(run, replayed)))}")
    return IDENTICAL


def unchecked(run: Path, replayed: Replayed) -> list[str]:
    """What the replay did not check, as text."""
    found = [f"steps 1 to {replayed.from_step}"] if replayed.from_step else []
    found += ["checkpoints (each is checked when it is read)", "traces and pictures"]
    if replayed.result is None:
        return [*found, f"{RESULT} and {WEIGHTS}, which are written at the end of a run"]
    if not (run / BEST_WEIGHTS).exists():
        found.append(f"{BEST_WEIGHTS}, which is missing")
    about_times = (
        f"they match {SHA256SUMS}" if (run / SHA256SUMS).exists() else f"{SHA256SUMS} is missing"
    )
    return [*found, f"times and speeds ({about_times})"]


if __name__ == "__main__":
    sys.exit(main())

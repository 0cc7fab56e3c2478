"""Replay a run and compare it with its records: ``python -m distcnn.verify RUN_DIR``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import distcnn.cli.start
import distcnn.system.rank0_imports  # noqa: F401
from distcnn.cli.command import run_command
from distcnn.cli.parser import Parser
from distcnn.distributed import Communicator, on_root
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.spans import READ_RUN, Span
from distcnn.system.wording import counted
from distcnn.training.checked_files import problem_of_files, unchecked
from distcnn.training.comparison import Different
from distcnn.training.progress import NoProgress, Progress
from distcnn.training.replay import replay
from distcnn.user_code import TRUST_FLAG

NAME = "distcnn.verify"
IDENTICAL, DIFFERENT = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 identical, 1 different, 2 bad input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_command(NAME, lambda: make_parser().print_help(), verify_command, arguments)


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
    parser.add_argument(
        "run", type=Path, metavar="RUN_DIR", help="run directory of distcnn.train, finished or not"
    )
    parser.add_argument(
        "--from-step",
        type=int,
        default=0,
        metavar="A",
        help="begin at the last checkpoint up to step A (default 0)",
    )
    parser.add_argument(
        "--to-step", type=int, metavar="B", help="end after step B (default: the receipt's last)"
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="the image set, if it has moved; its content must be the same",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="the model to replay with, such as the run's own package.module:function",
    )
    parser.add_argument(
        TRUST_FLAG,
        action="store_true",
        help="import the package.module:function that the receipt names, and run its code",
    )
    return parser


def verify_command(communicator: Communicator, arguments: Sequence[str]) -> int:
    """Parse, replay, print the result."""
    say = (Progress() if communicator.rank == 0 else NoProgress()).say
    args = on_root(communicator, lambda: make_parser().parse_args(arguments))
    with Watchdog(NAME, communicator):
        try:
            replayed = replay(
                args.run,
                args.data,
                args.from_step,
                args.to_step,
                communicator,
                say,
                args.model,
                args.trust_model,
            )
            with Span(READ_RUN):
                problem = on_root(
                    communicator,
                    lambda: problem_of_files(args.run, replayed) if replayed.reached_end else None,
                )
            if problem:
                raise Different(f"step {replayed.to_step}: {problem}")
        except Different as difference:
            say(f"different: {difference}")
            return DIFFERENT
    hashes = sum(line["kind"] == "weights" for line in replayed.lines)
    epochs = sum(line["kind"] == "epoch" for line in replayed.lines)
    say(
        f"identical: steps {replayed.from_step} to {replayed.to_step} (compared:"
        f" {counted(hashes, 'weight hash')}, {counted(epochs, 'epoch')})"
    )
    say(f"not checked: {'; '.join(on_root(communicator, lambda: unchecked(args.run, replayed)))}")
    return IDENTICAL


if __name__ == "__main__":
    sys.exit(main())

"""Replay a run and compare it with its receipt: ``python -m distcnn.verify RUN_DIR``, on any number of ranks or in one process."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import distcnn.root  # noqa: F401
from distcnn.command import run_command
from distcnn.command_line import Parser
from distcnn.faults.pulse import Activity, pulse
from distcnn.faults.watchdog import Watchdog
from distcnn.own_model import TRUST_FLAG
from distcnn.parallel import Communicator, on_root
from distcnn.training.progress import NoProgress, Progress
from distcnn.training.replay import Different, Line, replay
from distcnn.training.run_directory import RESULT, WEIGHTS, read_results

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
        description="Replay a run, alone or under a launcher on any number of ranks, and compare every line of its receipt.jsonl. "
        "Prints 'identical' (exit code 0), or the first step and parameter that differ (exit code 1). Nothing is written.",
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="run directory of distcnn.train, finished or not")
    parser.add_argument("--from-step", type=int, default=0, metavar="A", help="begin at the last checkpoint up to step A (default 0)")
    parser.add_argument("--to-step", type=int, metavar="B", help="end after step B (default: the receipt's last)")
    parser.add_argument("--data", metavar="FILE", help="the image set, where it lies elsewhere now; its content must be the same")
    parser.add_argument("--model", metavar="NAME", help="the model to replay with, such as the run's own package.module:function")
    parser.add_argument(TRUST_FLAG, action="store_true", help="import the package.module:function that the receipt names, and run its code")
    return parser


def verify_command(communicator: Communicator, arguments: Sequence[str]) -> int:
    """Parse, replay, say what came out."""
    say = (Progress() if communicator.rank == 0 else NoProgress()).say
    args = on_root(communicator, lambda: make_parser().parse_args(arguments))
    with Watchdog(NAME, communicator):
        try:
            replayed = replay(args.run, args.data, args.from_step, args.to_step, communicator, say, args.model, args.trust_model)
            pulse.beat(Activity.READING_RUN)
            problem = on_root(communicator, lambda: problem_of_files(args.run, replayed.lines) if replayed.reached_end else None)
            if problem:
                raise Different(f"step {replayed.to_step}: {problem}")
        except Different as difference:
            say(f"different: {difference}")
            return DIFFERENT
    hashes = sum(line["kind"] == "weights" for line in replayed.lines)
    epochs = sum(line["kind"] == "epoch" for line in replayed.lines)
    say(f"identical: steps {replayed.from_step} to {replayed.to_step} (hashes of the weights: {hashes}, epochs: {epochs})")
    return IDENTICAL


def problem_of_files(run: Path, replayed: list[Line]) -> str | None:
    """None, or what is wrong with ``result.json`` and ``weights.h5``, which people take away: they must be of the end that was replayed."""
    last = {line["kind"]: line for line in replayed}
    try:
        result, parameters = read_results(run)
    except (OSError, ValueError, KeyError) as error:
        return f"{RESULT} or {WEIGHTS} cannot be read ({error})"
    expected = {**last["epoch"], **last["end"], "steps": last["end"]["step"]}
    for name in ("params_sha256", "steps", "test_accuracy", "test_correct", "test_examples", "test_loss", "train_loss"):
        if result.get(name) != expected[name]:
            return f"{name} is {result.get(name)} in {RESULT}, {expected[name]} replayed"
    for name, sha256 in last["weights"]["parameters"].items():
        if parameters.get(name) != sha256:
            return f"parameter {name}: SHA-256 {parameters.get(name)} in {WEIGHTS}, {sha256} replayed"
    return None


if __name__ == "__main__":
    sys.exit(main())

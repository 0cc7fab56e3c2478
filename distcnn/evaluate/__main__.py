"""Evaluate a trained network: ``python -m distcnn.evaluate RUN_DIR``, or under ``mpirun -n 2``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import distcnn.cli.start
import distcnn.system.rank0_imports  # noqa: F401
from distcnn.cli.command import run_command
from distcnn.cli.parser import RUN_FIRST, Parser
from distcnn.datasets.hdf5 import VALIDATION
from distcnn.distributed import Communicator, on_root
from distcnn.errors import InputError
from distcnn.evaluate.evaluation import evaluate
from distcnn.evaluate.output import as_json, as_text, draw_mistakes
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.plotting import require_matplotlib, require_picture
from distcnn.system.console import say_all, tell

NAME = "distcnn.evaluate"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(NAME, make_parser, evaluate_command, arguments)


def make_parser() -> Parser:
    """The command's flags."""
    parser = Parser(
        prog="python -m distcnn.evaluate",
        instead=RUN_FIRST,
        description=(
            "Evaluate the network of a finished run: accuracy with its 95 % confidence interval"
            " (Wilson), loss (mean cross-entropy), precision, recall and F1 of each class, the"
            " confusion matrix and the worst mistakes. Under mpirun, the ranks share the images,"
            " with the same output."
        ),
    )
    data = "the image set (default: the run's own); its classes must be the network's"
    split = (
        "which part of it (default: test). Of a run with --validation, train is what it was trained"
        " on, and validation what was held out"
    )
    picture = "draw the worst mistakes (needs matplotlib)"
    parser.add_network()
    add = parser.add_argument
    add("--data", metavar="FILE.h5", help=data)
    add("--split", choices=("test", "train", VALIDATION), default="test", help=split)
    add("--picture", metavar="FILE.png", help=picture)
    add("--json", action="store_true", help="print all results as one JSON document")
    return parser


def evaluate_command(communicator: Communicator, arguments: Sequence[str]) -> None:
    """Evaluate, print the results, draw the picture."""
    args = on_root(communicator, lambda: parse(arguments))
    with Watchdog(NAME, communicator):
        found = evaluate(
            communicator,
            args.run,
            data=args.data,
            split=args.split,
            weights=args.weights,
            trust_model=args.trust_model,
        )

    def show() -> None:
        for notice in found.notices:
            tell(f"notice: {notice}")
        say_all([as_json(found)] if args.json else as_text(found))
        if args.picture and not found.score.mistakes:
            tell(f"no picture written to {args.picture}: there are no mistakes to draw")
        elif args.picture:
            draw_mistakes(found, args.picture)
            tell(f"picture in {args.picture}")

    on_root(communicator, show)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags; ``InputError`` names what is wrong."""
    args: argparse.Namespace = make_parser().parse_args(arguments)
    if args.picture:
        require_matplotlib()
        require_picture(args.picture, "--picture")
        if not os.path.isdir(Path(args.picture).parent):  # noqa: PTH112  (before the evaluation)
            raise InputError(
                f"--picture: no such folder: {Path(args.picture).parent}: create it, or name"
                " another file"
            )
    return args


if __name__ == "__main__":
    sys.exit(main())

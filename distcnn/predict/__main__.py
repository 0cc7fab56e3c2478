"""Predict pictures with a trained network: ``python -m distcnn.predict RUN_DIR digit.png``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import distcnn.cli.start
import distcnn.system.rank0_imports  # noqa: F401
from distcnn.cli.command import EXIT_INPUT, EXIT_OK, run_command
from distcnn.cli.parser import RUN_FIRST, Parser
from distcnn.datasets.fitting import FITS, INVERSIONS
from distcnn.distributed import Communicator, on_root, together
from distcnn.errors import InputError
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.loading import load, weights_used
from distcnn.predict.output import CSV, JSON, Format, Table
from distcnn.predict.prediction import predict

NAME = "distcnn.predict"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(NAME, make_parser, predict_command, arguments)


def make_parser() -> Parser:
    """The command's flags."""
    parser = Parser(
        prog="python -m distcnn.predict",
        instead=RUN_FIRST,
        description=(
            "Predict what pictures show, with the network of a finished run: print each file, its"
            " most probable class, and the probability. Pictures of any size and mode are converted"
            " to images like those the network was trained on; notices say how. A file that cannot"
            " be read is named on standard error; the others are predicted, and the exit code is 2."
            " Under mpirun, the ranks share the pictures, with the same output."
        ),
    )
    files = (
        "image files, folders of them (with their subfolders, sorted by name), or .h5, .npz and"
        " .npy files of many images"
    )
    fit = (
        "cut out the strokes, centred and scaled as MNIST's digits were, or resize the whole"
        " picture; auto: strokes for pictures of another size, if the network was trained on MNIST"
        " (default: auto)"
    )
    invert = (
        "invert light and dark; auto: where a gray picture is dark on light and the training images"
        " were light on dark, or the reverse (default: auto)"
    )
    split = "which images of a .h5 or .npz file that has both (default: test)"
    parser.add_network()
    add = parser.add_argument
    add("files", metavar="FILE", nargs="+", help=files)
    add("--top", metavar="K", type=int, default=1, help="print the K most probable classes")
    add("--fit", choices=FITS, default="auto", help=fit)
    add("--invert", choices=INVERSIONS, default="auto", help=invert)
    add("--split", choices=("test", "train"), default="test", help=split)
    output = parser.add_mutually_exclusive_group()
    exact = "with unrounded probabilities"
    output.add_argument("--json", action="store_true", help=f"print one JSON document, {exact}")
    output.add_argument("--csv", action="store_true", help=f"print CSV, with a header, {exact}")
    return parser


def predict_command(communicator: Communicator, arguments: Sequence[str]) -> int:
    """Predict and print; the exit code says whether everything could be read."""
    args = on_root(communicator, lambda: parse(arguments))
    with Watchdog(NAME, communicator):
        network = together(
            communicator, lambda: load(args.run, weights=args.weights, trust_model=args.trust_model)
        )
        fitting = together(communicator, lambda: network.fitting(args.fit, args.invert))
        top = min(args.top, len(network.class_names))
        form: Format = CSV(top) if args.csv else Table(network.class_names, top)
        if args.json:
            used = on_root(communicator, lambda: weights_used(args.run, args.weights))
            form = JSON(args.run, used)
        complete = predict(communicator, network, fitting, args.files, args.split, top, form)
    return EXIT_OK if complete else EXIT_INPUT


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags; ``InputError`` names what is wrong."""
    args: argparse.Namespace = make_parser().parse_args(arguments)
    if args.top < 1:
        raise InputError(f"--top is {args.top}: it must be at least 1")
    return args


if __name__ == "__main__":
    sys.exit(main())

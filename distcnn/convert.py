"""Make an image set of other formats: ``python -m distcnn.convert SOURCE --output FILE.h5``."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn import plotting
from distcnn.cli.parser import Parser
from distcnn.datasets.commands import add_picture_flags, exit_code, options_of, say_classes, summary
from distcnn.datasets.contact_sheet import draw_contact_sheet
from distcnn.datasets.hdf5 import read_info
from distcnn.datasets.importers.converting import prepare
from distcnn.datasets.importers.folders import warn_of_transparency
from distcnn.datasets.importers.reading import KNOWN, read_source
from distcnn.datasets.writer import require_writable
from distcnn.errors import InputError
from distcnn.system.console import guarded, say
from distcnn.system.files import open_named
from distcnn.system.wording import first_few

NAME = "distcnn.convert"
MOST_NAMES_BYTES = 2**24


@guarded()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    return exit_code(NAME, lambda: convert(make_parser().parse_args(arguments)))


def make_parser() -> Parser:
    """The command's flags."""
    parser = Parser(
        prog="python -m distcnn.convert",
        description=f"Make an image set (HDF5) for distcnn.train from {KNOWN}.",
    )
    add = parser.add_argument
    source = "a file, a folder, or several files of one set"
    add("source", nargs="+", type=Path, metavar="SOURCE", help=source)
    add("--output", metavar="FILE.h5", required=True, help="image set to write")
    add("--preview", metavar="FILE.png", help="draw some images of each class, to look at")
    add("--name", help="name of the set (default: that of the output file)")
    names = "names of the classes in the order of the labels: a,b,c or a text file, one per line"
    add("--class-names", metavar="NAMES", help=names)

    group = parser.add_argument_group("what the source holds, where that cannot be guessed")
    add = group.add_argument
    labels = "array or column of labels; in CSV files without header: first or last"
    add("--images", metavar="NAME", help="array or column of images")
    add("--labels", metavar="NAME", help=labels)
    add("--test-images", metavar="NAME", help="array of test images")
    add("--test-labels", metavar="NAME", help="array of test labels")
    shape = "height, width and channels of images stored as rows of pixels"
    add("--image-size", type=image_size, metavar="HxW[xC]", help=shape)
    layout = "whether channels come last or first"
    add("--layout", choices=["NHWC", "NCHW"], type=str.upper, help=layout)
    transpose = "whether rows and columns are swapped in the source"
    add("--transpose", action=argparse.BooleanOptionalAction, help=transpose)
    values = "the values that are black and white, such as 0 16"
    add("--scale", type=float, nargs=2, metavar=("LOW", "HIGH"), help=values)
    coarse = "CIFAR-100: use the 20 superclasses as labels"
    add("--coarse", action="store_true", help=coarse)

    group = parser.add_argument_group("training and test images")
    add = group.add_argument
    fraction = "fraction of each class for the test split, if there is none (default: 0.2)"
    add("--test-fraction", type=float, metavar="F", help=fraction)
    seed = "random seed for that choice, and for shuffling (default %(default)s)"
    add("--seed", type=int, default=0, help=seed)
    validation = (
        "what becomes of a validation split (default: it joins the training split, or is the test"
        " split if there is no other)"
    )
    add("--validation-split", choices=["train", "test", "drop"], help=validation)

    add_picture_flags(parser.add_argument_group("image files"))
    return parser


def convert(args: argparse.Namespace) -> None:
    """Read, say what was found, write, and draw."""
    _require_writable(args)
    options = options_of(args, class_names=class_names(args.class_names))
    lines: list[str] = []  # printed when all is known to fit: a refusal is one line
    try:
        source = read_source(args.source, options, lines.append)
        prepared = prepare(source, options, lines.append)
    except InputError as error:
        raise _with_source(error, args.source) from error
    say(*source.notes, *lines)
    names = prepared.class_names or [str(code) for code in range(prepared.classes)]
    say_classes(names, prepared.counts())
    where = first_few(path.resolve() for path in args.source)
    prepared.write(args.output, args.name or Path(args.output).stem, f"{source.kind}: {where}")
    warn_of_transparency(source, say)
    info = read_info(args.output)
    say(summary(info))
    mean, std = (", ".join(f"{value:.4f}" for value in of or ()) for of in (info.mean, info.std))
    say(f"pixels / 255: mean {mean}, standard deviation {std}")
    if args.preview:
        draw_contact_sheet(info, args.preview)
        say(f"picture in {args.preview}")


def _with_source(error: InputError, paths: Sequence[Path]) -> InputError:
    """The error with the name of the source in front, unless it has it or is about a flag."""
    text = str(error)
    if text.startswith("--") or any(str(path) in text for path in paths):
        return error
    return InputError(f"{first_few(paths)}: {text}")


def _require_writable(args: argparse.Namespace) -> None:
    """Refuse what would fail, or overwrite a source, before anything is read."""
    output = Path(args.output)
    require_writable(output)
    for path in args.source:
        with suppress(OSError):  # one does not exist
            if path.samefile(output):
                raise InputError(f"--output {output} is the source itself: name another file")
    if os.path.exists(output):  # noqa: PTH110  (Path's raises for a name that is too long)
        _require_image_set(output)
    if args.preview:
        plotting.require_matplotlib()
        preview = Path(args.preview)
        if not os.path.isdir(preview.parent):  # noqa: PTH112
            raise InputError(f"--preview {preview}: no such folder: {preview.parent}")
        require_writable(preview)
        if preview.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise InputError(f"--preview {preview}: name a picture, such as preview.png")
        folders = {source.resolve() for source in args.source}
        if preview.exists() and folders & set(preview.resolve().parents):
            raise InputError(f"--preview {preview} is a file of the source: name another file")


def _require_image_set(output: Path) -> None:
    """Refuse to replace what is not an image set."""
    try:
        read_info(output)
    except InputError as error:
        raise InputError(
            f"--output {output} is there, and is not an image set: name another file, or remove it"
        ) from error


def class_names(text: str | None) -> list[str]:
    """The names in a flag, or in the file that it names."""
    if text is None:
        return []
    if "," not in text:
        if not os.path.exists(text):  # noqa: PTH110  (Path's raises for a name that is too long)
            raise InputError(
                f"--class-names {text}: no such file; separate names with commas (a,b,c), or name a"
                " text file with one name per line"
            )
        with open_named(text) as file:
            content = file.read(MOST_NAMES_BYTES).decode("utf-8-sig", "backslashreplace")
        return [line.strip() for line in content.splitlines() if line.strip()]
    return [name.strip() for name in text.split(",")]


def image_size(text: str) -> tuple[int, ...]:
    """A size such as 28x28 or 32x32x3."""
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5}){1,2}", text.lower()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: give height x width, or height x width x channels, such as"
            " 32x32x3"
        )
    return tuple(map(int, text.lower().split("x")))


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup ignores SIGHUP
            signal.signal(number, lambda number, _: sys.exit(128 + number))  # which tidies up
    sys.exit(main())

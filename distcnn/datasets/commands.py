"""The commands behind the scripts in ``data/``: parse, call, print."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from distcnn.cli.parser import Parser
from distcnn.datasets import prepare_mnist
from distcnn.datasets.dataset import DEFAULT_PATH, SOURCE_VARIABLE, ensure_mnist, named_folder
from distcnn.datasets.hdf5 import SPLITS, DatasetInfo, by, read_info
from distcnn.datasets.importers import idx
from distcnn.datasets.importers.converting import Chosen, Prepared, prepare
from distcnn.datasets.importers.folders import CLASS_ORDERS, read_folder, warn_of_transparency
from distcnn.datasets.importers.source import Examples, Notify, Options
from distcnn.datasets.importers.splits import DEFAULT_FRACTION
from distcnn.datasets.pictures import BACKGROUNDS, NAMES
from distcnn.errors import InputError
from distcnn.system.console import guarded, say, tell
from distcnn.system.wording import counted, first_few, plural, printable

MAX_LABELS = 256
"""Labels of IDX files are bytes."""
EXIT_INTERRUPTED = 130
"""As shells give for Ctrl-C."""


@guarded()
def mnist_command(arguments: Sequence[str]) -> int:
    """``python data/mnist.py``."""
    parser = Parser(
        prog="python data/mnist.py", description="Prepare MNIST as an HDF5 file, unless it exists."
    )
    default = f"${SOURCE_VARIABLE}, then ${prepare_mnist.MIRRORS_VARIABLE} or the public mirrors"
    folder = f"folder with the four IDX files, gzipped or not (default: {default})"
    parser.add_argument("--source", metavar="DIR", help=folder)
    output = "file to write (default %(default)s)"
    parser.add_argument("--output", metavar="FILE", default=DEFAULT_PATH, help=output)
    parser.add_argument("--force", action="store_true", help="prepare it even if it exists")

    def work(args: argparse.Namespace, _: Notify) -> None:
        if args.force:
            prepare_mnist.prepare_mnist(args.output, named_folder(args.source), say)
        else:
            ensure_mnist(args.output, args.source, say)

    return _run(parser, arguments, work)


@guarded()
def idx_command(arguments: Sequence[str]) -> int:
    """``python data/from_idx.py FOLDER``."""
    parser = Parser(
        prog="python data/from_idx.py",
        description="Make an image set (HDF5) from four IDX files, gzipped or not.",
    )
    names = {(split, part): idx.usual_name(split, part) for split in SPLITS for part in idx.PARTS}
    files = f"folder with {', '.join(names.values())} or similar names, gzipped or not"
    parser.add_argument("folder", type=Path, help=files)
    for (split, part), name in names.items():
        help_ = f"file name in FOLDER, if not similar to {name}"
        parser.add_argument(f"--{split}-{part}", type=Path, metavar="FILE", help=help_)
    _add_output(parser)
    classes = "number of classes (default: from the largest label)"
    parser.add_argument("--classes", type=int, help=classes)
    first = "label of the first class (default %(default)s)"
    parser.add_argument("--first-label", type=int, default=0, metavar="N", help=first)

    def work(args: argparse.Namespace, warn: Notify) -> None:
        paths = {}
        for split, part in names:
            name = getattr(args, f"{split}_{part}")
            found = args.folder / name if name else idx.find_part(args.folder, split, part)
            paths[split, part] = found
        lines: list[str] = []  # printed when the set is written: a refusal is one line
        prepared = _numbered(idx.read_idx(paths), args.classes, args.first_label, lines.append)
        source = f"IDX files in {args.folder.resolve()}"
        prepared.write(args.output, args.name or Path(args.output).stem, source)
        for line in lines:
            warn(line)
        labels = range(args.first_label, args.first_label + prepared.classes)
        say_classes([str(label) for label in labels], prepared.counts())

    return _run(parser, arguments, work)


def _numbered(
    examples: Mapping[str, Examples], classes: int | None, first_label: int, warn: Notify
) -> Prepared:
    """Labels in bytes as class numbers: ``first_label`` becomes class 0."""
    if classes is not None and not 1 <= classes <= MAX_LABELS:
        raise InputError(f"--classes is {classes}: it must be 1 to {MAX_LABELS}, labels are bytes")
    found = np.unique(np.concatenate([part.labels for part in examples.values()])).tolist()
    if found[0] < first_label or first_label < 0:
        raise InputError(
            f"--first-label is {first_label}, but the smallest label is {found[0]}: it must be 0 to"
            f" {found[0]}"
        )
    splits = {
        split: Chosen(part.images, part.labels.astype(np.int64) - first_label)
        for split, part in examples.items()
    }
    prepared = Prepared(splits, classes or found[-1] + 1 - first_label, [])
    for split, numbers in prepared.counts().items():
        if missing := [
            str(first_label + code) for code, number in enumerate(numbers) if not number
        ]:
            labels = f"{plural(len(missing), 'label')} {first_few(missing)}"
            remedy = f": if {found[0]} is the first class's label, give --first-label {found[0]}"
            warn(
                f"no {split} images for {len(missing)} of {counted(prepared.classes, 'class')}"
                f" ({labels}){remedy if found[0] > first_label else ''}"
            )
    return prepared


@guarded()
def images_command(arguments: Sequence[str]) -> int:
    """``python data/from_images.py FOLDER``."""
    parser = Parser(
        prog="python data/from_images.py",
        description=(
            f"Make an image set (HDF5) from {NAMES} files in FOLDER/CLASS/, or in"
            " FOLDER/train/CLASS/ and FOLDER/test/CLASS/."
        ),
    )
    folder = "folder with one folder per class, or with train and test folders of them"
    parser.add_argument("folder", type=Path, help=folder)
    _add_output(parser)
    add_picture_flags(parser)
    fraction = "fraction of each class for the test set, if it has no folder (default %(default)s)"
    parser.add_argument("--test-fraction", type=float, default=DEFAULT_FRACTION, help=fraction)
    seed = "random seed for that split and for the order of the images (default %(default)s)"
    parser.add_argument("--seed", type=int, default=0, help=seed)

    def work(args: argparse.Namespace, warn: Notify) -> None:
        early: list[str] = []  # printed when all images are known to fit: a refusal is one line
        options = options_of(args, validation_split="drop")
        source = read_folder(args.folder, options, early.append)
        for line in early:
            warn(line)
        example = "1, 2, 10" if args.class_order == "natural" else "1, 10, 2"
        say(f"classes in {args.class_order} order ({example}; --class-order)")
        prepared = prepare(source, options, say)
        say_classes(prepared.class_names, prepared.counts())
        name = args.name or Path(args.output).stem
        prepared.write(args.output, name, f"images in {args.folder.resolve()}")
        warn_of_transparency(source, warn)

    return _run(parser, arguments, work)


def add_picture_flags(parser: argparse._ActionsContainer) -> None:
    """The flags of sources that are image files."""
    add = parser.add_argument
    size = "resize all images (default: all must have the same size)"
    add("--size", type=size_of, metavar="HxW", help=size)
    gray = "convert to one channel (default: three, unless all images are gray)"
    add("--grayscale", action="store_true", help=gray)
    background = "color of transparent pixels (default %(default)s)"
    add("--background", choices=BACKGROUNDS, default="white", help=background)
    order = (
        "sort numbers in class names by value (1, 2, 10), or as PyTorch's ImageFolder does"
        " (1, 10, 2) (default %(default)s)"
    )
    add("--class-order", choices=list(CLASS_ORDERS), default="natural", help=order)


def options_of(args: argparse.Namespace, **others: Any) -> Options:
    """The flags that are named like ``Options``."""
    names = [field.name for field in fields(Options)]
    return Options(**{name: getattr(args, name) for name in names if hasattr(args, name)} | others)


def _add_output(parser: Parser) -> None:
    parser.add_argument("--output", metavar="FILE", required=True, help="file to write")
    parser.add_argument("--name", help="name of the set (default: that of the output file)")


def _run(
    parser: Parser, arguments: Sequence[str], work: Callable[[argparse.Namespace, Notify], None]
) -> int:
    """Do the work and print the result; bad input or Ctrl-C gives one line and an exit code."""
    name = parser.prog.removeprefix("python ")

    def parse_and_work() -> None:
        args = parser.parse_args(arguments)
        work(args, lambda text: tell(f"{name}: warning: {printable(text)}"))
        say(summary(read_info(args.output)))

    return exit_code(name, parse_and_work)


def exit_code(name: str, work: Callable[[], None]) -> int:
    """Run a command; bad input or Ctrl-C gives one line and an exit code."""
    try:
        work()
    except InputError as error:
        tell(f"{name}: error: {printable(str(error))}")
        return 2
    except KeyboardInterrupt:
        tell(f"{name}: interrupted")
        return EXIT_INTERRUPTED
    return 0


def summary(info: DatasetInfo) -> str:
    """What a set is, in one line."""
    return (
        f"{info.path}: {info.name}, {info.examples['train']:,} training and"
        f" {counted(info.examples['test'], 'test image')}, {by(info.image_shape)} (channels x"
        f" height x width), {counted(info.classes, 'class')}"
    )


def say_classes(names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> None:
    """Print a line for each class: label, name, and its number of images in each split."""
    shown = [printable(name) for name in names]
    width = max(len(name) for name in ["class", *shown])
    say(f"label  {'class':{width}}  {'train':>9}  {'test':>9}")
    of_class = zip(shown, counts["train"], counts["test"], strict=True)
    say(
        *(
            f"{label:5}  {name:{width}}  {train:9,}  {test:9,}"
            for label, (name, train, test) in enumerate(of_class)
        )
    )


def size_of(text: str) -> tuple[int, int]:
    """Height and width, such as 32x32."""
    found = re.fullmatch(r"0*([1-9]\d*)x0*([1-9]\d*)", text.lower())
    if not found:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: give height x width in pixels, such as 32x32"
        )
    return int(found[1]), int(found[2])

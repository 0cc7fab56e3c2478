"""The commands behind the scripts in ``data/``: parse, call, print."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from distcnn.cli.parser import Parser
from distcnn.datasets.default import DEFAULT_PATH, SOURCE_VARIABLE
from distcnn.datasets.folders import CLASS_ORDERS, list_images, write_image_folder
from distcnn.datasets.hdf5 import SPLITS, DatasetInfo, read_info
from distcnn.datasets.idx import PARTS, IdxPaths, find_part, usual_name, write_idx_set
from distcnn.datasets.pictures import BACKGROUNDS, NAMES, common_form
from distcnn.datasets.prepare_mnist import MIRRORS_VARIABLE, ensure_mnist, prepare_mnist
from distcnn.errors import InputError
from distcnn.fault_tolerance.failure import THREAD_LIMIT, is_thread_limit
from distcnn.system.console import drain, guarded, say, tell
from distcnn.system.wording import counted, printable

Warn = Callable[[str], None]

EXIT_INTERRUPTED = 130
"""As shells give for Ctrl-C."""


@guarded()
def mnist_command(arguments: Sequence[str]) -> int:
    """``python data/mnist.py``."""
    parser = Parser(
        prog="python data/mnist.py", description="Prepare MNIST as an HDF5 file, unless it exists."
    )
    folder = "folder with the four IDX files, gzipped or not"
    default = f"${SOURCE_VARIABLE}, then ${MIRRORS_VARIABLE} or the public mirrors"
    parser.add_argument("--source", metavar="DIR", help=f"{folder} (default: {default})")
    output = "file to write (default %(default)s)"
    parser.add_argument("--output", metavar="FILE", default=DEFAULT_PATH, help=output)
    parser.add_argument("--force", action="store_true", help="prepare it even if it exists")

    def work(args: argparse.Namespace, _: Warn) -> None:
        if args.force:
            prepare_mnist(args.output, args.source, say)
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
    names = {(split, part): usual_name(split, part) for split in SPLITS for part in PARTS}
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

    def work(args: argparse.Namespace, warn: Warn) -> None:
        given = {(split, part): getattr(args, f"{split}_{part}") for split, part in names}
        paths: IdxPaths = {
            key: args.folder / name if name else find_part(args.folder, *key)
            for key, name in given.items()
        }
        counts = write_idx_set(
            args.output,
            paths,
            name=args.name or Path(args.output).stem,
            source=f"IDX files in {args.folder.resolve()}",
            classes=args.classes,
            first_label=args.first_label,
            warn=warn,
        )
        labels = range(args.first_label, args.first_label + len(counts["train"]))
        _say_classes([str(label) for label in labels], counts)

    return _run(parser, arguments, work)


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
    add = parser.add_argument
    folder = "folder with one folder per class, or with train and test folders of them"
    add("folder", type=Path, help=folder)
    _add_output(parser)
    size = "resize all images (default: all must have the same size)"
    add("--size", type=_size, metavar="HxW", help=size)
    gray = "convert to one channel (default: three, unless all images are gray)"
    add("--grayscale", action="store_true", help=gray)
    background = "color of transparent pixels (default %(default)s)"
    add("--background", choices=BACKGROUNDS, default="white", help=background)
    order = (
        "sort numbers in class names by value (1, 2, 10), or as PyTorch's ImageFolder does"
        " (1, 10, 2) (default %(default)s)"
    )
    add("--class-order", choices=list(CLASS_ORDERS), default="natural", help=order)
    fraction = "fraction of each class for the test set, if it has no folder (default %(default)s)"
    add("--test-fraction", type=_fraction, default=0.2, help=fraction)
    seed = "random seed for that split and for the order of the images (default %(default)s)"
    add("--seed", type=int, default=0, help=seed)

    def work(args: argparse.Namespace, warn: Warn) -> None:
        early: list[str] = []  # printed when all images are known to fit: a refusal is one line
        listing = list_images(
            args.folder,
            test_fraction=args.test_fraction,
            seed=args.seed,
            class_order=args.class_order,
            warn=early.append,
        )
        paths = listing.paths()
        form = common_form(paths, args.size, args.grayscale, args.background, early.append)
        for line in early:
            warn(line)
        example = "1, 2, 10" if args.class_order == "natural" else "1, 10, 2"
        say(f"classes in {args.class_order} order ({example}; --class-order)")
        _say_classes(listing.class_names, listing.counts())
        drain()  # before images are read, which sometimes closes standard error to C libraries
        write_image_folder(
            args.output,
            args.folder,
            listing,
            form,
            name=args.name or Path(args.output).stem,
            warn=warn,
        )

    return _run(parser, arguments, work)


def _add_output(parser: Parser) -> None:
    parser.add_argument("--output", metavar="FILE", required=True, help="file to write")
    parser.add_argument("--name", help="name of the set (default: that of the output file)")


def _run(
    parser: Parser, arguments: Sequence[str], work: Callable[[argparse.Namespace, Warn], None]
) -> int:
    """Do the work and print the result; bad input or Ctrl-C gives one line and an exit code."""
    name = parser.prog.removeprefix("python ")
    try:
        args = parser.parse_args(arguments)
        work(args, lambda text: tell(f"{name}: warning: {printable(text)}"))
        say(_describe(read_info(args.output)))
    except InputError as error:
        tell(f"{name}: error: {printable(str(error))}")
        return 2
    except KeyboardInterrupt:
        tell(f"{name}: interrupted")
        return EXIT_INTERRUPTED
    except RuntimeError as error:
        if not is_thread_limit(error):
            raise
        tell(f"{name}: error: {THREAD_LIMIT}")
        return 2
    return 0


def _say_classes(names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> None:
    """Print a line for each class: label, name, and its number of images in each split."""
    shown = [printable(name) for name in names]
    width = max(len(name) for name in ["class", *shown])
    rows = [f"label  {'class':{width}}  {'train':>9}  {'test':>9}"]
    for label, (name, train, test) in enumerate(
        zip(shown, counts["train"], counts["test"], strict=True)
    ):
        rows.append(f"{label:5}  {name:{width}}  {train:9,}  {test:9,}")
    say(*rows)


def _describe(info: DatasetInfo) -> str:
    channels, height, width = info.image_shape
    return (
        f"{info.path}: {info.name}, {info.examples['train']:,} training and"
        f" {counted(info.examples['test'], 'test image')}, {channels}x{height}x{width} (channels x"
        f" height x width), {counted(info.classes, 'class')}"
    )


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: give height x width in pixels, such as 32x32"
        )
    return int(height), int(width)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0 and below 1")
    return value

"""The commands behind the scripts in ``data/``: parse, call, print."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from distcnn.cli.parser import Parser
from distcnn.datasets import idx, prepare_mnist
from distcnn.datasets.dataset import DEFAULT_PATH, SOURCE_VARIABLE, ensure_mnist, named_folder
from distcnn.datasets.folders import CLASS_ORDERS, list_images, write_image_folder
from distcnn.datasets.hdf5 import SPLITS, by, read_info
from distcnn.datasets.pictures import BACKGROUNDS, NAMES, common_form
from distcnn.errors import InputError
from distcnn.system.console import guarded, say, tell
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
    default = f"${SOURCE_VARIABLE}, then ${prepare_mnist.MIRRORS_VARIABLE} or the public mirrors"
    folder = f"folder with the four IDX files, gzipped or not (default: {default})"
    parser.add_argument("--source", metavar="DIR", help=folder)
    output = "file to write (default %(default)s)"
    parser.add_argument("--output", metavar="FILE", default=DEFAULT_PATH, help=output)
    parser.add_argument("--force", action="store_true", help="prepare it even if it exists")

    def work(args: argparse.Namespace, _: Warn) -> None:
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

    def work(args: argparse.Namespace, warn: Warn) -> None:
        paths = {}
        for split, part in names:
            name = getattr(args, f"{split}_{part}")
            found = args.folder / name if name else idx.find_part(args.folder, split, part)
            paths[split, part] = found
        counts = idx.write_idx_set(
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
    add("--test-fraction", type=float, default=0.2, help=fraction)
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
        form = common_form(
            listing.paths(), args.size, args.grayscale, args.background, early.append
        )
        for line in early:
            warn(line)
        example = "1, 2, 10" if args.class_order == "natural" else "1, 10, 2"
        say(f"classes in {args.class_order} order ({example}; --class-order)")
        _say_classes(listing.class_names, listing.counts())
        name = args.name or Path(args.output).stem
        write_image_folder(args.output, args.folder, listing, form, name=name, warn=warn)

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
        info = read_info(args.output)
    except InputError as error:
        tell(f"{name}: error: {printable(str(error))}")
        return 2
    except KeyboardInterrupt:
        tell(f"{name}: interrupted")
        return EXIT_INTERRUPTED
    say(
        f"{info.path}: {info.name}, {info.examples['train']:,} training and"
        f" {counted(info.examples['test'], 'test image')}, {by(info.image_shape)} (channels x"
        f" height x width), {counted(info.classes, 'class')}"
    )
    return 0


def _say_classes(names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> None:
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


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"0*([1-9]\d*)x0*([1-9]\d*)", text.lower())
    if not found:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: give height x width in pixels, such as 32x32"
        )
    return int(found[1]), int(found[2])

"""The commands behind the scripts in ``data/``: parse, call, print."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from distcnn.console import guarded, say, tell
from distcnn.datasets.default import DEFAULT_PATH, SOURCE_VARIABLE
from distcnn.datasets.folders import write_image_folder
from distcnn.datasets.hdf5 import DatasetInfo, read_info
from distcnn.datasets.idx import read_idx
from distcnn.datasets.mnist import MIRRORS_VARIABLE, ensure_mnist, prepare_mnist
from distcnn.datasets.writer import Split, write_dataset
from distcnn.errors import InputError
from distcnn.wording import counted, printable

IDX_NAMES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


@guarded()
def mnist_command(arguments: Sequence[str]) -> int:
    """``python data/mnist.py``."""
    parser = argparse.ArgumentParser(
        prog="python data/mnist.py", description="Prepare MNIST as an HDF5 file; nothing is done when it is there."
    )
    parser.add_argument(
        "--source",
        metavar="DIR",
        help=f"folder with the four IDX .gz files; else ${SOURCE_VARIABLE}, then ${MIRRORS_VARIABLE} or the public mirrors",
    )
    parser.add_argument("--output", metavar="FILE", default=DEFAULT_PATH, help="file to write (default %(default)s)")
    parser.add_argument("--force", action="store_true", help="prepare it again although it is there")
    args = parser.parse_args(arguments)

    def work() -> None:
        if args.force:
            prepare_mnist(args.output, args.source, say)
        else:
            ensure_mnist(args.output, args.source, say)

    return _run(parser, work, args.output)


@guarded()
def idx_command(arguments: Sequence[str]) -> int:
    """``python data/from_idx.py FOLDER``."""
    parser = argparse.ArgumentParser(
        prog="python data/from_idx.py", description="Make an image set (HDF5) from four IDX files, gzipped or not."
    )
    parser.add_argument("folder", type=Path, help=f"holds {', '.join(IDX_NAMES.values())}, with .gz or without")
    for key, name in IDX_NAMES.items():
        parser.add_argument(f"--{key.replace('_', '-')}", type=Path, metavar="FILE", help=f"another name in FOLDER than {name}")
    parser.add_argument("--output", metavar="FILE", required=True, help="file to write")
    parser.add_argument("--name", help="the set's name (default: the output's)")
    parser.add_argument("--classes", type=int, help="number of classes (default: the largest label + 1)")
    args = parser.parse_args(arguments)

    def work() -> None:
        paths = {
            key: args.folder / getattr(args, key) if getattr(args, key) else _idx_path(args.folder, name) for key, name in IDX_NAMES.items()
        }
        arrays = {key: read_idx(path) for key, path in paths.items()}
        for split in ("train", "test"):
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
            if images.ndim not in (3, 4) or labels.shape != images.shape[:1] or len(labels) == 0:
                raise InputError(
                    f"{paths[f'{split}_images']} has shape {images.shape} and {paths[f'{split}_labels']} {labels.shape}: "
                    "they must be (N, height, width) or (N, height, width, channels), and (N,), N at least 1"
                )
        if args.classes is not None and args.classes < 1:
            raise InputError(f"--classes is {args.classes}: it must be at least 1")
        classes = args.classes or 1 + max(int(arrays["train_labels"].max()), int(arrays["test_labels"].max()))
        splits = {
            split: Split(len(arrays[f"{split}_labels"]), [(arrays[f"{split}_images"], arrays[f"{split}_labels"])])
            for split in ("train", "test")
        }
        write_dataset(
            args.output,
            name=args.name or Path(args.output).stem,
            source=f"IDX files in {args.folder.resolve()}",
            classes=classes,
            splits=splits,
        )

    return _run(parser, work, args.output)


@guarded()
def images_command(arguments: Sequence[str]) -> int:
    """``python data/from_images.py FOLDER``."""
    parser = argparse.ArgumentParser(
        prog="python data/from_images.py",
        description="Make an image set (HDF5) from FOLDER/CLASS/*.png (or .jpg, .jpeg), or from FOLDER/train/CLASS and FOLDER/test/CLASS.",
    )
    parser.add_argument("folder", type=Path, help="holds one folder for each class")
    parser.add_argument("--output", metavar="FILE", required=True, help="file to write")
    parser.add_argument("--name", help="the set's name (default: the output's)")
    parser.add_argument(
        "--size", type=_size, metavar="HxW", help="resize all images to this height and width in pixels (default: they must be of one size)"
    )
    parser.add_argument("--grayscale", action="store_true", help="one channel (default: three, unless all images are gray)")
    parser.add_argument(
        "--test-fraction",
        type=_fraction,
        default=0.2,
        help="part of each class that becomes the test set, without train/ and test/ (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="decides which, and the order of the images (default %(default)s)")
    args = parser.parse_args(arguments)

    def work() -> None:
        name = args.name or Path(args.output).stem
        write_image_folder(
            args.output, args.folder, name=name, size=args.size, grayscale=args.grayscale, test_fraction=args.test_fraction, seed=args.seed
        )

    return _run(parser, work, args.output)


def _run(parser: argparse.ArgumentParser, work: Callable[[], None], output: str) -> int:
    """Do the work and say what there is now; on bad input one line and exit code 2."""
    try:
        work()
        say(_describe(read_info(output)))
    except InputError as error:
        tell(f"{parser.prog.removeprefix('python ')}: error: {printable(str(error))}")
        return 2
    return 0


def _describe(info: DatasetInfo) -> str:
    channels, height, width = info.image_shape
    return (
        f"{info.path}: {info.name}, {info.examples['train']:,} training and {counted(info.examples['test'], 'test image')}, "
        f"{channels}x{height}x{width} (channels x height x width), {counted(info.classes, 'class')}"
    )


def _idx_path(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.exists():
            return path
    raise InputError(f"{folder / name}[.gz] is not there: name the folder of the IDX files, or the file with a flag")


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give height x width in pixels, such as 32x32")
    return int(height), int(width)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0 and below 1")
    return value

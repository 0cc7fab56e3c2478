"""Which reader takes a source: known by its content, a folder by what it holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from distcnn.datasets.importers.cifar import is_cifar, read_cifar
from distcnn.datasets.importers.csv_table import read_csv
from distcnn.datasets.importers.folders import read_folder
from distcnn.datasets.importers.hdf5_arrays import read_hdf5
from distcnn.datasets.importers.idx import find_idx, read_idx_source, unpacked
from distcnn.datasets.importers.labels import natural
from distcnn.datasets.importers.mat import read_mat
from distcnn.datasets.importers.named_arrays import split_of
from distcnn.datasets.importers.npz import read_npz
from distcnn.datasets.importers.parquet import read_parquet
from distcnn.datasets.importers.source import Notify, Options, Source, damage_named
from distcnn.datasets.opening import OTHER_FORMATS, SIGNATURE
from distcnn.datasets.opening import PICKLE as PICKLE_KIND
from distcnn.datasets.pictures import SUFFIXES
from distcnn.errors import InputError
from distcnn.system.files import open_named
from distcnn.system.wording import first_few

HEAD_BYTES = 4096
FOLDER, IDX, NUMPY, MAT, MAT_73, HDF5, PARQUET, CSV, CIFAR, PICKLE = (
    *("a folder of images", "IDX", "NumPy", "MATLAB", "MATLAB 7.3", "HDF5", "Parquet", "CSV"),
    *("CIFAR", "a Python pickle"),
)
SUFFIX_KINDS = {
    ".npz": NUMPY,
    ".npy": NUMPY,
    ".mat": MAT,
    ".h5": HDF5,
    ".hdf5": HDF5,
    ".parquet": PARQUET,
    ".csv": CSV,
}
"""What a folder may hold instead of images; a file's content then decides."""
IMAGE_MAGICS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")
READERS: dict[str, Callable[[Sequence[Path], Options, Notify], Source]] = {
    FOLDER: lambda paths, options, notify: read_folder(paths[0], options, notify),
    IDX: lambda paths, *_: read_idx_source(paths),
    CIFAR: lambda paths, options, _: read_cifar(paths[0], options),
    CSV: lambda paths, options, _: read_csv(paths, options),
    NUMPY: lambda paths, options, _: read_npz(paths, options),
    MAT: lambda paths, options, _: read_mat(paths, options),
    MAT_73: lambda paths, options, _: read_hdf5(paths, options, matlab=True),
    HDF5: lambda paths, options, _: read_hdf5(paths, options),
    PARQUET: read_parquet,
}
OF_ARRAYS = {"image_size", "layout", "transpose", "scale"}
OF_NAMED = OF_ARRAYS | {"images", "labels", "test_images", "test_labels"}
OF_PICTURES = {"size", "grayscale", "background"}
USED = dict.fromkeys((NUMPY, MAT, MAT_73, HDF5), OF_NAMED) | {
    FOLDER: OF_PICTURES | {"class_order"},
    PARQUET: OF_PICTURES | {"images", "labels"},
    CSV: OF_ARRAYS | {"labels"},
    CIFAR: OF_ARRAYS | {"coarse"},
    IDX: OF_ARRAYS,
}
"""Which of the options say something about each format."""
KNOWN = "IDX, .npz, .npy, CSV, .mat, HDF5, Parquet, CIFAR's archives, or folders of images"


def read_source(paths: Sequence[Path], options: Options, notify: Notify) -> Source:
    """Read a folder, a file or several files of one format.

    Raises:
        InputError: Says what is wrong with the source, or which flag is needed.
    """
    paths = [path for path in paths if not path.name.lower().endswith("mapping.txt")] or list(paths)
    kinds = {path: kind_of(path) for path in paths}
    if len(set(kinds.values())) > 1:
        listed = first_few(f"{path} is {kind}" for path, kind in kinds.items())
        raise InputError(f"{listed}: all sources must have one format")
    kind = kinds[paths[0]]
    if kind in (FOLDER, CIFAR) and len(paths) > 1:
        raise InputError(
            f"{paths[1]}: name one folder or archive of {kind.removeprefix('a folder of ')}"
        )
    has_names = kind not in (FOLDER, IDX, CIFAR)
    if kind == PICKLE:
        raise InputError(
            f"{paths[0]} is {PICKLE_KIND}: of pickles, only a whole folder cifar-10-batches-py or"
            " cifar-100-python is read; save the arrays of others with numpy.savez"
        )
    for flag in sorted(set().union(*USED.values()) - USED[kind]):
        if getattr(options, flag) != getattr(Options, flag):
            flag = flag.replace("_", "-")
            raise InputError(f"--{flag} has no effect on {kind}: leave it out")
    if paths[0].is_dir() and has_names:
        paths = _files_in(paths[0])
    with damage_named(first_few(paths)):
        return READERS[kind](paths, options, notify)


def kind_of(path: Path) -> str:
    """The format of a file or folder. ``InputError`` if it is none that is known."""
    if os.path.isdir(path):  # noqa: PTH112  (Path's raises for a name that is too long)
        return _kind_of_folder(path)
    with damage_named(path), ExitStack() as held:
        head = unpacked(held.enter_context(open_named(path)), held).read(HEAD_BYTES)
    if not head:
        raise InputError(f"{path} is empty: it must be one of {KNOWN}")
    return _kind_of_content(path, head)


def _kind_of_content(path: Path, head: bytes) -> str:
    known = {
        b"PK\x03\x04": NUMPY,
        b"\x93NUMPY": NUMPY,
        b"MATLAB 5.0": MAT,
        b"MATLAB 7.3": MAT_73,
        b"PAR1": PARQUET,
        b"\0\0\x08": IDX,
        b"\x80": PICKLE,
    }
    for magic, kind in known.items():
        if head.startswith(magic):
            return kind
    if SIGNATURE in head:
        return HDF5
    if head[257:262] == b"ustar":
        return CIFAR
    if path.name.endswith("_batch.bin") or path.name.startswith("data_batch_"):
        raise InputError(f"{path} is a part of CIFAR: name the folder that holds all of it")
    if path.suffix.lower() in SUFFIXES or head.startswith(IMAGE_MAGICS):
        raise InputError(
            f"{path} is one image: name the folder that holds one folder of images for each class"
        )
    for magic, what in OTHER_FORMATS.items():
        if head.startswith(magic):
            raise InputError(f"{path} is {what}: it must be one of {KNOWN}")
    if set(head) & (set(range(32)) - set(b"\t\n\r\f")):
        raise InputError(f"{path} has a format that is not known: it must be one of {KNOWN}")
    return CSV


def _kind_of_folder(folder: Path) -> str:
    try:
        paths = list(folder.iterdir())
        if is_cifar([path.name for path in paths if path.is_file()]):
            return CIFAR
        if any(find_idx(folder, "train", part) for part in ("images", "labels")):
            return IDX
        files = _files_in(folder)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be read ({error.strerror}): check its permissions"
        ) from error
    kinds = {SUFFIX_KINDS[_suffix(path)] for path in files}
    has_folders = any(path.is_dir() and not path.name.startswith(".") for path in paths)
    others = [path.name for path in paths if path.is_file() and not path.name.startswith(".")]
    if not kinds and not has_folders and others and not _with_images(others):
        raise InputError(f"{folder} holds {first_few(others)}: name the files to read")
    if not kinds or (has_folders and kinds != {PARQUET}):
        return FOLDER
    if len(kinds) > 1:
        raise InputError(f"{folder} holds files of {first_few(sorted(kinds))}: name those to read")
    return kind_of(files[0])


def _files_in(folder: Path) -> list[Path]:
    """The files in a folder that are not images, in natural order; Parquet files one level below
    too.
    """
    found = [path for path in folder.iterdir() if _suffix(path) in SUFFIX_KINDS]
    found = found or list(folder.glob("*/*.parquet"))
    places = sorted({path.parent.name for path in found})
    if len(places) > 1 and not all(map(split_of, places)):
        raise InputError(f"{folder} holds several sets: name one of {first_few(places)}")
    visible = [path for path in found if path.is_file() and not path.name.startswith(".")]
    return sorted(visible, key=lambda path: natural(path.name))


def _suffix(path: Path) -> str:
    """The ending of a file's name, without that of gzip."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _with_images(names: Sequence[str]) -> bool:
    return any(Path(name).suffix.lower() in SUFFIXES for name in names)

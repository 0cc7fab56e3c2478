"""Each format cut off at many lengths and with many bytes changed: the result is a set, or one line
that names the source or a flag.
"""

from __future__ import annotations

import gzip
import io
import pickle
import random
import resource
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from tests.support.converting import run

MOST_MEBIBYTES = 60
MOST_SECONDS = 20
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (10, 8, 6, 3)).astype(np.uint8)
LABELS = np.arange(10) % 2
Write = Callable[[Path], Path]
"""Writes a source into a folder, and gives the file to damage."""


def idx_file(array: NDArray[np.integer]) -> bytes:
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def idx(folder: Path) -> Path:
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx_file(IMAGES))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx_file(LABELS))
    return folder / "train-images-idx3-ubyte"


def gzipped_idx(folder: Path) -> Path:
    path = idx(folder)
    zipped = path.with_name(f"{path.name}.gz")
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return zipped


def npz(folder: Path) -> Path:
    np.savez(folder / "a.npz", images=IMAGES, labels=LABELS)
    return folder / "a.npz"


def compressed_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "a.npz", images=IMAGES, labels=LABELS)
    return folder / "a.npz"


def csv(folder: Path) -> Path:
    rows = np.column_stack([LABELS, IMAGES.reshape(10, -1)])
    names = ",".join(["label", *(f"pixel{i}" for i in range(IMAGES[0].size))])
    np.savetxt(folder / "a.csv", rows, "%d", delimiter=",", header=names, comments="")
    return folder / "a.csv"


def mat(folder: Path) -> Path:
    variables = {"X": IMAGES.transpose(1, 2, 3, 0), "y": LABELS[:, None], "text": "x", "z": [1j]}
    scipy.io.savemat(folder / "a.mat", variables)
    return folder / "a.mat"


def compressed_mat(folder: Path) -> Path:
    part = {"images": IMAGES[..., 0].reshape(10, -1) / 255, "labels": LABELS + 1.0}
    variables = {"dataset": {"train": part, "test": part, "mapping": np.array([[1, 65], [2, 66]])}}
    scipy.io.savemat(folder / "emnist-a.mat", variables, do_compression=True)
    return folder / "emnist-a.mat"


def hdf5(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("x", data=IMAGES, chunks=(5, 8, 6, 3), compression="gzip")
        file["y"], file["list_classes"] = LABELS, np.array([b"cat", b"dog"])
    return folder / "a.h5"


def mat_73(folder: Path) -> Path:
    path = folder / "a.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["images"], file["labels"] = IMAGES.T, LABELS[None] * 1.0
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(128) + path.read_bytes()[128:])
    return path


def pickled_cifar(folder: Path) -> Path:
    batch = {b"data": RNG.integers(0, 256, (2, 3072)).astype(np.uint8), b"labels": [0, 1]}
    for name in ("data_batch_1", "test_batch"):
        (folder / name).write_bytes(pickle.dumps(batch, 2))
    return folder / "data_batch_1"


def cifar_archive(folder: Path) -> Path:
    path = folder / "cifar.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("data_batch_1.bin", "test_batch.bin"):
            member = tarfile.TarInfo(name)
            member.size = 2 * 3073
            archive.addfile(member, io.BytesIO(bytes(3073) + b"\1" * 3073))
    return path


def encoded(image: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    memory = io.BytesIO()
    Image.fromarray(image).save(memory, kind)
    return memory.getvalue()


def parquet(folder: Path) -> Path:
    table = pyarrow.table({"image": [encoded(each) for each in IMAGES], "label": LABELS})
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    return folder / "a.parquet"


def pictures(kind: str) -> Write:
    def write(folder: Path) -> Path:
        for index, image in enumerate(IMAGES[:4]):
            path = folder / f"{index % 2}/{index}.{kind.lower()}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encoded(image, kind))
        return path

    write.__name__ = f"folder of {kind}"
    return write


FILES = [idx, gzipped_idx, npz, compressed_npz, csv, mat, compressed_mat, hdf5, mat_73, parquet]
FILES += [pickled_cifar, cifar_archive, pictures("PNG"), pictures("JPEG"), pictures("TIFF")]


def damaged(content: bytes) -> Iterator[bytes]:
    """The content cut off, with a byte or four changed, and with a part left out or doubled."""
    rng, size = random.Random(0), len(content)
    for length in range(1, size, size // 5):
        yield content[:length]
    for _ in range(6):
        place = min(rng.randrange(size), rng.randrange(size))  # rather in headers
        yield content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
        number = rng.choice([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", bytes(4)])
        yield content[:place] + number + content[place + 4 :]
    for _ in range(2):
        first, last = sorted(rng.sample(range(size), 2))
        yield content[:first] + content[last:]
        yield content[:last] + content[first:]


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("write", FILES, ids=lambda write: write.__name__)
def test_a_damaged_source_gives_a_set_or_one_line(tmp_path: Path, write: Write) -> None:
    folder, output = tmp_path / "in", tmp_path / "out.h5"
    folder.mkdir()
    path = write(folder)
    source = path if path.suffix in (".mat", ".tar", ".npz") else folder
    flags = ["--image-size", "8x6x3"] if path.suffix == ".csv" else []
    flags = ["--image-size", "8x6"] if "emnist" in path.name else flags
    assert run([source, "--output", output, *flags])[0] == 0
    content, refusals = path.read_bytes(), 0
    start, before = time.monotonic(), peak_mebibytes()
    for changed in damaged(content):
        path.write_bytes(changed)
        code, out, err = run([source, "--output", output, *flags])
        if code:
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert str(source) in err or "error: --" in err
            refusals += 1
    assert refusals
    assert peak_mebibytes() - before < MOST_MEBIBYTES
    assert time.monotonic() - start < MOST_SECONDS

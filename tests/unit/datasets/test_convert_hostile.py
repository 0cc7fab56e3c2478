"""Sources that are missing, damaged, of another kind, or made to do harm: one line, exit code 2, no
output, no code run, no memory taken.
"""

from __future__ import annotations

import gzip
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import scipy.io
from numpy.typing import NDArray

from tests.support.converting import MEBIBYTE, Evil, output_beside, refused, refused_cheaply, run

ToIdx = Callable[[NDArray[np.integer]], bytes]
IMAGES, LABELS = np.arange(480, dtype=np.uint8).reshape(20, 4, 6), np.arange(20) % 2


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "in/a.npz"
    path.parent.mkdir()
    np.savez(path, images=IMAGES, labels=LABELS)
    return path


# -- not a source


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n", "is one image"),
        (b"\xff\xd8\xff\xe0", "is one image"),
        (b"<!DOCTYPE html>", "the download failed"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"BZh91AY", "bzip2"),
        (b"\x01\x02\x03\x04", "format that is not known"),
        (b"just a text\nwith lines\n", "holds text, not numbers"),
        (b"1,2,3,4\n", "a row per image"),
        (b"\x80\x04\x95", "pickle, which may run code"),
        (b"\x1f\x8b\x08\x00garbage", "damaged"),
        (b"PK\x03\x04rubbish", "damaged"),
        (b"\x93NUMPY\x01\x00", "damaged"),
        (b"MATLAB 5.0 MAT-file".ljust(128, b"x"), "damaged"),
        (b"MATLAB 7.3 MAT-file".ljust(600, b"x"), "not a"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "not a complete HDF5 file"),
        (b"PAR1PAR1", "is damaged"),
        (b"\0\0\x08\x03", "rename it"),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else "",
)
@pytest.mark.parametrize("name", ["a.npz", "b.h5"])
def test_other_files_are_named_for_what_they_are(
    tmp_path: Path, content: bytes, says: str, name: str
) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(content)
    assert says in refused(path)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert "No such file" in refused(tmp_path / "in/nowhere.npz")
    os.mkfifo(tmp_path / "in/pipe")
    assert "named pipe" in refused(tmp_path / "in/pipe")
    assert "folders with" in refused(tmp_path / "in")
    image = tmp_path / "in/a.png"
    image.write_bytes(b"\x01\x02")
    assert "folder of images for each class" in refused(image)


def test_sources_of_two_kinds_are_refused(tmp_path: Path, npz: Path) -> None:
    text = npz.with_name("b.csv")
    text.write_text("0,1,2,3,4\n1,2,3,4,5\n")
    assert "all sources must have one format" in refused(npz, text)
    assert "name those to read" in refused(npz.parent)


def test_an_output_that_is_the_source_is_refused(npz: Path) -> None:
    before = npz.read_bytes()
    link = npz.with_name("link")
    link.symlink_to(npz)
    for output in (npz, link):
        code, _, err = run([npz, "--output", output])
        assert (code, err.count("\n")) == (2, 1)
        assert "the source itself" in err
    assert npz.read_bytes() == before


@pytest.mark.parametrize("output", ["folder", "file/a.h5", f"{'a' * 300}.h5"])
def test_an_output_that_cannot_be_written_is_said_first(npz: Path, output: str) -> None:
    (npz.parent / "folder").mkdir()
    (npz.parent / "file").touch()
    code, out, err = run([npz, "--output", npz.parent / output])
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot be written" in err
    assert out == "" or "a" * 300 in output  # the system alone knows how long a name may be


@pytest.mark.parametrize("name", ["text.csv", "photo.jpg", "weights.h5"])
def test_only_an_image_set_is_replaced(npz: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / name
    if name == "weights.h5":
        with h5py.File(output, "w") as file:
            file["conv1.weight"] = np.ones(3)
    else:
        output.write_text("mine")
    before = output.read_bytes()
    code, _, error = run([npz, "--output", output])
    assert (code, error.count("\n")) == (2, 1)
    assert f"{output} is there" in error
    assert output.read_bytes() == before
    output.unlink()
    for _ in range(2):
        assert run([npz, "--output", output])[0] == 0


def test_a_name_that_is_too_long_is_one_line(npz: Path) -> None:
    long = npz.parent / ("a" * 300)
    assert "cannot be read" in refused(long)
    assert "no such file" in refused(npz, "--class-names", long)


def test_flags_without_effect_are_refused(npz: Path, idx_folder: Path, image_folder: Path) -> None:
    for flags in (["--size", "3x3"], ["--grayscale"], ["--background", "black"], ["--coarse"]):
        assert f"{flags[0]} has no effect" in refused(npz, *flags)
    assert "no effect" in refused(idx_folder, "--labels", "x")
    assert "no effect" in refused(image_folder, "--scale", "0", "1")
    assert "leave it out" in refused(npz, "--image-size", "4x6")
    assert "no validation split" in refused(npz, "--validation-split", "drop")


@pytest.mark.parametrize("value", ["4", "0x4", "4x4x4x4", "axb", "99999999x4"])
def test_bad_sizes_are_refused(npz: Path, value: str) -> None:
    assert "is not a size" in refused(npz, "--image-size", value)


@pytest.mark.parametrize("value", ["/nosuch/x.png", "x.jpg", "x"])
def test_a_preview_that_cannot_be_drawn_is_refused_before_the_work(npz: Path, value: str) -> None:
    assert "--preview" in refused(npz, "--preview", value)


def test_a_failure_leaves_the_older_file(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = output_beside(npz)
    assert run([npz, "--output", output])[0] == 0
    older = output.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distcnn.datasets.writer.leaves_of", interrupted)
    code, _, err = run([npz, "--output", output])
    assert (code, err) == (130, "distcnn.convert: interrupted\n")
    assert [path.read_bytes() for path in output.parent.glob(f"*{output.name}*")] == [older]


# -- NumPy


def with_member(path: Path, name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr(f"{name}.npy", content)


def header(shape: str, kind: str = "|u1") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ("(1000000000000, 4, 4)", "|u1"),
        ("(20, 4, 6)", "<U100000000"),
        ("(-20, 4, 6)", "|u1"),
        ("(20, 4, 6)", "|O"),
        ("(2**20, 4)", "|u1"),
        ("(20, 4, 6)", "<m8[s]"),
    ],
    ids=["huge", "wide", "negative", "objects", "expression", "times"],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_headers_that_lie_are_refused(tmp_path: Path, shape: str, kind: str, method: int) -> None:
    path = tmp_path / "in/a.npz"
    path.parent.mkdir()
    np.savez(path, y=LABELS)
    with_member(path, "x", header(shape, kind) + bytes(480), method)
    refused_cheaply(path, "--images", "x", "--labels", "y")


def test_pickled_objects_in_npz_never_run(tmp_path: Path) -> None:
    path = tmp_path / "in/a.npz"
    path.parent.mkdir()
    marker = tmp_path / "ran"
    np.savez(path, images=np.array([Evil(marker)], object), labels=LABELS)
    assert "may run code" in refused(path, "--images", "images", "--labels", "labels")
    assert not marker.exists()


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in/a.npz"
    path.parent.mkdir()
    np.savez(path, labels=LABELS)
    with_member(path, "images", header("(20, 2000, 2000)") + bytes(80_000_000))
    monkeypatch.setattr("distcnn.datasets.importers.source.free_memory", lambda: 2**24)
    assert "GiB of memory" in refused_cheaply(path)


# -- text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0,1,2,3,4\n1,2,3,4\n", "line 2: 4 columns instead of 5"),
        ("0,1,2,3,4\n1,2,3,x,5\n", "line 2: 'x' is not a number"),
        ("0,1,2,3,4\n1,2,3,,5\n", "line 2: a pixel is missing"),
        ("0,1,2,3,4\n,2,3,4,5\n", "row 2 of the images has no label"),
        ("0,1,2,3,4\n1,2,3,1e999,5\n", "not finite"),
        ("0,1,2,3,4\n1,2,3,nan,5\n", "not finite"),
        ("0,1,2,3,4\n1,2,3,0x10,5\n", "not a number"),
        ('0,1,2,3,4\n1,2,3,"4,5\n', "columns instead of 5"),
        ("a,b,c\n" * 2, "text, not numbers"),
    ],
)
def test_damaged_rows_are_refused_by_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "in/a.csv"
    path.parent.mkdir()
    path.write_text(text)
    assert says in refused(path, *([] if text.startswith("a") else ["--labels", "first"]))


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distcnn.datasets.importers.csv_table.MOST_LINE_BYTES", MEBIBYTE)
    path = tmp_path / "in/a.csv.gz"
    path.parent.mkdir()
    with gzip.open(path, "wb") as file:
        for _ in range(64):
            file.write(b"0," * MEBIBYTE)
    assert "a line of more than" in refused_cheaply(path)


def test_a_text_that_unpacks_to_more_than_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distcnn.datasets.importers.source.free_memory", lambda: 2**20)
    path = tmp_path / "in/a.csv.gz"
    path.parent.mkdir()
    with gzip.open(path, "wb") as file:
        row = b"1," + b"7," * 899 + b"7\n"
        file.writelines([b"0" + row[1:], row] * 4000)
    assert "GiB of memory" in refused_cheaply(path, "--labels", "first")


# -- MATLAB, HDF5, Parquet, IDX


def test_a_mat_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in/a.mat"
    path.parent.mkdir()
    zeros = np.zeros((50, 1000, 1000), np.uint8)
    scipy.io.savemat(path, {"s": {"X": zeros}, "y": LABELS}, do_compression=True)
    monkeypatch.setattr("distcnn.datasets.importers.source.free_memory", lambda: 2**24)
    assert "GiB of memory" in refused_cheaply(path)


def test_a_mat_of_endless_parts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in/a.mat"
    path.parent.mkdir()
    parts = zlib.compress(struct.pack("<II", 14, 2**23) + bytes(2**23))
    path.write_bytes(b"MATLAB 5.0".ljust(126) + b"IM" + struct.pack("<II", 15, len(parts)) + parts)
    assert "more than 1,000 parts" in refused_cheaply(path)


def test_mat_shapes_beyond_the_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "in/a.mat"
    path.parent.mkdir()
    scipy.io.savemat(path, {"X": IMAGES, "y": LABELS})
    content = path.read_bytes()
    dimensions = struct.pack("<iii", *IMAGES.shape)
    assert dimensions in content
    path.write_bytes(content.replace(dimensions, struct.pack("<iii", 2**30, 2**20, 6)))
    refused_cheaply(path)


@pytest.mark.parametrize("size", [(0, 6), (4, 0)])
def test_idx_without_pixels_is_refused(
    tmp_path: Path, idx: ToIdx, idx_folder: Path, size: tuple[int, int]
) -> None:
    for file, count in (("train-images-idx3-ubyte.gz", 5), ("t10k-images-idx3-ubyte", 3)):
        (idx_folder / file).write_bytes(idx(np.zeros((count, *size), np.uint8)))
    assert "no pixels" in refused(idx_folder)


def test_hdf5_that_was_never_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in/a.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file.create_dataset("images", (2**40, 28, 28), "u1", chunks=(1, 28, 28))
        file["labels"] = LABELS
        file["link"] = h5py.ExternalLink("/etc/passwd", "/")
    assert "never written" in refused_cheaply(path)


def test_hdf5_larger_than_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in/a.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        data = np.zeros((20, 1000, 1000), np.uint8)
        file.create_dataset("images", data=data, chunks=(20, 1000, 1000), compression="gzip")
        file["labels"] = LABELS
    monkeypatch.setattr("distcnn.datasets.importers.source.free_memory", lambda: 2**20)
    assert "GiB of memory" in refused_cheaply(path)


def picture(size: int) -> bytes:
    """A PNG whose header says ``size`` x ``size`` gray pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    start = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((size + 1) * min(size, 50)))
    parts = [chunk(b"IHDR", start), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (picture(100_000), "decompression bomb"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "it is not PNG"),
        (b"", "it is not PNG"),
        (None, "not in the file"),
    ],
    ids=["bomb", "EPS", "empty", "missing"],
)
def test_bad_pictures_in_parquet_are_refused_by_row(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    path = tmp_path / "in/a.parquet"
    path.parent.mkdir()
    table = pyarrow.table({"image": [picture(3), content], "label": [0, 1]})
    pyarrow.parquet.write_table(table, path)
    said = refused_cheaply(path)
    assert says in said
    assert "row 1" in said


def test_parquet_with_labels_that_are_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in/a.parquet"
    path.parent.mkdir()
    table = pyarrow.table({"image": [picture(3)] * 2, "label": [0, None]})
    pyarrow.parquet.write_table(table, path)
    assert "one number or text" in refused(path)


def test_parquet_of_several_sets_is_refused(tmp_path: Path) -> None:
    for place in ("fashion", "mnist"):
        path = tmp_path / "in" / place / "train-0.parquet"
        path.parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.table({"image": [picture(3)], "label": [0]}), path)
    assert "name one of fashion, mnist" in refused(tmp_path / "in")


def test_folders_in_folders_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in" / "/".join("d" * 400)).mkdir(parents=True)
    assert "nested more than 50 deep" in refused(tmp_path / "in")


def test_parquet_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in/a.parquet"
    path.parent.mkdir()
    table = pyarrow.table({"image": [picture(3)], "label": [0]})
    pyarrow.parquet.write_table(table.slice(0, 0), path)
    assert "no rows" in refused(path)


def test_idx_labels_that_unpack_without_end_are_refused(
    tmp_path: Path, idx: ToIdx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distcnn.datasets.importers.source.free_memory", lambda: 2**24)
    count = 2**26
    head = struct.pack(">HBBIII", 0, 8, 3, count, 4, 4)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(head)
    labels = gzip.compress(struct.pack(">HBBI", 0, 8, 1, count) + bytes(count), 1)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(labels)
    for part in ("images-idx3", "labels-idx1"):
        source = tmp_path / f"train-{part}-ubyte{'.gz' if 'labels' in part else ''}"
        (tmp_path / f"t10k-{part}-ubyte{source.suffix}").write_bytes(source.read_bytes())
    assert "GiB of memory" in refused_cheaply(tmp_path)

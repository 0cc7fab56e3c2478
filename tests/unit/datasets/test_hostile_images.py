"""Files that are not what their names say, that unpack without end, that never end: one line, exit
code 2, no output and no wait.
"""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from distcnn.datasets.commands import idx_command, images_command

MEBIBYTE = 2**20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of four images of 4x6 pixels; the last of class b, ``b/3.png``, is there to be
    replaced.
    """
    for index in range(8):
        path = tmp_path / f"in/{'ab'[index // 4]}/{index % 4}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6), 30 * index, np.uint8)).save(path)
    return tmp_path / "in"


def assert_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], *says: str, flags: tuple[str, ...] = ()
) -> None:
    output = folder.parent / "out.h5"
    assert images_command([str(folder), "--output", str(output), *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("data/from_images.py: error: ")
    assert said.count("\n") == 1
    for each in says:
        assert each in said
    assert not list(output.parent.glob("*out.h5*"))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG of 8 bits of gray, its header and then ``chunks``."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def bomb(mebibytes: int) -> bytes:
    """So much of zeros, compressed."""
    pressed = zlib.compressobj(9)
    return b"".join(
        [*(pressed.compress(bytes(MEBIBYTE)) for _ in range(mebibytes)), pressed.flush()]
    )


def text_bomb() -> bytes:
    return png(
        6, 4, chunk(b"zTXt", b"key\0\0" + bomb(200)), chunk(b"IDAT", zlib.compress(bytes(28)))
    )


def many_texts() -> bytes:
    pressed = bomb(1)
    return png(
        6,
        4,
        *(chunk(b"zTXt", b"key\0\0" + pressed) for _ in range(100)),
        chunk(b"IDAT", zlib.compress(bytes(28))),
    )


def profile_bomb() -> bytes:
    return png(
        6, 4, chunk(b"iCCP", b"key\0\0" + bomb(200)), chunk(b"IDAT", zlib.compress(bytes(28)))
    )


@pytest.mark.parametrize("make", [text_bomb, many_texts], ids=["one text", "many texts"])
@pytest.mark.parametrize("flags", [(), ("--size", "4x6", "--grayscale")], ids=" ".join)
def test_texts_that_unpack_to_far_more_are_refused_by_name(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[], bytes],
    flags: tuple[str, ...],
) -> None:
    (folder / "b/3.png").write_bytes(make())
    tracemalloc.start()
    assert_refused(
        folder, capsys, "b/3.png cannot be read as an image", "replace or remove it", flags=flags
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 128 * MEBIBYTE


def test_a_color_profile_that_unpacks_to_far_more_takes_no_memory(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b/3.png").write_bytes(profile_bomb())
    tracemalloc.start()
    code = images_command([str(folder), "--output", str(folder.parent / "out.h5")])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert code in (0, 2)  # Pillow may read the pixels and leave the profile out
    assert "Traceback" not in capsys.readouterr().err
    assert peak < 64 * MEBIBYTE


@pytest.mark.parametrize("side", [10_000, 20_000, 2**31 - 1])
def test_more_pixels_than_any_image_has_are_refused_unread(
    folder: Path, capsys: pytest.CaptureFixture[str], side: int
) -> None:
    (folder / "b/3.png").write_bytes(png(side, side, chunk(b"IDAT", bomb(1))))
    assert_refused(folder, capsys, "b/3.png cannot be read as an image", flags=("--size", "4x6"))


def test_images_too_large_to_train_on_are_refused_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        path = tmp_path / f"in/{split}/a/x.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(png(5000, 5000, chunk(b"IDAT", bomb(24))))
    assert_refused(tmp_path / "in", capsys, "5000x5000", "--size")


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EndComments\n0 0 6 4 rectfill\nshowpage\n"
)


@pytest.mark.parametrize(
    "content",
    [
        POSTSCRIPT,
        b"P5 6 4 255\n" + bytes(24),
        b"%PDF-1.4\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"",
        b"GIF89a",
    ],
    ids=["EPS", "PGM", "PDF", "SVG", "JPEG 2000", "empty", "cut off"],
)
@pytest.mark.parametrize("name", ["3.png", "x.tif", "x.webp"])
def test_other_formats_are_never_opened_whatever_they_are_named(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    name: str,
) -> None:
    started = folder.parent / "ghostscript-was-started"
    for program in ("gs", "gswin32c"):
        path = folder.parent / f"bin/{program}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ntouch '{started}'\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder.parent}/bin:{os.environ['PATH']}")
    (folder / "b" / name).write_bytes(content)
    assert_refused(folder, capsys, f"b/{name} cannot be read as an image")
    assert not started.exists()


def test_the_content_decides_among_the_formats(folder: Path) -> None:
    for number, kind in enumerate(("JPEG", "BMP", "GIF", "TIFF", "WEBP")):
        Image.fromarray(np.full((4, 6), 10 * number, np.uint8)).save(folder / f"b/{kind}.png", kind)
    assert images_command([str(folder), "--output", str(folder.parent / "out.h5")]) == 0


@pytest.mark.parametrize("kind", ["named pipe", "device", "nowhere"])
def test_what_is_not_a_regular_file_is_refused_without_waiting(
    folder: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = folder / "b/3.png"
    path.unlink()
    if kind == "named pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else folder / "nothing")
    assert_refused(folder, capsys, "b/3.png", "cannot be read" if kind == "nowhere" else kind)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte.gz"])
def test_a_named_pipe_as_an_idx_file_is_refused_without_waiting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for each in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        sizes = (2, 3, 4) if "idx3" in each else (2,)
        content = (
            bytes([0, 0, 8, len(sizes)])
            + struct.pack(f">{len(sizes)}I", *sizes)
            + bytes(range(int(np.prod(sizes))))
        )
        (tmp_path / f"{each}-ubyte").write_bytes(content)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    assert idx_command([str(tmp_path), "--output", str(tmp_path / "out.h5")]) == 2
    said = capsys.readouterr().err
    assert f"{name} is a named pipe" in said
    assert said.count("\n") == 1


def test_damaged_exif_data_do_not_matter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, exif in enumerate(
        (
            b"Exif\0\0",
            b"Exif\0\0MM\0*\xff\xff\xff\xff",
            b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
            b"garbage",
        )
    ):
        Image.fromarray(np.full((4, 6), 50 * number, np.uint8)).save(
            folder / f"a/{number}.jpg", exif=exif
        )
    assert images_command([str(folder), "--output", str(folder.parent / "out.h5")]) == 0, (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".gif", ".tif", ".webp", ".tiff"])
def test_whatever_becomes_of_a_file_there_is_no_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    rng = np.random.default_rng(0)
    path = folder / f"b/damaged{suffix}"
    image = Image.fromarray(rng.integers(0, 256, (4, 6, 3)).astype(np.uint8))
    information = PngImagePlugin.PngInfo()
    information.add_text("key", "text", zip=True)
    image.save(
        path,
        **{".png": {"pnginfo": information}, ".tiff": {"compression": "tiff_lzw"}}.get(suffix, {}),
    )  # type: ignore[arg-type]
    content = path.read_bytes()
    for _ in range(25):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 1 + rng.integers(8)):
            damaged[position] = rng.integers(256)
        path.write_bytes(
            damaged[: rng.integers(1, len(damaged) + 1)] if rng.integers(2) else damaged
        )
        code = images_command(
            [str(folder), "--size", "4x6", "--output", str(folder.parent / "out.h5")]
        )
        said = capsys.readouterr().err.splitlines()
        assert code in (0, 2), said
        assert all(line.startswith("data/from_images.py: ") for line in said), said
        assert code == 0 or said[-1].startswith("data/from_images.py: error: ")

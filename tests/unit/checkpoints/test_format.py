"""The format of a checkpoint: it is read as it was written, and the header reveals every cut,
appended byte and flipped bit.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from distcnn.checkpoints import Checkpoint, CheckpointError
from distcnn.checkpoints.format import decode, encode
from distcnn.errors import InputError

PROPERTY = settings(max_examples=100, deadline=None, derandomize=True)
DTYPES = st.sampled_from(
    [np.dtype(name) for name in ("float32", "float64", "int64", "uint8", "bool")]
)
NAMES = st.from_regex(r"[a-z0-9_.]*[a-z0-9_]", fullmatch=True)

SMALL = Checkpoint(
    {"step": 4, "model": "tutorial"},
    {"metrics": '{"kind": "step"}\n', "receipt": ""},
    {
        "weights/conv1.bias": np.arange(5, dtype=np.float32),
        "weights/conv1.weight": np.ones((5, 1, 3, 3), np.float32),
    },
)


def file_of(checkpoint: Checkpoint) -> bytes:
    return b"".join(encode(checkpoint))


def header_of(version: int, body: bytes, digest: str = "") -> bytes:
    """The header as the format describes it, written independently."""
    first = f"distcnn checkpoint {version}\n"
    text = (
        f"{first}bytes {len(body)}\nsha256"
        f" {digest or hashlib.sha256(first.encode() + body).hexdigest()}\n"
    )
    return text.encode() + b"\n" * (512 - len(text))


def flipped(content: bytes, bit: int) -> bytes:
    """``content`` with bit number ``bit`` flipped."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    assert (found.attributes, found.texts) == (expected.attributes, expected.texts)
    assert list(map(type, found.attributes.values())) == list(
        map(type, expected.attributes.values())
    )
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (array.dtype, array.shape)
        assert found.arrays[name].tobytes() == array.tobytes()


# -- what goes in comes out


def test_a_checkpoint_comes_back() -> None:
    assert_same(decode(file_of(SMALL)), SMALL)
    assert_same(decode(file_of(Checkpoint())), Checkpoint())


@pytest.mark.parametrize(
    "value",
    [0, -1, 2**63 - 1, -(2**63), 2**64 - 1, "", "tutorial", "mein:Netz-für-Ziffern 数字"],
    ids=repr,
)
def test_attributes_come_back(value: int | str) -> None:
    assert_same(
        decode(file_of(Checkpoint({"step": 1, "value": value}))),
        Checkpoint({"step": 1, "value": value}),
    )


LONG = "".join(
    f'{{"kind": "step", "step": {number}, "loss": {number / 7}}}\n' for number in range(100_000)
)


@pytest.mark.parametrize(
    "text",
    ["", "\n", "no line feed", "größer, 数字, 🙂\r\n", "\0 and \x7f\0", LONG],
    ids=["empty", "feed", "plain", "wide", "zeros", "5 MB"],
)
def test_texts_come_back(text: str) -> None:
    assert_same(
        decode(file_of(Checkpoint({}, {"before": "a", "text": text}))),
        Checkpoint({}, {"before": "a", "text": text}),
    )


@PROPERTY
@given(data=st.data(), names=st.lists(NAMES, min_size=1, max_size=3, unique=True))
def test_arrays_of_any_shape_and_type_come_back_to_the_bit(
    data: st.DataObject, names: list[str]
) -> None:
    shapes = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    arrays = {
        f"weights/{name}": data.draw(npst.arrays(data.draw(DTYPES), data.draw(shapes)))
        for name in names
    }
    assert_same(decode(file_of(Checkpoint({}, {}, arrays))), Checkpoint({}, {}, arrays))


def test_a_folder_holds_what_is_below_its_name() -> None:
    arrays = {
        name: np.array([number])
        for number, name in enumerate(
            ["weights/a", "weights/b/c", "weights2/a", "more/weights/a", "x"]
        )
    }
    folder = decode(file_of(Checkpoint(arrays=arrays))).folder("weights")
    assert {name: array.tolist() for name, array in folder.items()} == {"a": [0], "b/c": [1]}
    assert Checkpoint(arrays=arrays).folder("none") == {}


# -- the file, as others see it


def test_the_header_is_text_of_512_bytes() -> None:
    header, body = encode(SMALL)
    assert header == header_of(1, body)
    assert header.decode("ascii").splitlines()[:2] == ["distcnn checkpoint 1", f"bytes {len(body)}"]


def test_h5py_opens_the_file_on_disk(tmp_path: Path) -> None:
    (tmp_path / "step.h5").write_bytes(file_of(SMALL))
    with h5py.File(tmp_path / "step.h5", "r") as file:
        assert file.userblock_size == 512
        assert dict(file.attrs) == {"step": 4, "model": "tutorial"}
        assert file["texts/metrics"][()].tobytes() == b'{"kind": "step"}\n'
        assert file["arrays/weights/conv1.bias"][()].tolist() == [0, 1, 2, 3, 4]
        assert file["arrays/weights/conv1.weight"].shape == (5, 1, 3, 3)


# -- damage


@pytest.fixture
def closed_hdf5(monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 must not read a single byte of a damaged file: it could be misled."""

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a damaged file was given to HDF5")

    monkeypatch.setattr(h5py, "File", refuse)


@pytest.fixture(scope="module")
def content() -> bytes:
    return file_of(SMALL)


def assert_all_noticed(damaged: dict[Any, bytes]) -> None:
    for where, content in damaged.items():
        with pytest.raises(CheckpointError, match=rf"\({len(content)} bytes\)"):
            pytest.fail(f"not noticed: {where}: {decode(content)}")


@pytest.mark.usefixtures("closed_hdf5")
def test_every_cut_is_noticed(content: bytes) -> None:
    assert {0, 1, 511, 512, 513, len(content) - 1} < set(range(len(content)))
    assert_all_noticed({length: content[:length] for length in range(len(content))})


@pytest.mark.usefixtures("closed_hdf5")
@pytest.mark.parametrize(
    "more", [b"\0", b"\n", b"a", b"\0" * 512, b"\n" * 4096, b"distcnn checkpoint 1\n"], ids=repr
)
def test_appended_bytes_are_noticed(content: bytes, more: bytes) -> None:
    assert_all_noticed(
        {
            "appended": content + more,
            "put before": more + content,
            "in the middle": content[:2000] + more + content[2000:],
        }
    )


@pytest.mark.usefixtures("closed_hdf5")
def test_every_flipped_bit_of_the_header_is_noticed(content: bytes) -> None:
    assert content.find(b"\n\n") < 120  # text first, then padding
    assert_all_noticed({f"bit {bit}": flipped(content, bit) for bit in range(512 * 8)})


@pytest.mark.usefixtures("closed_hdf5")
def test_flipped_bits_all_over_the_body_are_noticed(content: bytes) -> None:
    bits = np.random.default_rng(3).choice(
        np.arange(512 * 8, len(content) * 8), 1000, replace=False
    )
    assert_all_noticed({f"bit {bit}": flipped(content, int(bit)) for bit in bits})


@pytest.mark.usefixtures("closed_hdf5")
def test_sectors_lost_or_swapped_and_headers_of_another_body_are_noticed(content: bytes) -> None:
    header, body, first, second, rest = (
        content[:512],
        content[512:],
        content[512:1024],
        content[1024:1536],
        content[1536:],
    )
    digest = hashlib.sha256(b"distcnn checkpoint 1\n" + body).hexdigest()
    assert header_of(1, body, digest) == header
    damaged = {
        "a sector of zeros": header + bytes(512) + second + rest,
        "a sector lost": header + second + rest,
        "two sectors swapped": header + second + first + rest,
        "no header": body,
        "a header twice": header + content,
        "a length that is not the body's": header_of(1, body + b"0", digest) + body,
        "a SHA-256 in capitals": header_of(1, body, digest.upper()) + body,
        "the SHA-256 of the body alone": (
            header_of(1, body, hashlib.sha256(body).hexdigest()) + body
        ),
        "a version in other letters": (
            header.replace(b"checkpoint 1\n", b"checkpoint 01\n")[:512] + body
        ),
        "another padding": header[:-1] + b" " + body,
    }
    assert_all_noticed(damaged)


# -- versions


@pytest.mark.parametrize("version", [0, 2, 10, 123456789])
@pytest.mark.usefixtures("closed_hdf5")
def test_a_whole_checkpoint_of_another_version_is_named_as_that(
    content: bytes, version: int
) -> None:
    for body in (content[512:], b"something new"):
        with pytest.raises(
            InputError, match=rf"it has version {version}, but this distcnn reads version 1"
        ):
            decode(header_of(version, body) + body)


def test_a_version_whose_digit_alone_was_changed_is_damage(content: bytes) -> None:
    for digit in b"023456789":
        with pytest.raises(CheckpointError, match="its SHA-256 or length"):
            decode(content[:19] + bytes([digit]) + content[20:])
    newer = header_of(2, content[512:]) + content[512:]
    with pytest.raises(CheckpointError, match="its SHA-256 or length"):
        decode(newer.replace(b"checkpoint 2", b"checkpoint 1", 1))


def test_a_file_of_another_kind_is_said_to_be_none() -> None:
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file["weights"] = np.ones(3)
    for content in (
        b"",
        b"hello",
        memory.getvalue(),
        b"distcnn checkpoint one\n",
        b" distcnn checkpoint 1\n",
    ):
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            decode(content)


# -- forged: the header is right, but distcnn did not write what lies behind it


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("/dev/zero", "a", (3,))
    file.create_virtual_dataset("arrays/a", layout)


def cycle(file: h5py.File, top: str) -> None:
    file.create_group("arrays")
    for number in range(9):
        file[f"arrays/{number}"] = file[top]


def huge(file: h5py.File) -> None:
    """A dataset of 4 TB of which nothing is stored."""
    file.create_dataset("arrays/a", (10**12,), "f4")


FORGERIES: dict[str, Callable[[h5py.File], object]] = {
    "a huge shape": huge,
    "a compression bomb": lambda file: file.create_dataset(
        "arrays/a", data=np.zeros(10**7), chunks=(10**6,), compression="gzip"
    ),
    "strings": lambda file: file.create_dataset("arrays/a", data=["a", "b"]),
    "an empty dataset": lambda file: file.create_dataset("arrays/a", data=h5py.Empty("f4")),
    "a link to another file": (
        lambda file: file.create_group("arrays").__setitem__(
            "a", h5py.ExternalLink("/dev/zero", "/a")
        )
    ),
    "a folder that is a link": (
        lambda file: file.create_group("arrays").__setitem__("a", h5py.SoftLink("/texts"))
    ),
    "a file of its own": lambda file: file.create_dataset(
        "arrays/a", (3,), "f4", external=[("/etc/passwd", 0, 12)]
    ),
    "a virtual dataset": virtual,
    "a folder within itself": lambda file: cycle(file, "arrays"),
    "all within itself": lambda file: cycle(file, "/"),
    "a text of numbers": lambda file: file.create_dataset("texts/state", data=np.ones(3)),
    "a text that is not UTF-8": lambda file: file.create_dataset(
        "texts/state", data=np.full(3, 255, np.uint8)
    ),
    "an attribute that is an array": lambda file: file.attrs.__setitem__("step", [1, 2]),
    "a dataset in the arrays' place": lambda file: file.create_dataset("arrays", data=np.ones(3)),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_checkpoint_is_said_to_be_none(name: str) -> None:
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        FORGERIES[name](file)
    with pytest.raises(CheckpointError, match="distcnn did not write it"):
        decode(header_of(1, memory.getvalue()) + memory.getvalue())


def test_what_is_not_hdf5_behind_a_right_header_is_said_to_be_none() -> None:
    for body in (b"", b"hello", b"\x89HDF\r\n\x1a\n" + bytes(1000)):
        with pytest.raises(CheckpointError, match="distcnn did not write it"):
            decode(header_of(1, body) + body)

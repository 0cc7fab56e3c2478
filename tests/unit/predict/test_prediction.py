"""Predictions of files: what is read, in which order, and what is printed."""

from __future__ import annotations

import csv
import gc
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

import distcnn as dc
from distcnn.datasets.inputs import Inputs, Source, find_inputs
from distcnn.distributed import Communicator
from distcnn.interop import export
from distcnn.predict import prediction
from distcnn.predict.__main__ import parse, predict_command
from distcnn.predict.prediction import MOST_MICROBATCHES, shares
from tests.conftest import MakeImageSet
from tests.support.interop_fixtures import some_images

IMAGES = some_images(20)


@pytest.fixture
def network(short_run: Path) -> dc.Network:
    return dc.load(short_run)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images 0 to 3, in the order of their names."""
    for index, name in enumerate(("a.png", "b.PNG", "sub/c.png", "sub/d.bmp")):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[index]).save(path)
    (tmp_path / "pictures" / "notes.txt").write_text("hello")
    return tmp_path / "pictures"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = predict_command(Communicator(), [str(each) for each in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_files_folders_and_arrays_give_what_their_pixels_give(
    network: dc.Network, folder: Path, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["test/images"], file["train/images"] = IMAGES[4:12], IMAGES[:1]
    np.savez_compressed(tmp_path / "x.npz", x_test=IMAGES[12:18] / 255, y_test=np.arange(6))
    np.save(tmp_path / "y.npy", IMAGES[18:, :, :, np.newaxis])
    found = network.predict_files([folder, *(tmp_path / n for n in ("own.h5", "x.npz", "y.npy"))])
    np.testing.assert_array_equal(found.probabilities, network.predict(IMAGES))
    assert [Path(name).name for name in found.names[2:6]] == [
        "c.png",
        "d.bmp",
        "own.h5[0]",
        "own.h5[1]",
    ]
    best = network.predict(IMAGES).argmax(axis=1)
    assert found.classes == [network.class_names[label] for label in best]
    assert any("0 becomes 0, 1 becomes 255" in notice for notice in found.notices)
    assert any("notes" in n or ".txt" in n for n in found.notices)
    one = network.predict_files(folder / "a.png")
    assert str(one).startswith(f"{folder / 'a.png'}: {one.classes[0]} (0.")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "I;16", "1"])
def test_any_mode_and_size_is_converted(mode: str, network: dc.Network, tmp_path: Path) -> None:
    gray = Image.fromarray(IMAGES[0]).resize((60, 50))
    if mode == "I;16":
        Image.fromarray(np.asarray(gray).astype(np.uint16) * 257).save(tmp_path / "x.png")
    else:
        gray.convert(mode).save(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"))
    found = network.predict_files([tmp_path])
    assert found.probabilities.shape == (1, 10)
    assert "1 picture resized to 28x28" in found.notices


def test_a_picture_is_turned_as_its_exif_data_say(network: dc.Network, tmp_path: Path) -> None:
    image = Image.fromarray(IMAGES[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.rotate(90).save(tmp_path / "turned.png", exif=exif)
    image.save(tmp_path / "upright.png")
    first, second = network.predict_files(tmp_path).probabilities
    np.testing.assert_array_equal(first, second)


def test_the_best_classes_are_printed_in_columns(
    short_run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed, told = run(capsys, short_run, folder, "--top", 2)
    lines = printed.splitlines()
    assert (code, len(lines)) == (0, 5)
    assert lines[0].split()[:3] == ["file", "class", "probability"]
    values = [line.split() for line in lines[1:]]
    assert [value[0] for value in values] == sorted(value[0] for value in values)
    assert all(float(v[2]) >= float(v[4]) for v in values)
    assert len({line.index(value[1], len(value[0])) for line, value in zip(lines[1:], values)}) == 1  # noqa: B905
    assert "1 .txt" in told


def test_json_and_csv_have_all_digits(
    short_run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = dc.load(short_run).predict(IMAGES[:4])
    document = json.loads(run(capsys, short_run, folder, "--json", "--top", 99)[1])
    first = document["predictions"][0]
    assert (first["class"], first["probability"]) == (first["top"][0]["class"], expected[0].max())
    assert len(first["top"]) == 10
    rows = list(csv.DictReader(io.StringIO(run(capsys, short_run, folder, "--csv")[1])))
    assert [float(row["probability"]) for row in rows] == expected.max(axis=1).tolist()


def test_what_cannot_be_read_is_named_and_all_else_predicted(
    short_run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "aa.png").write_text("no image")
    (folder / "ab.png").write_bytes((folder / "a.png").read_bytes()[:70])
    missing = tmp_path / "gone\n.png"
    code, printed, told = run(capsys, short_run, folder, missing)
    assert (code, len(printed.splitlines())) == (2, 5)
    for name in ("aa.png", "ab.png", r"gone\n.png", "3 of 7 pictures not read"):
        assert told.count(name) == 1, told
    document = json.loads(run(capsys, short_run, folder, missing, "--json")[1])
    assert [Path(each["file"]).name for each in document["unreadable"]] == [
        "gone\n.png",
        "aa.png",
        "ab.png",
    ]
    with pytest.raises(dc.InputError, match=r"aa\.png"):
        dc.load(short_run).predict_files(folder)


def broken(name: str, path: Path) -> Path:
    """A file that is not an image set for the network."""
    if name == "bomb":
        Image.new("1", (20000, 20000)).save(path / "bomb.png")
        return path / "bomb.png"
    arrays: dict[str, Any] = {
        "pickled": np.array([{}], dtype=object),
        "channels": np.zeros((3, 28, 28, 4), np.uint8),
        "none": np.zeros((0, 28, 28), np.uint8),
        "height": np.zeros((2, 0, 28), np.uint8),
        "width": np.zeros((2, 28, 0), np.float32),
        "scale": np.linspace(-9, 9, 3 * 784).reshape(3, 28, 28),
    }
    file = path / f"{name}.npz"
    if name == "unclear":
        np.savez(file, a=IMAGES, b=IMAGES)
    else:
        np.savez(file, images=arrays[name])
    return file


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bomb", "exceeds limit"),
        ("pickled", "may run code"),
        ("channels", "4 channels"),
        ("none", "has no images"),
        ("height", "no pixels"),
        ("width", "no pixels"),
        ("scale", "--scale"),
        ("unclear", "not clear which"),
    ],
)
def test_a_file_that_does_not_fit_gets_one_line(
    name: str, message: str, short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed, told = run(capsys, short_run, broken(name, tmp_path))
    assert code == 2
    assert message in told
    assert told.count("\n") == 1, told
    assert name in told
    assert not printed.splitlines()[1:]


def test_a_shape_below_zero_is_one_line(
    short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (-3, 28, 28)}
        np.lib.format.write_array_header_1_0(file, header)
    code, _, told = run(capsys, short_run, tmp_path / "x.npy")
    assert (code, told.count("\n")) == (2, 1)
    assert "(-3, 28, 28)" in told


@pytest.mark.parametrize("shape", [(10**12, 28, 28), (28, 28), (2, 0, 28)])
def test_hdf5_that_holds_no_pixels_is_refused_at_once(
    shape: tuple[int, ...], short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        chunks = (1, 28, 28) if len(shape) == 3 and all(shape) else None
        file.create_dataset("test/images", shape=shape, dtype="u1", chunks=chunks)
    code, printed, told = run(capsys, short_run, tmp_path / "x.h5")
    assert (code, told.count("\n")) == (2, 1)
    assert "never written" in told or "no pixels" in told
    assert not printed.splitlines()[1:]


def test_an_empty_name_is_not_the_current_folder(network: dc.Network) -> None:
    with pytest.raises(dc.InputError, match="is empty"):
        network.predict_files("")


def test_a_damaged_part_of_a_file_leaves_the_other_images(
    short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        stored = file.create_dataset(
            "images", data=IMAGES, chunks=(5, 28, 28), compression="gzip", fletcher32=True
        )
        offset = stored.id.get_chunk_info(2).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 50 : offset + 60] = bytes(10)
    path.write_bytes(content)
    code, printed, told = run(capsys, short_run, path, "--json")
    names = [each["file"] for each in json.loads(printed)["predictions"]]
    assert code == 2
    assert names == [f"{path}[{i}]" for i in (*range(10), *range(15, 20))]
    assert "5 of 20 pictures not read" in told


def test_the_split_can_be_chosen(
    short_run: Path, image_set: MakeImageSet, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, count in (("test", 77), ("train", 203)):
        assert (
            len(run(capsys, short_run, image_set(), "--split", split)[1].splitlines()) == 1 + count
        )


def test_a_network_of_color_takes_gray_pictures(
    image_set: MakeImageSet, folder: Path, tmp_path: Path
) -> None:
    data = image_set(shape=(28, 28, 3))
    result = dc.Trainer("tutorial", num_shards=4, microbatch_size=8).fit(data, max_steps=1)
    assert result.network is not None
    found = result.network.predict_files([folder])
    assert "4 pictures converted from gray to color" in found.notices


def test_images_are_counted_over_all_sources() -> None:
    inputs = Inputs([Source(Path("a")), Source(Path("b"), "x", 3), Source(Path("c"))])
    spans = [[(str(source.path), list(part)) for source, part in inputs.spans(span)]
             for span in (range(0, 5), range(1, 2), range(3, 5), range(5, 5))]  # fmt: skip
    assert spans == [
        [("a", [0]), ("b", [0, 1, 2]), ("c", [0])],
        [("b", [0])],
        [("b", [2]), ("c", [0])],
        [],
    ]
    assert (len(inputs), inputs.longest_name()) == (5, 4)


def test_an_array_with_other_names_is_found(network: dc.Network, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["train_set_x"], file["test_set_x"] = IMAGES[:2], IMAGES[:7]
        file["test_set_y"] = np.arange(7)
    assert len(find_inputs([tmp_path / "x.h5"], "test", network.fitting())) == 7
    assert len(find_inputs([tmp_path / "x.h5"], "train", network.fitting())) == 2


def test_a_file_that_was_written_again_is_read_again(network: dc.Network, tmp_path: Path) -> None:
    for images in (IMAGES[:2], IMAGES[2:4]):
        np.savez(tmp_path / "x.npz", images=images)
        found = network.predict_files([tmp_path / "x.npz"])
        np.testing.assert_array_equal(found.probabilities, network.predict(images))


def test_flags_are_checked_first() -> None:
    with pytest.raises(dc.InputError, match="--top is 0"):
        parse(["run", "x.png", "--top", "0"])
    with pytest.raises(dc.InputError, match="FILE"):
        parse(["run"])


@pytest.mark.parametrize("images", [0, 1, 10, 300, 5000])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_images_are_spread_evenly_over_the_ranks(images: int, world_size: int) -> None:
    rounds = list(shares(images, 16, world_size))
    spans = [span for spans in rounds for span in spans]
    assert [index for span in spans for index in span] == list(range(images))
    assert all(len(spans) == world_size for spans in rounds)
    assert max(map(len, spans), default=0) <= 16 * MOST_MICROBATCHES
    lengths = {len(span) for span in spans}
    assert max(lengths, default=0) - min(lengths, default=0) <= 1


def test_names_survive_csv_and_json(
    short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a\nb.png", 'c,"d".png', "e\x1b[31m\t.png", "f\r.png", "f\\n.png", "g \u2028.png"]
    for name in names:
        Image.fromarray(IMAGES[0]).save(tmp_path / name)
    rows = csv.DictReader(io.StringIO(run(capsys, short_run, tmp_path, "--csv")[1], newline=""))
    assert [Path(row["file"]).name for row in rows] == names
    found = json.loads(run(capsys, short_run, tmp_path, "--json")[1])["predictions"]
    assert [Path(each["file"]).name for each in found] == names
    assert len(run(capsys, short_run, tmp_path)[1].splitlines()) == 1 + len(names)


def test_nothing_more_is_printed_when_nobody_reads(
    short_run: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    printed: list[str] = []
    monkeypatch.setattr(
        prediction, "say_all", lambda lines, raw: printed.extend(lines) or len(printed) < 2
    )
    assert run(capsys, short_run, folder, "--json")[0] == 0
    assert len(printed) == 1 + 4  # not the end of the document


@pytest.mark.parametrize("image", [IMAGES[0], IMAGES[0][..., np.newaxis]], ids=["HW", "HWC"])
def test_an_array_may_be_a_single_image(
    image: np.ndarray, network: dc.Network, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", image)
    found = network.predict_files(tmp_path / "x.npy")
    np.testing.assert_array_equal(found.probabilities, network.predict(IMAGES[:1]))


def test_eight_bits_stored_in_sixteen_are_kept(network: dc.Network, tmp_path: Path) -> None:
    Image.fromarray(IMAGES[0].astype(np.uint16)).save(tmp_path / "x.png")
    found = network.predict_files(tmp_path)
    np.testing.assert_array_equal(found.probabilities, network.predict(IMAGES[:1]))


def test_the_weights_that_were_used_are_named(
    short_run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last, best = tmp_path / "weights.h5", tmp_path / "weights-best.h5"
    for path in (last, best):
        path.write_bytes((short_run / "weights.h5").read_bytes())
    for given, flag, used in ((best, "last", "best"), (last, "last", "last"),
                              (best, "best", "best"), (tmp_path, "best", "best")):  # fmt: skip
        printed = run(capsys, given, folder, "--weights", flag, "--json")[1]
        assert json.loads(printed)["weights"] == used
    for use in (dc.load, lambda path, weights: export(path, tmp_path / "x.npz", weights=weights)):
        with pytest.raises(dc.InputError, match=r"last step.*weights-best\.h5"):
            use(last, weights="best")


def test_no_array_is_kept_after_a_prediction(network: dc.Network, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", images=np.tile(IMAGES, (100, 1, 1)))
    tracemalloc.start()
    try:
        network.predict_files(tmp_path / "x.npz")
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 2000 * 784 / 2
    finally:
        tracemalloc.stop()

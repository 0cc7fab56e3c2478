"""Shards in windows of a file: the examples, the order and the pieces of a shard in memory; what is
wrong with the file is said.
"""

from __future__ import annotations

import gc
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distcnn.datasets import DatasetInfo, Microbatch, Shard, read_examples, read_info
from distcnn.datasets.examples import ExampleFile, pieces_of
from distcnn.datasets.hashing import ExamplesDigest
from distcnn.datasets.shards import Order
from distcnn.datasets.streaming import Prefetcher, WindowedShard, window_bounds
from distcnn.errors import InputError
from tests.support.image_sets import damage_compressed, make_arrays, write_as_a_user

TRAIN, TEST, SHAPE = 211, 37, (3, 2)
CHUNKS = {
    "no chunks": None,
    "chunks of 1": 1,
    "chunks of 8": 8,
    "chunks of 50": 50,
    "one chunk": TRAIN,
}
MAKINGS = settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module", params=CHUNKS)
def dataset(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> DatasetInfo:
    """A set of 211 + 37 images, the training images compressed where they are in chunks."""
    path, chunk = tmp_path_factory.mktemp("sets") / "set.h5", CHUNKS[request.param]
    arrays = make_arrays(SHAPE, TRAIN, TEST)
    with h5py.File(path, "w") as file:
        for split, (images, labels) in arrays.items():
            options = (
                {"chunks": (min(chunk, len(labels)), *SHAPE), "compression": "gzip"}
                if chunk
                else {}
            )
            file.create_dataset(f"{split}/images", data=images, **options)
            file.create_dataset(f"{split}/labels", data=labels.astype(np.uint8))
        file.attrs["classes"] = 10
    return read_info(path)


@pytest.fixture
def reader(dataset: DatasetInfo) -> Iterator[Prefetcher]:
    reader = Prefetcher(ExampleFile(dataset))
    yield reader
    reader.close()
    reader.reader.close()


def windowed(
    reader: Prefetcher, span: range, length: int, split: str = "train", shuffled: bool = True
) -> WindowedShard:
    bounds = window_bounds(span, length, reader.reader.info.chunk_examples[split])
    return WindowedShard(5, reader, split, span, bounds, seed=3, shuffled=shuffled)


def microbatch(size: int) -> Microbatch:
    return Microbatch((1, *SHAPE), size, np.array([0.1]), np.array([0.3]))


@given(
    span=st.tuples(st.integers(0, TRAIN), st.integers(0, TRAIN)).map(sorted),
    length=st.integers(1, 230),
    size=st.integers(1, 40),
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 8)), max_size=12),
)
@MAKINGS
def test_a_step_holds_the_examples_that_the_order_says(
    span: list[int],
    length: int,
    size: int,
    steps: list[tuple[int, int]],
    dataset: DatasetInfo,
    reader: Prefetcher,
) -> None:
    # Steps in any order of any epochs: after a resume, a replay or a failure the next one may be
    # any.
    shard = windowed(reader, range(*span), length)
    images, labels = read_examples(dataset, "train", range(*span))
    order = Order(3, 5, window_bounds(range(*span), length, dataset.chunk_examples["train"]))
    filled, expected = microbatch(size), microbatch(size)
    for epoch, step in [*steps, *((3, step) for step in range(len(labels) // size + 2)), (4, 0)]:
        chosen = order.chosen(epoch, step * size, (step + 1) * size)
        count = expected.fill(images, labels, chosen)
        assert shard.fill(filled, epoch, step) == count
        assert shard.chosen(epoch, step, size).tolist() == chosen.tolist() == filled.chosen.tolist()
        for name in ("images", "labels", "weights"):
            assert np.array_equal(getattr(filled, name), getattr(expected, name))


def test_a_window_as_long_as_the_shard_gives_the_steps_of_memory(
    dataset: DatasetInfo, reader: Prefetcher
) -> None:
    span = range(20, 90)
    in_memory = Shard(5, *read_examples(dataset, "train", span), seed=3, first_example=20)
    shard = windowed(reader, span, 70)
    assert (shard.index, shard.first_example, shard.examples) == (
        in_memory.index,
        in_memory.first_example,
        in_memory.examples,
    )
    filled, expected = microbatch(16), microbatch(16)
    for epoch, step in ((0, 0), (0, 1), (0, 4), (0, 5), (1, 0), (7, 2)):
        assert shard.fill(filled, epoch, step) == in_memory.fill(expected, epoch, step)
        assert filled.images.tobytes() == expected.images.tobytes()
        assert filled.labels.tobytes() == expected.labels.tobytes()


def test_what_is_not_shuffled_comes_as_it_lies_in_the_file(
    dataset: DatasetInfo, reader: Prefetcher
) -> None:
    shard = windowed(reader, range(5, TEST), 9, "test", shuffled=False)
    filled, labels = microbatch(4), read_examples(dataset, "test", range(5, TEST))[1]
    for _ in range(2):  # an evaluation after each epoch
        found = [filled.labels[: shard.fill(filled, 0, step)].tolist() for step in range(8)]
        assert sum(found, []) == labels.tolist()  # noqa: RUF017


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_pieces_are_those_of_memory_and_have_its_hash(
    size: int, dataset: DatasetInfo, reader: Prefetcher
) -> None:
    span = range(7 * 3, TRAIN - 5)
    images, labels = read_examples(dataset, "train", span)
    in_memory, shard = Shard(5, images, labels, seed=3), windowed(reader, span, 20)
    pieces = [each.copy() for each, _ in shard.pieces(size)]
    assert np.array_equal(np.concatenate(pieces), images)
    if size == 7:
        assert list(map(len, pieces)) == [len(each) for each, _ in in_memory.pieces(size)]
    by_hand = hashlib.sha256(
        f"{images.shape}".encode() + images.tobytes() + labels.astype("<i8").tobytes()
    ).hexdigest()
    for part in (in_memory, shard):
        digest = ExamplesDigest(len(span), dataset.image_shape)
        for piece in part.pieces(size):
            digest.add(*piece)
        assert digest.hexdigest() == by_hand


@given(start=st.integers(0, 50), examples=st.integers(0, 50), size=st.integers(1, 60))
def test_pieces_are_cut_at_multiples(start: int, examples: int, size: int) -> None:
    span = range(start, start + examples)
    pieces = list(pieces_of(span, size))
    assert [example for piece in pieces for example in piece] == list(span)
    assert all(piece.start % size == 0 for piece in pieces[1:])


def test_a_shard_of_none_is_all_padding(reader: Prefetcher) -> None:
    filled = microbatch(3)
    assert windowed(reader, range(9, 9), 4).fill(filled, 0, 0) == 0
    assert not filled.weights.any()


# -- what goes wrong


def shard_of(path: Path) -> WindowedShard:
    info = read_info(path)
    return WindowedShard(
        0, Prefetcher(ExampleFile(info)), "train", range(4), window_bounds(range(4), 1, 1), seed=0
    )


def test_a_label_out_of_range_is_refused_where_it_is_wanted(tmp_path: Path) -> None:
    def spoil(file: h5py.File) -> None:
        file["train/labels"][2] = 9

    shard = shard_of(write_as_a_user(tmp_path / "set.h5", spoil, attributes={"classes": 4}))
    with pytest.raises(
        InputError, match=r"set\.h5: /train/labels\[2\] is 9, out of range for 4 classes"
    ):
        shard.fill(microbatch(4), 0, 0)


def test_what_cannot_be_read_is_refused_where_it_is_wanted_and_again(tmp_path: Path) -> None:
    shard = shard_of(damage_compressed(tmp_path / "set.h5", "train/images", {"classes": 4}))
    for step in (0, 0, 1):
        with pytest.raises(
            InputError,
            match=(
                r"set\.h5: /train is damaged, examples \d to \d cannot be read \(.+\): prepare it"
                r" again"
            ),
        ):
            shard.fill(microbatch(2), 0, step)


def test_a_file_that_is_changed_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write_as_a_user(tmp_path / "set.h5", attributes={"classes": 4})
    shard = shard_of(path)
    with path.open("ab") as file:
        file.write(b" ")
    with pytest.raises(InputError, match=(r"set\.h5 was changed while it was read")):
        shard.fill(microbatch(4), 0, 0)


def test_the_thread_ends_with_its_shards(dataset: DatasetInfo) -> None:
    before = threading.active_count()
    shard = windowed(Prefetcher(ExampleFile(dataset)), range(100), 10)
    shard.fill(microbatch(8), 0, 0)
    assert threading.active_count() == before + 1
    del shard
    gc.collect()
    assert threading.active_count() == before

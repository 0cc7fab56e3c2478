"""This rank's examples, its shards and its part of the test set, in memory or in windows of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distcnn.config import Config
from distcnn.datasets import Dataset, DatasetInfo, Part, Shard
from distcnn.datasets.examples import piece_size
from distcnn.datasets.hashing import ExamplesDigest
from distcnn.datasets.streaming import (
    LABEL_BYTES,
    Prefetcher,
    WindowedShard,
    window_bounds,
    window_examples,
)
from distcnn.datasets.survey import Survey, judge, pixel_sums
from distcnn.distributed import Communicator, on_root, share_of, together
from distcnn.errors import InputError
from distcnn.spans import touch
from distcnn.system.host import most_memory
from distcnn.training.evaluation import examples_of_rank

NamedHashes = list[tuple[str, str]]
BOUND_IT = "limit it with --data-memory MIB (data/README.md), or use more hosts"


@dataclass(frozen=True)
class Data:
    """What one rank trains on and tests on."""

    shards: Sequence[Part]
    test: Part


@dataclass(frozen=True)
class Content:
    """What a rank found in its ``Data``."""

    hashes: NamedHashes
    """SHA-256 of each of its shards and of each block of the test set."""
    pixels: NDArray[np.int64]
    """``pixel_sums`` of its training images; zeros where the file has mean and standard deviation.
    """
    remarks: list[str]
    """Likely mistakes, one line each: the same on all ranks."""


def open_data(
    dataset: Dataset,
    info: DatasetInfo,
    config: Config,
    communicator: Communicator,
    shard_indices: range,
) -> Data:
    """This rank's shards, which are contiguous, and its part of the test set. Collective.

    ``InputError`` on all ranks when some cannot be read, or kept.
    """
    spans = {
        index: share_of(info.examples["train"], config.num_shards, index) for index in shard_indices
    }
    test = examples_of_rank(
        info.examples["test"], config.microbatch_size, communicator.world_size, communicator.rank
    )
    if not config.data_memory and dataset.path:
        examples = sum(map(len, [*spans.values(), test]))
        needed = communicator.allgather(examples * (info.image_bytes + LABEL_BYTES))
        together(communicator, lambda: _require_room(info, needed, communicator, most_memory()))

    def work() -> Data:
        try:
            read = _windowed if config.data_memory else _in_memory
            return read(dataset, info, config, spans, test)
        except MemoryError as error:
            less = "give a smaller --data-memory" if config.data_memory else BOUND_IT
            raise InputError(
                f"{info.path}: not enough memory for this rank's part of the image set: {less}"
            ) from error

    return together(communicator, work)


def _require_room(
    dataset: DatasetInfo, needed: Sequence[int], communicator: Communicator, most: int | None
) -> None:
    """``InputError`` when this host's ranks need more memory for examples than it has."""
    host = communicator.hosts[communicator.rank]
    here = [count for count, each in zip(needed, communicator.hosts, strict=True) if each == host]
    if most is not None and sum(here) > most:
        ranks = f"{len(here)} ranks on host {host} keep" if len(here) > 1 else f"host {host} keeps"
        size, room = (f"{count / 2**30:,.1f} GiB" for count in (sum(here), most))
        raise InputError(
            f"{dataset.path}: {ranks} {size} of the image set in memory, but the host has {room}:"
            f" {BOUND_IT}"
        )


def _in_memory(
    dataset: Dataset, info: DatasetInfo, config: Config, spans: dict[int, range], test: range
) -> Data:
    neighbours = spans.values()
    train = range(min(span.start for span in neighbours), max(span.stop for span in neighbours))
    with closing(dataset.open(info, config.stall_timeout)) as reader:
        images, labels = reader.load("train", train)
        shards = []
        for index, span in spans.items():
            cut = slice(span.start - train.start, span.stop - train.start)
            shards.append(Shard(index, images[cut], labels[cut], config.seed, span.start))
        tested = reader.load("test", test)
        return Data(shards, Shard(0, *tested, config.seed, test.start, shuffled=False))


def _windowed(
    dataset: Dataset, info: DatasetInfo, config: Config, spans: dict[int, range], test: range
) -> Data:
    length = window_examples(info, config.num_shards, config.data_memory)
    reader = dataset.open(info, config.stall_timeout)
    prefetcher = Prefetcher(reader)

    def part(index: int, split: str, span: range, shuffled: bool = True) -> WindowedShard:
        bounds = window_bounds(span, length, info.chunk_examples[split])
        return WindowedShard(index, prefetcher, split, span, bounds, config.seed, shuffled=shuffled)

    shards = [part(index, "train", span) for index, span in spans.items()]
    return Data(shards, part(0, "test", test, shuffled=False))


def survey(data: Data, info: DatasetInfo, block_size: int, communicator: Communicator) -> Content:
    """Go through all of ``data`` once, in blocks of ``block_size`` test examples. Collective.

    ``InputError`` on all ranks when an example cannot be read, or the set is not the one that its
    own hash states.
    """
    seen = Survey(info)
    hashes = together(communicator, lambda: _survey_test(data.test, seen, block_size))
    test_hashes = np.concatenate(communicator.allgather(seen.test_hashes))
    seen.look_for(test_hashes)
    pixels = np.zeros((2, info.image_shape[0]), np.int64)
    hashes = (
        together(
            communicator, lambda: [_survey_shard(shard, seen, pixels) for shard in data.shards]
        )
        + hashes
    )
    everyone = communicator.gather(seen.found) or []

    warnings = on_root(communicator, lambda: judge(info, everyone, test_hashes))
    return Content(hashes, pixels, warnings)


def _survey_test(test: Part, seen: Survey, block_size: int) -> NamedHashes:
    info, first, hashes = seen.info, test.first_example, []
    for images, labels in test.pieces(piece_size(info, "test", block_size)):
        touch()
        seen.add("test", first, images, labels)
        for start in range(0, len(labels), block_size):
            block = slice(start, start + block_size)
            digest = ExamplesDigest(len(labels[block]), info.image_shape)
            digest.add(images[block], labels[block])
            hashes.append((f"test {first + start}", digest.hexdigest()))
        first += len(labels)
    return hashes


def _survey_shard(shard: Part, seen: Survey, pixels: NDArray[np.int64]) -> tuple[str, str]:
    """The shard's name and hash; its pixels are added to ``pixels`` where they are wanted."""
    info, first = seen.info, shard.first_example
    digest = ExamplesDigest(shard.examples, info.image_shape)
    for images, labels in shard.pieces(piece_size(info, "train")):
        touch()
        seen.add("train", first, images, labels)
        digest.add(images, labels)
        if not (info.mean and info.std):
            pixels += pixel_sums(images.reshape(-1, info.image_shape[0]))
        first += len(labels)
    return f"train {shard.first_example}", digest.hexdigest()

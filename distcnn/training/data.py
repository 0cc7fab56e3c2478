"""This rank's examples: its shards and its part of the test set, in memory or in windows of it, and what must be known of them first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distcnn.config import Config
from distcnn.datasets import DatasetInfo, Part, Shard, read_examples
from distcnn.datasets.content import ExamplesDigest
from distcnn.datasets.examples import ExampleFile
from distcnn.datasets.memory import window_bounds, window_examples
from distcnn.datasets.statistics import pixel_sums
from distcnn.faults.pulse import Activity, pulse
from distcnn.parallel import Communicator, span_of
from distcnn.training.evaluation import examples_of_rank

NamedHashes = list[tuple[str, str]]


@dataclass(frozen=True)
class Data:
    """What one rank trains on and tests on."""

    shards: Sequence[Part]
    test: Part


def open_data(dataset: DatasetInfo, config: Config, communicator: Communicator, shard_indices: range) -> Data:
    """This rank's shards, which are neighbours, and its part of the test set. ``InputError`` when they cannot be read, or be kept."""
    spans = {index: span_of(dataset.examples["train"], config.num_shards, index) for index in shard_indices}
    test = examples_of_rank(dataset.examples["test"], config.microbatch_size, communicator.world_size, communicator.rank)
    if config.data_memory:
        return _windowed(dataset, config, spans, test)
    first = spans[shard_indices[0]].start
    images, labels = read_examples(dataset, "train", range(first, spans[shard_indices[-1]].stop))
    cuts = {index: slice(span.start - first, span.stop - first) for index, span in spans.items()}
    shards = [Shard(index, images[cut], labels[cut], config.seed, first + cut.start) for index, cut in cuts.items()]
    return Data(shards, Shard(0, *read_examples(dataset, "test", test), config.seed, test.start, shuffled=False))


def _windowed(dataset: DatasetInfo, config: Config, spans: dict[int, range], test: range) -> Data:
    from distcnn.datasets.reader import Reader  # a thread and its queue: with --data-memory only
    from distcnn.datasets.windows import WindowedShard

    length = window_examples(dataset, config.num_shards, config.data_memory)
    reader = Reader(ExampleFile(dataset))
    chunks = dataset.chunk_examples
    shards = [
        WindowedShard(index, reader, "train", span, window_bounds(span, length, chunks["train"]), config.seed)
        for index, span in spans.items()
    ]
    bounds = window_bounds(test, length, chunks["test"])
    return Data(shards, WindowedShard(0, reader, "test", test, bounds, config.seed, shuffled=False))


def survey(data: Data, dataset: DatasetInfo, block_size: int) -> tuple[NamedHashes, NDArray[np.int64]]:
    """Go through all of ``data`` once: the SHA-256 of each shard and of each block of the test set; the sums of the training pixels.

    The sums are zero where the file has mean and standard deviation. ``InputError`` when an example cannot be read.
    """
    channels = dataset.image_shape[0]
    hashes: NamedHashes = []
    sums = np.zeros((2, channels), np.int64)
    for shard in data.shards:
        digest = ExamplesDigest(shard.examples, dataset.image_shape, dataset.classes)
        for images, labels in shard.pieces():
            pulse.beat(Activity.READING_DATA)
            digest.add(images, labels)
            if not (dataset.mean and dataset.std):
                sums += pixel_sums(images.reshape(-1, channels))
        hashes.append((f"train {shard.first_example}", digest.hexdigest()))
    first = data.test.first_example
    for images, labels in data.test.pieces(block_size):
        pulse.beat(Activity.READING_DATA)
        digest = ExamplesDigest(len(labels), dataset.image_shape, dataset.classes)
        digest.add(images, labels)
        hashes.append((f"test {first}", digest.hexdigest()))
        first += len(labels)
    return hashes, sums

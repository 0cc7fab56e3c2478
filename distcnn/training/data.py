"""The image set: its file, what this rank reads of it, and what all ranks find in it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distcnn.config import Config
from distcnn.datasets import Dataset, DatasetInfo, HDF5Dataset, Part, Shard, streaming
from distcnn.datasets.dataset import DEFAULT_PATH, ensure_mnist
from distcnn.datasets.examples import piece_size
from distcnn.datasets.hashing import ExamplesDigest, combined_sha256
from distcnn.datasets.hdf5 import VALIDATION, Indices
from distcnn.datasets.holdout import HoldOut, hold_out_rows
from distcnn.datasets.survey import Survey, judge, mean_and_std, pixel_sums
from distcnn.distributed import Communicator, on_root, share_of, together
from distcnn.distributed.communicator import JointError
from distcnn.errors import InputError
from distcnn.fault_tolerance.signals import received_by_children
from distcnn.spans import OPEN_DATA, PREPARE_DATA, Span, touch
from distcnn.system.host import most_memory
from distcnn.training.advice import examples_to_hold_out
from distcnn.training.evaluation import examples_of_rank
from distcnn.training.results import DatasetRecord

SECONDS_TO_APPEAR = 5.0
"""A new file may appear on other hosts this much later: NFS caches that it was missing."""
BOUND_IT = "limit it with --data-memory MIB (docs/data_format.md), or use more hosts"


MEMORY_TO_HASH = 256
"""MiB of an image set that are kept in memory while it is hashed."""


@dataclass(frozen=True)
class Data:
    """What one rank trains on and tests on."""

    shards: Sequence[Part]
    test: Part
    validation: Part | None = None


@dataclass(frozen=True)
class Content:
    """What was found in the data of all ranks."""

    hashes: list[tuple[str, str]]
    """Name and SHA-256 of this rank's shards, and of its blocks of the evaluated sets."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per channel: the file's, else of all ranks' training pixels / 255."""
    remarks: list[str]
    """Likely mistakes, one line each."""


def open_file(config: Config, communicator: Communicator, report: Callable[[str], None]) -> Dataset:
    """The file that ``config`` names, which all ranks must see."""
    if config.source or Path(config.data) == Path(DEFAULT_PATH):
        with Span(PREPARE_DATA):
            on_root(communicator, lambda: _ensure_mnist(config, report))
    with Span(OPEN_DATA):
        _require_everywhere(config.data, communicator)
    return HDF5Dataset(config.data)


def _ensure_mnist(config: Config, report: Callable[[str], None]) -> None:
    with received_by_children():  # pip
        ensure_mnist(config.data, config.source or None, report)


def _require_everywhere(path: str, communicator: Communicator) -> None:
    """``JointError`` when only some of them see ``path``. Collective."""
    end = time.monotonic() + SECONDS_TO_APPEAR
    while True:
        seen = communicator.allgather(_exists(path))
        late = any(communicator.allgather(time.monotonic() > end))
        if all(seen) or not any(seen) or late:
            break
        time.sleep(0.5)
    if any(seen) and not all(seen):
        here, missing, hosts = seen.index(True), seen.index(False), communicator.hosts
        raise JointError(
            f"--data: rank {here} on host {hosts[here]} sees {path}, rank {missing} on host"
            f" {hosts[missing]} does not: put it on a file system that all hosts share, or copy it"
            " to the same path on every host, and give its absolute path"
        )


def _exists(path: str) -> bool:
    with suppress(OSError):
        os.listdir(Path(path).parent)  # noqa: PTH208  (a network file system then looks again)
    return os.path.exists(path)  # noqa: PTH110  (Path's raises for a name that is too long)


def held_out(
    dataset: Dataset, info: DatasetInfo, config: Config, communicator: Communicator
) -> Dataset:
    """``dataset``, with the validation set that ``config`` asks for held out. Collective.

    ``InputError`` on all ranks when too few examples would be left to train on.
    """
    if not config.validation:
        return dataset

    def rows() -> Indices:
        count = examples_to_hold_out(config, info.examples["train"])
        return hold_out_rows(dataset, info, count, config.stall_timeout)

    return HoldOut(dataset, info, on_root(communicator, rows))


def open_data(
    dataset: Dataset, info: DatasetInfo, config: Config, communicator: Communicator, own: range
) -> Data:
    """This rank's ``own`` shards, which are contiguous, and its parts of what is evaluated.

    Collective; ``InputError`` on all ranks when some cannot be read, or kept.
    """
    train, size = info.examples["train"], config.microbatch_size
    spans = {index: share_of(train, config.num_shards, index) for index in own}
    world_size, rank = communicator.world_size, communicator.rank
    evaluated = {
        split: examples_of_rank(count, size, world_size, rank)
        for split, count in info.examples.items()
        if split != "train"
    }
    if not config.data_memory and dataset.path:
        examples = sum(map(len, [*spans.values(), *evaluated.values()]))
        needed = communicator.allgather(examples * (info.image_bytes + streaming.LABEL_BYTES))
        together(communicator, lambda: _require_room(info, needed, communicator, most_memory()))

    def work() -> Data:
        try:
            read = _windowed if config.data_memory else _in_memory
            return read(dataset, info, config, spans, evaluated)
        except MemoryError as error:
            less = "give a smaller --data-memory" if config.data_memory else BOUND_IT
            raise InputError(
                f"{info.path}: not enough memory for this rank's part of the image set: {less}"
            ) from error

    return together(communicator, work)


def _require_room(
    info: DatasetInfo, needed: Sequence[int], communicator: Communicator, most: int | None
) -> None:
    """``InputError`` when this host's ranks need more memory for examples than it has."""
    host = communicator.hosts[communicator.rank]
    here = [count for count, each in zip(needed, communicator.hosts, strict=True) if each == host]
    if most is not None and sum(here) > most:
        ranks = f"{len(here)} ranks on host {host} keep" if len(here) > 1 else f"host {host} keeps"
        size, room = (f"{count / 2**30:,.1f} GiB" for count in (sum(here), most))
        raise InputError(
            f"{info.path}: {ranks} {size} of the image set in memory, but the host has {room}:"
            f" {BOUND_IT}"
        )


Spans = dict[int, range]
Evaluated = dict[str, range]


def _in_memory(
    dataset: Dataset, info: DatasetInfo, config: Config, spans: Spans, evaluated: Evaluated
) -> Data:
    starts, stops = zip(*((span.start, span.stop) for span in spans.values()), strict=True)
    first = min(starts)
    with closing(dataset.open(info, config.stall_timeout)) as reader:
        images, labels = reader.load("train", range(first, max(stops)))
        shards = []
        for index, span in spans.items():
            cut = slice(span.start - first, span.stop - first)
            shards.append(Shard(index, images[cut], labels[cut], config.seed, span.start))
        parts = {
            split: Shard(0, *reader.load(split, span), config.seed, span.start, shuffled=False)
            for split, span in evaluated.items()
        }
    return _located(info, Data(shards, **parts))


def _windowed(
    dataset: Dataset, info: DatasetInfo, config: Config, spans: Spans, evaluated: Evaluated
) -> Data:
    length = streaming.window_examples(info, config.num_shards, config.data_memory)
    prefetcher = streaming.Prefetcher(dataset.open(info, config.stall_timeout))

    def part(index: int, split: str, span: range, shuffled: bool = True) -> Part:
        bounds = streaming.window_bounds(span, length, info.chunk_examples[split])
        where = prefetcher, split, span, bounds
        return streaming.WindowedShard(index, *where, config.seed, shuffled=shuffled)

    shards = [part(index, "train", span) for index, span in spans.items()]
    parts = {split: part(0, split, span, shuffled=False) for split, span in evaluated.items()}
    return _located(info, Data(shards, **parts))


def _located(info: DatasetInfo, data: Data) -> Data:
    """``data``, whose parts know where their examples are in the file."""
    for shard in data.shards:
        shard.locate = partial(info.rows, "train")
    if data.validation is not None:
        data.validation.locate = partial(info.rows, VALIDATION)
    return data


def survey(data: Data, info: DatasetInfo, block_size: int, communicator: Communicator) -> Content:
    """Go through all of ``data`` once, in blocks of ``block_size`` evaluated examples. Collective.

    ``InputError`` on all ranks when an example cannot be read, or the set is not the one that its
    own hash states.
    """
    seen, pixels = Survey(info), np.zeros((2, info.image_shape[0]), np.int64)

    def survey_blocks(split: str, part: Part) -> list[tuple[str, str]]:
        return together(communicator, lambda: _survey_blocks(split, part, seen, block_size))

    of_blocks = survey_blocks("test", data.test)
    test_hashes = np.concatenate(communicator.allgather(seen.test_hashes))
    seen.look_for(test_hashes)
    of_shards = together(
        communicator, lambda: [_survey_shard(shard, seen, pixels) for shard in data.shards]
    )
    if data.validation is not None:
        of_blocks += survey_blocks(VALIDATION, data.validation)
    everyone = communicator.gather(seen.found) or []
    remarks = on_root(communicator, lambda: judge(info.whole, everyone, test_hashes))
    mean, std = info.mean, info.std
    if not (mean and std):
        communicator.allreduce_sum(pixels)
        _, height, width = info.image_shape
        found = mean_and_std(pixels, info.examples["train"] * height * width)
        mean, std = mean or tuple(found[0].tolist()), std or tuple(found[1].tolist())
    return Content(of_shards + of_blocks, mean, std, remarks)


def _survey_blocks(split: str, part: Part, seen: Survey, block_size: int) -> list[tuple[str, str]]:
    info, first, hashes = seen.info, part.first_example, []
    for images, labels in part.pieces(piece_size(info, split, block_size)):
        touch()
        seen.add(split, first, images, labels)
        for start in range(0, len(labels), block_size):
            block = slice(start, start + block_size)
            digest = ExamplesDigest(len(labels[block]), info.image_shape)
            digest.add(images[block], labels[block])
            hashes.append((f"{split} {first + start}", digest.hexdigest()))
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


def record_of(info: DatasetInfo, content: Content, communicator: Communicator) -> DatasetRecord:
    """What is recorded of the image set: the same on any number of ranks. Collective."""
    hashes = [named for of_rank in communicator.allgather(content.hashes) for named in of_rank]
    hashes.append(("statistics", f"{info.mean} {info.std}"))
    return DatasetRecord(
        name=info.name,
        path=info.path,
        source=info.source,
        sha256=info.sha256,
        content_sha256=combined_sha256(hashes),
        classes=info.classes,
        class_names=info.class_names or tuple(map(str, range(info.classes))),
        image_shape=info.image_shape,
        mean=content.mean,
        std=content.std,
        train_examples=info.examples["train"],
        validation_examples=info.examples.get(VALIDATION),
        test_examples=info.examples["test"],
    )


def content_sha256(
    dataset: Dataset, info: DatasetInfo, config: Config, communicator: Communicator
) -> str:
    """The hash of the content that a run with ``config`` would record. Collective.

    Unlike a run, it may have more ranks than shards, and keeps little in memory.
    """
    own = share_of(config.num_shards, communicator.world_size, communicator.rank)
    bounded = replace(config, data_memory=MEMORY_TO_HASH)
    data = open_data(dataset, info, bounded, communicator, own)
    content = survey(data, info, config.microbatch_size, communicator)
    return record_of(info, content, communicator).content_sha256

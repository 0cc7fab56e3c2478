"""From a configuration and a communicator to all that the loop needs. What is wrong with the input is found here, by all ranks together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distcnn.config import Config
from distcnn.datasets import DatasetInfo, Microbatch, Shard, read_examples, read_info
from distcnn.datasets.content import combined_sha256, examples_sha256
from distcnn.datasets.hdf5 import Images, Labels
from distcnn.datasets.mnist import DEFAULT_PATH, ensure_mnist
from distcnn.datasets.statistics import mean_and_std, pixel_sums
from distcnn.errors import InputError
from distcnn.faults.pulse import Activity, pulse
from distcnn.models import build_model, find_model
from distcnn.nn import LOSSES, Sequential
from distcnn.optim import OPTIMIZERS
from distcnn.parallel import REDUCTIONS, Communicator, on_root, shards_of_rank, span_of, together
from distcnn.streams import INITIALISE, generator
from distcnn.training.evaluation import Evaluation, examples_of_rank
from distcnn.training.fingerprint import fingerprint
from distcnn.training.overlap import Lane, open_sums, plan_overlap
from distcnn.training.plan import Plan
from distcnn.training.step import Step


@dataclass
class Run:
    """A run that is ready to start, as one rank sees it."""

    config: Config
    communicator: Communicator
    dataset: DatasetInfo
    network: Sequential
    step: Step
    evaluation: Evaluation
    content_sha256: str
    """Of all images and labels that the ranks have read."""
    software: dict[str, str]
    """Root's fingerprint."""

    @property
    def plan(self) -> Plan:
        """How its steps go."""
        return Plan(self.config, self.dataset.examples["train"])


def prepare_run(config: Config, communicator: Communicator, report: Callable[[str], None]) -> Run:
    """Check everything, prepare the data where it must be, read this rank's part, plan all buffers.

    ``report`` takes lines for the user, on root. ``InputError`` on all ranks.
    """
    shard_indices = together(communicator, lambda: _check_world(config, communicator))
    together(communicator, lambda: find_model(config.model))
    if config.source or Path(config.data) == Path(DEFAULT_PATH):
        on_root(communicator, lambda: ensure_mnist(config.data, config.source or None, report))
    dataset = together(communicator, lambda: read_info(config.data))
    datasets = communicator.allgather(dataset)
    together(communicator, lambda: _check_same(datasets))
    pulse.beat(Activity.READING_DATA)
    network = together(communicator, lambda: build_model(config.model, dataset.image_shape, dataset.classes, config.microbatch_size))
    network.initialise(np.random.Generator(generator(config.seed, INITIALISE)))
    (train_images, train_labels), (test_images, test_labels) = together(
        communicator, lambda: _read_own(dataset, config, communicator, shard_indices)
    )
    shards = _cut(train_images, train_labels, shard_indices, dataset.examples["train"], config)
    statistics = _statistics(dataset, train_images, communicator)
    microbatch = Microbatch(dataset.image_shape, config.microbatch_size, *statistics)

    def make_lane() -> Lane:
        twin = build_model(config.model, dataset.image_shape, dataset.classes, config.microbatch_size).share(network)
        return Lane(twin, Microbatch(dataset.image_shape, config.microbatch_size, *statistics))

    sums = open_sums(config.overlap, config.reduction, communicator)
    overlap = together(communicator, lambda: plan_overlap(Lane(network, microbatch), make_lane, len(shards), sums) if sums else None)
    loss = LOSSES[config.loss]
    optimizer = OPTIMIZERS[config.optimizer](network.values, config.momentum, config.weight_decay)
    reduction = REDUCTIONS[config.reduction](network.values.size, config.num_shards, config.gradient_limit)
    first_test = examples_of_rank(dataset.examples["test"], config.microbatch_size, communicator.world_size, communicator.rank).start
    step = Step(network, loss, optimizer, shards, microbatch, reduction, communicator, overlap=overlap)
    evaluation = Evaluation(network, loss, test_images, test_labels, dataset.examples["test"], microbatch, communicator, first_test)
    content = _content_sha256(dataset, shards, evaluation, communicator)
    return Run(config, communicator, dataset, network, step, evaluation, content, same_software(communicator, report))


def _cut(images: Images, labels: Labels, shard_indices: range, train_examples: int, config: Config) -> list[Shard]:
    """This rank's shards, views of the examples it has read."""
    spans = [span_of(train_examples, config.num_shards, index) for index in shard_indices]
    parts = [slice(span.start - spans[0].start, span.stop - spans[0].start) for span in spans]
    return [
        Shard(index, images[part], labels[part], config.seed, span.start)
        for index, part, span in zip(shard_indices, parts, spans, strict=True)
    ]


def _content_sha256(dataset: DatasetInfo, shards: list[Shard], evaluation: Evaluation, communicator: Communicator) -> str:
    """Of every example that the ranks have read, and of the file's statistics: the same on any number of ranks."""
    parts = [(f"train {shard.first_example}", examples_sha256(shard.images, shard.labels)) for shard in shards]
    size = evaluation.microbatch.size
    for start in range(0, len(evaluation.labels), size):
        block = slice(start, start + size)
        name = f"test {evaluation.first_example + start}"
        parts.append((name, examples_sha256(evaluation.images[block], evaluation.labels[block])))
    everyone = [each for rank in communicator.allgather(parts) for each in rank]
    return combined_sha256([*everyone, ("statistics", f"{dataset.mean} {dataset.std}")])


def same_software(communicator: Communicator, report: Callable[[str], None]) -> dict[str, str]:
    """Root's fingerprint; a warning when another rank's is not the same, for the bits then hang on which rank computes what."""
    everyone = communicator.allgather(fingerprint())
    for rank, each in enumerate(everyone):
        if each != everyone[0]:
            what = "; ".join(f"{name} {each[name]!r}, not {value!r}" for name, value in everyone[0].items() if each[name] != value)
            report(
                f"warning: rank {rank} on {communicator.hosts[rank]} has other software or another processor than rank 0 ({what}): "
                "the bits then depend on which rank computes which shard"
            )
            break
    return everyone[0]


def _check_world(config: Config, communicator: Communicator) -> range:
    if config.world_size and communicator.world_size != config.world_size:
        raise InputError(
            f"--world-size is {config.world_size}, but {communicator.world_size} ranks are here ({communicator.description}): "
            "start as many, and with the launcher of the MPI that mpi4py uses"
        )
    return shards_of_rank(config.num_shards, communicator.world_size, communicator.rank)


def _check_same(datasets: list[DatasetInfo]) -> None:
    for rank, dataset in enumerate(datasets):
        if dataset != datasets[0]:
            raise InputError(
                f"{dataset.path} is another image set on rank {rank} than on rank 0 (SHA-256 {dataset.sha256 or 'unknown'}, "
                f"not {datasets[0].sha256 or 'unknown'}): put the file on a file system that all hosts share, or the same one on each"
            )


def _read_own(
    dataset: DatasetInfo, config: Config, communicator: Communicator, shards: range
) -> tuple[tuple[Images, Labels], tuple[Images, Labels]]:
    """This rank's training examples (its shards are neighbours, so they are one run) and its part of the test set."""
    first, last = (span_of(dataset.examples["train"], config.num_shards, index) for index in (shards[0], shards[-1]))
    test_span = examples_of_rank(dataset.examples["test"], config.microbatch_size, communicator.world_size, communicator.rank)
    return read_examples(dataset, "train", range(first.start, last.stop)), read_examples(dataset, "test", test_span)


def _statistics(dataset: DatasetInfo, train_images: Images, communicator: Communicator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation: the file's, else of all ranks' training pixels (sums of integers, so the same on any ranks)."""
    if dataset.mean and dataset.std:
        return np.array(dataset.mean), np.array(dataset.std)
    channels = dataset.image_shape[0]
    sums = pixel_sums(train_images.reshape(-1, channels))
    communicator.allreduce_sum(sums)
    mean, std = mean_and_std(sums, dataset.examples["train"] * dataset.image_shape[1] * dataset.image_shape[2])
    return (np.array(dataset.mean) if dataset.mean else mean, np.array(dataset.std) if dataset.std else std)

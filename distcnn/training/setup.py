"""From a configuration and a communicator to all that the loop needs.

What is wrong with the input is found here, by all ranks together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distcnn.config import Config
from distcnn.datasets import DatasetInfo, HDF5Dataset, Microbatch
from distcnn.datasets.default import DEFAULT_PATH, must_be_prepared
from distcnn.datasets.hashing import combined_sha256
from distcnn.datasets.survey import mean_and_std
from distcnn.distributed import (
    REDUCTIONS,
    Communicator,
    keep_gradients,
    on_root,
    shards_of_rank,
    together,
)
from distcnn.distributed.communicator import JointError
from distcnn.errors import InputError
from distcnn.fault_tolerance.heartbeat import Activity, pulse
from distcnn.fault_tolerance.signals import received_by_children
from distcnn.models import build_model, find_model, initialise_model
from distcnn.nn.planned import PlannedNetwork
from distcnn.random_streams import INITIALISE, PortableGenerator, generator
from distcnn.registry import find_loss, find_optimizer, find_schedule
from distcnn.system.wording import counted
from distcnn.training.advice import require_enough_examples
from distcnn.training.data import NamedHashes, open_data, survey
from distcnn.training.evaluation import Evaluation
from distcnn.training.fingerprint import fingerprint
from distcnn.training.host_placement import require_everywhere, settle_threads
from distcnn.training.overlap import Lane, open_sums, plan_overlap
from distcnn.training.schedule import Plan
from distcnn.training.step import Step
from distcnn.user_source import Sources, compare_sources, own_sources, sha256_of

FORWARDS_A_STEP = 3
"""A block of the test set takes about a third of the time of a shard in a step, which goes backward
too.
"""


@dataclass
class Run:
    """A run that is ready to start, as one rank sees it."""

    config: Config
    communicator: Communicator
    dataset: DatasetInfo
    network: PlannedNetwork
    step: Step
    evaluation: Evaluation
    content_sha256: str
    """Of all images and labels that the ranks have read."""
    software: dict[str, str]
    """Root's fingerprint."""
    model_sources: Sources
    """The source of a model of the user's own, by module; else empty."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of each channel: the network's inputs are (pixel / 255 - mean) / std."""

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
    together(communicator, lambda: find_schedule(config.schedule, config.warmup_steps))
    if config.source or Path(config.data) == Path(DEFAULT_PATH):
        pulse.beat(Activity.PREPARING_DATA)
        on_root(communicator, lambda: _ensure_mnist(config, report))
    pulse.beat(Activity.OPENING_DATA)
    require_everywhere(config.data, "--data", communicator)
    images = HDF5Dataset(config.data)
    dataset = together(
        communicator,
        lambda: images.read_info(config.stall_timeout, lambda: pulse.beat(Activity.READING_DATA)),
    )
    sha256 = images.content_sha256() if communicator.world_size > 1 else ""
    datasets = communicator.allgather(replace(dataset, sha256=dataset.sha256 or sha256))
    together(communicator, lambda: _check_same(datasets))
    together(communicator, lambda: require_enough_examples(config, dataset.examples["train"]))
    pulse.beat(Activity.BUILDING)
    network = together(
        communicator,
        lambda: build_model(
            config.model, dataset.image_shape, dataset.classes, config.microbatch_size
        ),
    )
    sources = together(communicator, lambda: own_sources(*config.own_code.values()))
    same_model(sources, communicator)
    rng = PortableGenerator(generator(config.seed, INITIALISE))
    together(communicator, lambda: initialise_model(config.model, network, rng))
    pulse.beat(Activity.READING_DATA)
    data = open_data(images, dataset, config, communicator, shard_indices)
    content = survey(data, dataset, config.microbatch_size, communicator)
    statistics = _statistics(dataset, content.pixels, communicator)
    microbatch = Microbatch(dataset.image_shape, config.microbatch_size, *statistics)
    pulse.beat(Activity.BUILDING)

    def make_lane() -> Lane:
        twin = build_model(
            config.model, dataset.image_shape, dataset.classes, config.microbatch_size
        ).share(network)
        return Lane(twin, Microbatch(dataset.image_shape, config.microbatch_size, *statistics))

    sums = open_sums(config.overlap, config.reduction, communicator)
    lane = Lane(network, microbatch)
    overlap = together(
        communicator,
        lambda: plan_overlap(lane, make_lane, len(data.shards), sums) if sums else None,
    )
    loss = together(communicator, lambda: find_loss(config.loss))
    optimizer = together(
        communicator,
        lambda: find_optimizer(
            config.optimizer, config.learning_rate, config.momentum, config.weight_decay
        ),
    ).start(network.values)
    sizes = network.values.size, config.num_shards, config.gradient_limit
    kept = None if overlap else keep_gradients(config.reduction, *sizes, communicator)
    reduction = kept or REDUCTIONS[config.reduction](*sizes)
    step = Step(
        network, loss, optimizer, data.shards, microbatch, reduction, communicator, overlap=overlap
    )
    blocks_a_step = -(-config.num_shards // communicator.world_size)
    evaluation = Evaluation(
        network,
        loss,
        data.test,
        dataset.examples["test"],
        microbatch,
        communicator,
        FORWARDS_A_STEP * blocks_a_step,
    )
    pulse.beat(Activity.COMPARING_RANKS)
    content_sha256 = _content_sha256(dataset, content.hashes, communicator)
    for remark in content.remarks:
        report(f"warning: {remark}")
    config = settle_threads(
        config, communicator, report
    )  # its lines come when all input is found good, and before any number is made
    software, (mean, std) = same_software(communicator, report), statistics
    divisor = np.where(std > 0, std, 1.0)  # a constant channel is only centred
    inputs = tuple(mean.tolist()), tuple(divisor.tolist())
    return Run(
        config,
        communicator,
        dataset,
        network,
        step,
        evaluation,
        content_sha256,
        software,
        sources,
        *inputs,
    )


def _ensure_mnist(config: Config, report: Callable[[str], None]) -> None:
    """Root's: make the default image set where it is not there."""
    if must_be_prepared(config.data, config.source or None):
        from distcnn.datasets.prepare_mnist import (
            prepare_mnist,  # once in a machine's life: it brings ssl, archives, pip's ways
        )

        with received_by_children():  # pip
            prepare_mnist(config.data, config.source or None, report)


def _content_sha256(dataset: DatasetInfo, parts: NamedHashes, communicator: Communicator) -> str:
    """Of every example that the ranks have read, and of the file's statistics: the same on any
    number of ranks.
    """
    everyone = [each for rank in communicator.allgather(parts) for each in rank]
    return combined_sha256([*everyone, ("statistics", f"{dataset.mean} {dataset.std}")])


def same_software(communicator: Communicator, report: Callable[[str], None]) -> dict[str, str]:
    """Root's fingerprint; a warning when another rank's is not the same, for the bits then hang on
    which rank computes what.
    """
    everyone = communicator.allgather(fingerprint())
    for rank, each in enumerate(everyone):
        if each != everyone[0]:
            what = "; ".join(
                f"{name} {each[name]!r}, not {value!r}"
                for name, value in everyone[0].items()
                if each[name] != value
            )
            report(
                f"warning: rank {rank} on {communicator.hosts[rank]} has other software or another"
                f" processor than rank 0 ({what}): the bits then depend on which rank computes"
                " which shard"
            )
            break
    return everyone[0]


def same_model(sources: Sources, communicator: Communicator) -> None:
    """``JointError`` on all ranks unless all have built the model from the same ``sources``: ranks
    would train different networks.
    """
    hashes = communicator.allgather(sha256_of(sources))
    if len(set(hashes)) == 1:
        return
    everyone = communicator.allgather(sources)
    rank = next(rank for rank, each in enumerate(everyone) if each != everyone[0])
    changes = compare_sources(everyone[0], everyone[rank])
    raise JointError(
        f"the model's source on rank {rank} (host {communicator.hosts[rank]}) is not rank 0's:"
        f" {changes}: start all ranks in one folder with one PYTHONPATH, on a file system that all"
        " hosts share"
    )


def _check_world(config: Config, communicator: Communicator) -> range:
    started, wanted = communicator.world_size, config.expect_ranks
    if wanted and started != wanted:
        runs = "1 is running" if started == 1 else f"{started} are running"
        raise InputError(
            f"expected {counted(wanted, 'rank')} (--expect-ranks), but {runs}"
            f" ({communicator.description}): start with mpirun -n {wanted}, of the MPI that mpi4py"
            " uses"
        )
    if started > config.num_shards:
        raise InputError(too_many_ranks(config, started))
    return shards_of_rank(config.num_shards, started, communicator.rank)


def too_many_ranks(config: Config, world_size: int) -> str:
    """The error for more ranks than shards, with a remedy that keeps the global batch where one
    does.
    """
    batch = config.global_batch_size
    shards = next((n for n in range(world_size, batch + 1) if batch % n == 0), 0)
    remedy = (
        f"--num-shards {shards} --microbatch-size {batch // shards} keeps the global batch of"
        f" {batch:,} (other shards, other bits)"
        if shards
        else f"give --num-shards {world_size} or more"
    )
    return (
        f"{world_size} ranks cannot share {counted(config.num_shards, 'shard')}: each needs one:"
        f" start at most {config.num_shards}, or begin a new run: {remedy}"
    )


def _check_same(datasets: list[DatasetInfo]) -> None:
    for rank, dataset in enumerate(datasets):
        if dataset != datasets[0]:
            raise InputError(
                f"{dataset.path} is another image set on rank {rank} than on rank 0 (SHA-256"
                f" {dataset.sha256 or 'unknown'}, not {datasets[0].sha256 or 'unknown'}): put the"
                " file on a file system that all hosts share, or the same one on each"
            )


def _statistics(
    dataset: DatasetInfo, sums: NDArray[np.int64], communicator: Communicator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation: the file's, else of all ranks' training pixels (``sums`` of
    integers, so the same on any ranks).
    """
    if dataset.mean and dataset.std:
        return np.array(dataset.mean), np.array(dataset.std)
    communicator.allreduce_sum(sums)
    mean, std = mean_and_std(
        sums, dataset.examples["train"] * dataset.image_shape[1] * dataset.image_shape[2]
    )
    return (
        np.array(dataset.mean) if dataset.mean else mean,
        np.array(dataset.std) if dataset.std else std,
    )

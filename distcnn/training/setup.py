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
from distcnn.datasets import Dataset, DatasetInfo, HDF5Dataset, Microbatch
from distcnn.datasets.default import DEFAULT_PATH, ensure_mnist
from distcnn.datasets.hashing import combined_sha256
from distcnn.datasets.survey import mean_and_std
from distcnn.distributed import Communicator, on_root, shards_of_rank, together
from distcnn.errors import InputError
from distcnn.fault_tolerance.signals import received_by_children
from distcnn.models import Model, build_model, find_model, initialise_model
from distcnn.nn import LOSSES, Parameters, Sequential
from distcnn.nn.losses import Loss, OwnLoss
from distcnn.optim import Optimizer, Schedule
from distcnn.random_streams import INITIALISE, PortableGenerator, generator
from distcnn.registry import find_loss, find_optimizer, find_schedule
from distcnn.spans import BUILD_NETWORK, COMPARE_RANKS, OPEN_DATA, PREPARE_DATA, SURVEY_DATA, Span
from distcnn.system.wording import counted
from distcnn.training.advice import require_enough_examples
from distcnn.training.consistency import check_same_data, same_model, same_software
from distcnn.training.data import NamedHashes, open_data, survey
from distcnn.training.evaluation import Evaluation
from distcnn.training.host_placement import require_everywhere, settle_threads
from distcnn.training.overlap import make_step
from distcnn.training.results import DatasetRecord
from distcnn.training.schedule import RunSchedule
from distcnn.training.step import Lane, Step
from distcnn.user_source import Sources, own_sources

Statistics = tuple[NDArray[np.float64], NDArray[np.float64]]
FORWARDS_A_STEP = 3
"""A block of test examples takes about a third of a shard's time in a step."""


@dataclass(frozen=True)
class Components:
    """The objects that a run is made of."""

    model: Model
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule


def named_components(config: Config) -> Components:
    """The objects that ``config`` names. Raises ``InputError`` for an unknown name."""
    return Components(
        find_model(config.model),
        find_loss(config.loss),
        find_optimizer(
            config.optimizer, config.learning_rate, config.momentum, config.weight_decay
        ),
        find_schedule(config.schedule, config.warmup_steps),
    )


@dataclass
class Run:
    """A run that is ready to start, as one rank sees it."""

    config: Config
    components: Components
    communicator: Communicator
    dataset: DatasetInfo
    model: Sequential
    parameters: Parameters
    step: Step
    evaluation: Evaluation
    record: DatasetRecord
    """What is recorded of the image set."""
    software: dict[str, str]
    """Root's fingerprint."""
    model_sources: Sources
    """The source of a model of the user's own, by module; else empty."""

    @property
    def schedule(self) -> RunSchedule:
        """How its steps go."""
        return RunSchedule(self.config, self.dataset.examples["train"], self.components.schedule)


def prepare_run(
    config: Config,
    communicator: Communicator,
    report: Callable[[str], None],
    components: Components | None = None,
    images: Dataset | None = None,
) -> Run:
    """Check the input, read this rank's part of the data, plan all buffers. Collective.

    Args:
        config: the settings.
        communicator: of all ranks.
        report: takes lines for the user, on root.
        components: the objects in place of those that ``config`` names.
        images: the image set in place of the file that ``config`` names.

    Raises:
        InputError: on all ranks.
    """
    shard_indices = together(communicator, lambda: _check_world(config, communicator))
    made = components or together(communicator, lambda: named_components(config))
    images = images or _open_file(config, communicator, report)
    with Span(OPEN_DATA):
        dataset = together(communicator, lambda: images.read_info(config.stall_timeout))
        sha256 = images.content_sha256() if communicator.world_size > 1 else ""
        datasets = communicator.allgather(replace(dataset, sha256=dataset.sha256 or sha256))
        together(communicator, lambda: check_same_data(datasets))
        together(communicator, lambda: require_enough_examples(config, dataset.examples["train"]))
    shape, size = dataset.image_shape, config.microbatch_size
    with Span(BUILD_NETWORK):
        plan = together(
            communicator,
            lambda: build_model(config.model, shape, dataset.classes, size, made.model),
        )
        sources = together(communicator, lambda: own_sources(*config.own_code.values()))
        same_model(sources, communicator)
        rng = PortableGenerator(generator(config.seed, INITIALISE))
        together(communicator, lambda: initialise_model(config.model, plan.parameters, rng))
    with Span(SURVEY_DATA):
        data = open_data(images, dataset, config, communicator, shard_indices)
        content = survey(data, dataset, size, communicator)
        statistics = _statistics(dataset, content.pixels, communicator)
    built_in = any(made.loss is loss for loss in LOSSES.values())
    loss = made.loss if built_in else OwnLoss(made.loss)
    optimizer = made.optimizer.start(plan.parameters.values)

    def make_lane() -> Lane:
        another = plan.model.plan(shape, size, plan.parameters)
        return Lane(another, Microbatch(shape, size, *statistics))

    lane = Lane(plan, Microbatch(shape, size, *statistics))
    with Span(BUILD_NETWORK):
        step = make_step(config, communicator, lane, make_lane, loss, optimizer, data.shards)
    blocks = FORWARDS_A_STEP * -(-config.num_shards // communicator.world_size)
    test_examples = dataset.examples["test"]
    evaluation = Evaluation(lane, loss, data.test, test_examples, communicator, blocks)
    with Span(COMPARE_RANKS):
        record = _record(dataset, content.hashes, statistics, communicator)
        for remark in content.remarks:
            report(f"warning: {remark}")
        # Its lines come when all input is found good, and before any number is made.
        config = settle_threads(config, communicator, report)
        software = same_software(communicator, report)
    return Run(
        config=config,
        components=made,
        communicator=communicator,
        dataset=dataset,
        model=plan.model,
        parameters=plan.parameters,
        step=step,
        evaluation=evaluation,
        record=record,
        software=software,
        model_sources=sources,
    )


def _open_file(
    config: Config, communicator: Communicator, report: Callable[[str], None]
) -> Dataset:
    """The file that ``config`` names, which all ranks must see."""
    if config.source or Path(config.data) == Path(DEFAULT_PATH):
        with Span(PREPARE_DATA):
            on_root(communicator, lambda: _ensure_mnist(config, report))
    with Span(OPEN_DATA):
        require_everywhere(config.data, "--data", communicator)
    return HDF5Dataset(config.data)


def _ensure_mnist(config: Config, report: Callable[[str], None]) -> None:
    with received_by_children():  # pip
        ensure_mnist(config.data, config.source or None, report)


def _record(
    dataset: DatasetInfo, parts: NamedHashes, statistics: Statistics, communicator: Communicator
) -> DatasetRecord:
    """What is recorded of the image set: the same on any number of ranks. Collective."""
    everyone = [each for rank in communicator.allgather(parts) for each in rank]
    mean, std = statistics
    return DatasetRecord(
        name=dataset.name,
        path=dataset.path,
        source=dataset.source,
        sha256=dataset.sha256,
        content_sha256=combined_sha256(
            [*everyone, ("statistics", f"{dataset.mean} {dataset.std}")]
        ),
        classes=dataset.classes,
        class_names=dataset.class_names or tuple(map(str, range(dataset.classes))),
        image_shape=dataset.image_shape,
        mean=tuple(mean.tolist()),
        std=tuple(np.where(std > 0, std, 1.0).tolist()),  # a constant channel is only centred
        train_examples=dataset.examples["train"],
        test_examples=dataset.examples["test"],
    )


def _check_world(config: Config, communicator: Communicator) -> range:
    started, wanted = communicator.world_size, config.expect_ranks
    if wanted and started != wanted:
        runs = "1 is running" if started == 1 else f"{started} are running"
        raise InputError(
            f"expected {counted(wanted, 'rank')} (--expect-ranks), but {runs}"
            f" ({communicator.description}): start with mpirun -n {wanted}, using the mpirun of"
            " the MPI that mpi4py loads"
        )
    if started > config.num_shards:
        raise InputError(too_many_ranks(config, started))
    return shards_of_rank(config.num_shards, started, communicator.rank)


def too_many_ranks(config: Config, world_size: int) -> str:
    """The error for more ranks than shards; the remedy keeps the global batch if it can."""
    batch = config.global_batch_size
    shards = next((n for n in range(world_size, batch + 1) if batch % n == 0), 0)
    remedy = (
        f"--num-shards {shards} --microbatch-size {batch // shards}, which keeps the global batch"
        f" of {batch:,} but changes the bits"
        if shards
        else f"--num-shards {world_size} or more"
    )
    return (
        f"{world_size} ranks cannot share {counted(config.num_shards, 'shard')} (each rank needs at"
        f" least one): start at most {config.num_shards}, or start a new run with {remedy}"
    )


def _statistics(
    dataset: DatasetInfo, sums: NDArray[np.int64], communicator: Communicator
) -> Statistics:
    """Mean and standard deviation: the file's, else of all ranks' training pixels."""
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

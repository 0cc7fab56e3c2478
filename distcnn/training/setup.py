"""From a configuration and a communicator to all that the loop needs.

What is wrong with the input is found here, by all ranks together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distcnn import spans
from distcnn.config import Config
from distcnn.datasets import Dataset, DatasetInfo, Microbatch, Part
from distcnn.datasets.hdf5 import VALIDATION
from distcnn.datasets.normalisation import Normalisation
from distcnn.distributed import Communicator, blas_threads, shards_of_rank, together
from distcnn.errors import InputError
from distcnn.models import Model, build_model, find_model, initialise_model
from distcnn.nn import LOSSES, PORTABLE, Parameters, Sequential
from distcnn.nn.losses import Loss, OwnLoss, portable_loss
from distcnn.optim import Optimizer, Schedule
from distcnn.portable import self_test
from distcnn.random_streams import INITIALISE, PortableGenerator, generator
from distcnn.registry import find_loss, find_optimizer, find_schedule
from distcnn.spans import Span
from distcnn.system.host import usable_cores
from distcnn.system.wording import counted
from distcnn.training import consistency
from distcnn.training.advice import require_enough_examples
from distcnn.training.data import held_out, open_data, open_file, record_of, survey
from distcnn.training.evaluation import Evaluation
from distcnn.training.initial import (
    InitialWeights,
    frozen_parameters,
    load_initial_weights,
    normalisation_of,
    trained_slices,
)
from distcnn.training.overlap import make_step
from distcnn.training.portability import portability_warnings
from distcnn.training.results import DatasetRecord
from distcnn.training.schedule import RunSchedule
from distcnn.training.step import Lane, StopRequest, TrainingStep
from distcnn.training.threads import Threads
from distcnn.user_code import Sources, own_sources

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
    """The objects that ``config`` names."""
    settings = config.learning_rate, config.momentum, config.weight_decay
    optimizer = find_optimizer(config.optimizer, *settings)
    schedule = find_schedule(config.schedule, config.warmup_steps)
    return Components(find_model(config.model), find_loss(config.loss), optimizer, schedule)


@dataclass
class Run:
    """A run that is ready to start, as one rank sees it."""

    config: Config
    components: Components
    communicator: Communicator
    dataset: DatasetInfo
    model: Sequential
    parameters: Parameters
    training_step: TrainingStep
    evaluation: Evaluation
    """On the test set."""
    validation: Evaluation | None
    """On the validation set, where one is held out."""
    dataset_record: DatasetRecord
    """What is recorded of the image set."""
    software: dict[str, str]
    """Root's fingerprint."""
    model_sources: Sources
    """The source of a model of the user's own, by module; else empty."""
    initial: InitialWeights | None
    """What it starts from, where that is not drawn from the seed."""
    frozen: tuple[str, ...]
    """The names of the parameters that are not trained."""

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
    stop_request: StopRequest = lambda: None,
    directory: Path | None = None,
) -> Run:
    """Check the input, read this rank's part of the data, plan all buffers. Collective.

    ``report`` takes lines for the user, on root. ``components`` and ``images`` take the place of
    what ``config`` names. Steps and tests ask ``stop_request``, on every rank, whether to stop.
    ``directory`` is that of a run to continue or replay, which has its initial weights.
    ``InputError`` is raised on all ranks.
    """
    own_shards = together(communicator, lambda: _check_world(config, communicator))
    if config.is_portable:
        together(communicator, _require_portable_machine)
    made = components or together(communicator, lambda: named_components(config))
    images = images or open_file(config, communicator, report)
    with Span(spans.OPEN_DATA):
        info = together(communicator, lambda: images.read_info(config.stall_timeout))
        sha256 = images.content_sha256() if communicator.world_size > 1 else ""
        infos = communicator.allgather(replace(info, sha256=info.sha256 or sha256))
        together(communicator, lambda: consistency.check_same_data(infos))
        dataset = held_out(images, info, config, communicator)
        info = dataset.read_info() if config.validation else info
        together(communicator, lambda: require_enough_examples(config, info.examples["train"]))
    name, shape, size = config.model, info.image_shape, config.microbatch_size
    with Span(spans.BUILD_NETWORK):
        plan = together(
            communicator,
            lambda: build_model(name, shape, info.classes, size, made.model, config.arithmetic),
        )
        sources = together(communicator, lambda: own_sources(*config.own_code.values()))
        consistency.same_model(sources, communicator)
        rng = PortableGenerator(generator(config.seed, INITIALISE))
        together(communicator, lambda: initialise_model(name, plan.parameters, rng))
        frozen = together(communicator, lambda: frozen_parameters(plan.parameters, config.freeze))
        notices: list[str] = []  # reported when the flags are found good: a refusal is one line
        initial = load_initial_weights(
            config, plan.model, plan.parameters, info, communicator, notices.append, directory
        )
        plan.freeze(frozen)
    if config.arithmetic == PORTABLE and communicator.rank == 0:
        notices += portability_warnings(
            plan.model, plan.parameters, made.loss, made.optimizer, made.schedule
        )
    with Span(spans.SURVEY_DATA):
        data = open_data(dataset, info, config, communicator, own_shards)
        content = survey(data, info, size, communicator)
    of_data = Normalisation(content.mean, tuple(std if std > 0 else 1.0 for std in content.std))
    used = together(
        communicator, lambda: normalisation_of(config, initial, of_data, notices.append)
    )
    for notice in notices:
        report(notice)
    mean, std = np.array(used.mean), np.array(used.std)
    built_in = any(made.loss is loss for loss in LOSSES.values())
    loss = made.loss if built_in else OwnLoss(made.loss)
    optimizer = made.optimizer
    if config.arithmetic == PORTABLE:
        loss, optimizer = portable_loss(loss), optimizer.portable()
    trained = trained_slices(plan.parameters, frozen) if frozen else None
    updater = optimizer.start(plan.parameters.values, trained)

    def make_lane() -> Lane:
        another = plan.model.plan(shape, size, plan.parameters, config.arithmetic)
        another.freeze(frozen)
        return Lane(another, Microbatch(shape, size, mean, std))

    lane = Lane(plan, Microbatch(shape, size, mean, std))
    cores = communicator.allgather(usable_cores(communicator.hosts[communicator.rank]))
    threads = Threads.settle(config, cores, len(data.shards))
    with Span(spans.BUILD_NETWORK):
        training_step = make_step(
            *(config, communicator, lane, make_lane, loss, updater, data.shards, stop_request),
            threads.side_by_side,
        )
    blocks = FORWARDS_A_STEP * -(-config.num_shards // communicator.world_size)

    def evaluation_of(split: str, part: Part) -> Evaluation:
        count = info.examples[split]
        return Evaluation(lane, loss, part, count, communicator, blocks, stop_request, split)

    with Span(spans.COMPARE_RANKS):
        dataset_record = replace(record_of(info, content, communicator), **vars(used))
        for remark in content.remarks:
            report(f"warning: {remark}")
        # Its lines come when all input is found good, and before any number is made.
        together(communicator, lambda: blas_threads.limit_blas_threads(threads.of_blas))
        for line in threads.lines(config, cores):
            report(line)
        if not config.is_portable:
            config = replace(config, threads_per_rank=str(threads.of_blas))
        if config.spot_check:
            consistency.require_comparable(config.arithmetic, communicator)
            if communicator.world_size == 1:
                report(
                    "notice: in one process --spot-check repeats shards on the same processor: it"
                    " finds only faults that come and go"
                )
        software = consistency.same_software(communicator, report, config.is_portable)
    return Run(
        config=config,
        components=made,
        communicator=communicator,
        dataset=info,
        model=plan.model,
        parameters=plan.parameters,
        training_step=training_step,
        evaluation=evaluation_of("test", data.test),
        validation=evaluation_of(VALIDATION, data.validation) if data.validation else None,
        dataset_record=dataset_record,
        software=software,
        model_sources=sources,
        initial=initial,
        frozen=frozen,
    )


def _require_portable_machine() -> None:
    if found := self_test.problem():
        raise InputError(
            f"--arithmetic portable: this machine would compute other bits: {found}: run"
            " python -m distcnn.doctor there, or use --arithmetic native"
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
    remedy = f"--num-shards {world_size} or more"
    if shards:
        remedy = (
            f"--num-shards {shards} --microbatch-size {batch // shards}, which keeps the global"
            f" batch of {batch:,} but changes the bits"
        )
    return (
        f"{world_size} ranks cannot share {counted(config.num_shards, 'shard')} (each rank needs at"
        f" least one): start at most {config.num_shards}, or start a new run with {remedy}"
    )

"""Train a network: ``mpirun -n 4 python -m distcnn.train``, or ``python -m distcnn.train`` in one
process, the same bits.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import distcnn.cli.start
import distcnn.system.rank0_imports  # noqa: F401
from distcnn.checkpoints import CheckpointStore
from distcnn.cli.command import EXIT_STOPPED, run_command
from distcnn.config import Config, as_flag
from distcnn.config_parsing import TARGET_DEFAULTS, Request, make_parser, parse_request
from distcnn.datasets import DatasetInfo
from distcnn.datasets.default import SAMPLE_NAME, SAMPLE_NOTICE
from distcnn.datasets.memory_budget import window_examples
from distcnn.distributed import Communicator, on_root, together
from distcnn.distributed.blas_threads import blas_description, blas_threads
from distcnn.fault_tolerance.heartbeat import Activity, pulse
from distcnn.fault_tolerance.signals import StopSignals
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.system.files import remove_temporary_files
from distcnn.system.wording import counted
from distcnn.training.advice import warnings_of
from distcnn.training.checkpointing import Saving
from distcnn.training.host_placement import describe_hosts
from distcnn.training.locking import locked, require_owner
from distcnn.training.loop import Loop
from distcnn.training.open_run import begin_records, open_directory
from distcnn.training.progress import NoProgress, Progress
from distcnn.training.results import BEST_WEIGHTS, WEIGHTS, RunResult
from distcnn.training.resume import (
    ResumePoint,
    check_model,
    existing_run,
    find_resume_point,
    is_in_place,
    require_code_outside,
)
from distcnn.training.run_directory import CHECKPOINTS, NoRunDirectory
from distcnn.training.schedule import Plan
from distcnn.training.setup import Run, prepare_run
from distcnn.training.snapshot import check_dataset, restore_snapshot
from distcnn.training.state import State

NAME = "distcnn.train"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_command(NAME, lambda: make_parser().print_help(), train_command, arguments)


def train_command(communicator: Communicator, arguments: Sequence[str]) -> None:
    """Parse, find where to begin, train, say what came out."""
    progress = Progress() if communicator.rank == 0 else NoProgress()
    request = on_root(communicator, lambda: parse_request(arguments))
    if request.break_at_step is not None or request.debug:
        from distcnn.training.debug import (  # not for all: it brings pdb and the replay
            break_at,
            check_network,
            require_one_process,
        )

        flag = "--debug" if request.break_at_step is None else "--break-at-step"
        together(communicator, lambda: require_one_process(communicator, flag))
    if request.break_at_step is not None:
        together(communicator, lambda: break_at(request, communicator, progress.say))
        return
    signals = StopSignals(
        NAME,
        communicator.rank == 0,
        lambda: _end_before_first_step(communicator, signals),
        __name__ == "__main__",
    )
    with signals, Watchdog(NAME, communicator) as watchdog, ExitStack() as held:
        watchdog.timeout_seconds = request.given.get("stall_timeout", watchdog.timeout_seconds)
        if request.resume:
            pulse.beat(Activity.READING_RUN)
            on_root(communicator, lambda: existing_run(request.resume))
            signals.can_resume = True
        point = (
            on_root(communicator, lambda: _resume_point(request, held, progress))
            if request.resume
            else None
        )
        if point and point.result and "data" not in request.given:
            progress.say(*_finished(point))
            return
        config = point.config if point else on_root(communicator, lambda: request.config)
        watchdog.timeout_seconds = config.stall_timeout
        together(
            communicator,
            lambda: require_code_outside(config, request.resume, request.given.get("output", "")),
        )
        run = prepare_run(config, communicator, progress.say)
        if point and (result := point.result):
            together(communicator, lambda: check_dataset(dataclasses.asdict(result.dataset), run))
            progress.say(*_finished(point))
            return
        run.step.stop_request = run.evaluation.stop_request = lambda: signals.requested
        for line in () if point else warnings_of(run.plan):
            progress.say(f"warning: {line}")
        if request.debug:
            check_network(run, progress.say)
        if point:
            on_root(
                communicator,
                lambda: check_model(
                    point, run.model_sources, request.accept_changed_model, progress.say
                ),
            )
        _train(run, point, request, held, progress, signals)


def _end_before_first_step(communicator: Communicator, signals: StopSignals) -> None:
    """End all ranks for a signal: ``EXIT_STOPPED`` promises that ``--resume`` works, so only where
    there is a run.
    """
    if signals.can_resume:
        communicator.abort(EXIT_STOPPED)
    communicator.end_by_signal(signals.received or signal.SIGTERM)


def _resume_point(request: Request, held: ExitStack, progress: Progress) -> ResumePoint:
    """Root's: the run to go on with, locked while this process lives where it will be written."""
    if is_in_place(request):
        directory = existing_run(request.resume)
        if not request.allow_other_owner:
            require_owner(directory, CHECKPOINTS)
        held.enter_context(locked(directory))
        remove_temporary_files(directory)
        CheckpointStore(directory / CHECKPOINTS).remove_temporary_files()
    return find_resume_point(request, progress.say)


def _train(
    run: Run,
    point: ResumePoint | None,
    request: Request,
    held: ExitStack,
    progress: Progress,
    signals: StopSignals,
) -> None:
    communicator = run.communicator
    checkpoint = point.checkpoint if point else None
    state = State(world_size=communicator.world_size)
    if checkpoint:
        pulse.beat(Activity.RESTORING)
        state = together(communicator, lambda: restore_snapshot(run, checkpoint))
    pulse.beat(Activity.CREATING_RUN)
    with signals.making_run():
        path = on_root(
            communicator, lambda: open_directory(run.config, point, held, request.allow_other_owner)
        )
    directory = (
        begin_records(run, state, path, point, progress, held) if communicator.rank == 0 else None
    )
    records, saving = directory or NoRunDirectory(), Saving(run, directory, progress)
    signals.steps_are_taken = True
    progress.say(*headline(run, path, state, point))
    progress.start(run.plan.total_steps, state.step)
    try:
        with _traced(run, state, saving, path, progress):
            result = Loop(run, state, records, saving, progress).train()
    finally:
        progress.close()
    progress.say(
        f"test accuracy {result.test_accuracy:.4f} ({result.test_correct} of"
        f" {result.test_examples}) after {counted(result.steps, 'step')},"
        f" {result.train_seconds:.1f} s, {result.images_per_second:,.0f} images/s",
        *_target(result),
        f"plus {state.safety_seconds:.2f} s for checkpoints, hashes and the ledger",
        f"weights {result.params_sha256}",
        _best(result),
        f"results in {saving.location}",
    )


def _traced(
    run: Run, state: State, saving: Saving, path: Path, progress: Progress
) -> AbstractContextManager[None]:
    if not run.config.trace:
        return nullcontext()
    from distcnn.profiling.tracing import traced  # not for all: few runs are

    return traced(run, state.step, lambda: saving.location or path, progress.say)


def _target(result: RunResult) -> list[str]:
    """A line on what became of the target; none without one."""
    if result.target_accuracy is None:
        return []
    target = f"--target-accuracy {result.target_accuracy:g}"
    if result.target_reached:
        return [
            f"test accuracy {result.test_accuracy:.4f} reached {target} after"
            f" {counted(result.steps, 'step')}, {result.seconds_to_target:.1f} s from the"
            " start of the first step (evaluations included)"
        ]
    steps = counted(result.steps, "step")
    return [
        f"{target} was not reached in {steps}: the best test accuracy was"
        f" {result.best_test_accuracy:.4f}"
    ]


def _best(result: RunResult) -> str:
    """A line on which weights are where."""
    if result.best_step == result.steps:
        return (
            f"{WEIGHTS} and {BEST_WEIGHTS}: both of step {result.steps}, which had the best test"
            " accuracy"
        )
    best = f"of step {result.best_step}, the best test accuracy ({result.best_test_accuracy:.4f})"
    return f"{WEIGHTS}: of the last step; {BEST_WEIGHTS}: {best}"


def headline(run: Run, path: Path, state: State, point: ResumePoint | None) -> list[str]:
    """What runs, in lines: model, data, batch, ranks, threads, and where the results will be."""
    config, dataset, world = run.config, run.dataset, run.communicator
    channels, height, width = dataset.image_shape
    threads = blas_threads()
    train, test = dataset.examples["train"], dataset.examples["test"]
    return [
        f"model    {config.model}, {counted(run.network.values.size, 'parameter')}",
        (
            f"data     {dataset.name} ({dataset.path}): {train:,} training and"
            f" {counted(test, 'test image')}, {channels}x{height}x{width},"
            f" {counted(dataset.classes, 'class')}"
        ),
        *([f"notice   {SAMPLE_NOTICE}"] if dataset.name == SAMPLE_NAME else []),
        *([f"windows  {_windows(config, dataset)}"] if config.data_memory else []),
        (
            f"batch    {counted(config.num_shards, 'shard')} x"
            f" {counted(config.microbatch_size, 'example')} = {config.global_batch_size:,} a step,"
            f" {config.reduction} sum"
        ),
        (
            f"update   {config.optimizer}, learning rate {config.learning_rate:g},"
            f" {config.schedule}{_cycle(config)}, seed {config.seed}"
        ),
        *(
            [
                f"target   test accuracy {config.target_accuracy:g}; the defaults with it:"
                f" {_defaults()}"
            ]
            if config.target_accuracy
            else []
        ),
        (
            f"ranks    {world.world_size}{describe_hosts(world.hosts)} ({world.description}), "
            f"{counted(threads, 'BLAS thread')} each ({blas_description()})"
        ),
        *(
            [
                f"resumed  {point.directory}, after {state.step} of"
                f" {counted(run.plan.total_steps, 'step')}, begun on"
                f" {counted(state.world_size, 'rank')}"
            ]
            if point
            else []
        ),
        f"results  {path}",
    ]


def _cycle(config: Config) -> str:
    return f" again every {counted(config.cycle_epochs, 'epoch')}" if config.cycle_epochs else ""


def _defaults() -> str:
    return " ".join(f"{as_flag(name)} {value}" for name, value in TARGET_DEFAULTS.items())


def _windows(config: Config, dataset: DatasetInfo) -> str:
    length = window_examples(dataset, config.num_shards, config.data_memory)
    longest = -(-dataset.examples["train"] // config.num_shards)
    within = (
        "the whole shard each"
        if length >= longest
        else f"at most {length:,} of the {counted(longest, 'example')} of a shard each"
    )
    return f"{within}, shuffled within (--data-memory {config.data_memory:g})"


def _finished(point: ResumePoint) -> list[str]:
    result = point.result
    assert result is not None
    reached = result.steps < Plan(point.config, result.dataset.train_examples).total_steps
    more = (
        "a higher --target-accuracy, or 0 for none, would continue it"
        if reached
        else "more --epochs would continue it"
    )
    return [
        (
            f"{point.directory} is finished: test accuracy {result.test_accuracy:.4f} after"
            f" {counted(result.steps, 'step')}"
        ),
        f"weights {result.params_sha256}",
        f"the run is complete; {more}",
    ]


if __name__ == "__main__":
    sys.exit(main())

"""Train a network: ``python -m distcnn.train``, alone or under ``mpirun``, to the same bits."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import distcnn.cli.start
import distcnn.system.rank0_imports  # noqa: F401
from distcnn.checkpoints.weights import BEST_WEIGHTS, WEIGHTS
from distcnn.cli.command import EXIT_STOPPED, run_command
from distcnn.config import Config, as_flag
from distcnn.config_parsing import TARGET_DEFAULTS, make_parser, parse_request
from distcnn.datasets import DatasetInfo
from distcnn.datasets.default import SAMPLE_NAME, SAMPLE_NOTICE
from distcnn.datasets.memory_budget import window_examples
from distcnn.distributed import Communicator, on_root, together
from distcnn.distributed.blas_threads import blas_description, blas_threads
from distcnn.fault_tolerance.signals import StopSignals
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.system.wording import counted
from distcnn.training.host_placement import describe_hosts
from distcnn.training.progress import NoProgress, Progress
from distcnn.training.results import RunResult
from distcnn.training.resume import ResumePoint
from distcnn.training.schedule import Plan
from distcnn.training.session import Outcome, Session
from distcnn.training.setup import Run
from distcnn.training.state import State

NAME = "distcnn.train"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_command(NAME, lambda: make_parser().print_help(), train_command, arguments)


def train_command(communicator: Communicator, arguments: Sequence[str]) -> None:
    """Parse, train, print what came out."""
    progress = Progress() if communicator.rank == 0 else NoProgress()
    request = on_root(communicator, lambda: parse_request(arguments))
    if request.debug or request.break_at_step is not None:
        from distcnn.training.debug import require_one_process  # brings pdb and the replay

        flag = "--debug" if request.break_at_step is None else "--break-at-step"
        together(communicator, lambda: require_one_process(communicator, flag))
    if request.break_at_step is not None:
        from distcnn.training.debug import break_at

        together(communicator, lambda: break_at(request, communicator, progress.say))
        return
    signals = StopSignals(
        NAME,
        communicator.rank == 0,
        lambda: _end_before_first_step(communicator, signals),
        __name__ == "__main__",
    )
    with signals, Watchdog(NAME, communicator) as watchdog:
        watchdog.timeout_seconds = request.given.get("stall_timeout", watchdog.timeout_seconds)

        def announce(run: Run, path: Path | None, state: State, point: ResumePoint | None) -> None:
            progress.say(*headline(run, path, state, point))

        def inspect(run: Run) -> None:
            if request.debug:
                from distcnn.training.debug import check_network

                check_network(run, progress.say)

        def trace(
            run: Run, state: State, location: Callable[[], str | Path]
        ) -> AbstractContextManager[object]:
            from distcnn.profiling.tracing import traced  # few runs are traced

            return traced(run, state.step, location, progress.say)

        session = Session(
            request,
            communicator,
            progress,
            signals=signals,
            watchdog=watchdog,
            inspect=inspect,
            announce=announce,
            trace=trace,
        )
        outcome = session.train()
        progress.say(*summary(outcome))


def _end_before_first_step(communicator: Communicator, signals: StopSignals) -> None:
    """End all ranks for a signal; ``EXIT_STOPPED`` promises that ``--resume`` works."""
    if signals.can_resume:
        communicator.abort(EXIT_STOPPED)
    communicator.end_by_signal(signals.received or signal.SIGTERM)


def summary(outcome: Outcome) -> list[str]:
    """What came out, in lines."""
    result = outcome.result
    if outcome.run is None and outcome.point is not None:
        return _finished(outcome.point, result)
    return [
        f"test accuracy {result.test_accuracy:.4f} ({result.test_correct} of"
        f" {result.test_examples}) after {counted(result.steps, 'step')},"
        f" {result.train_seconds:.1f} s, {result.images_per_second:,.0f} images/s",
        *_target(result),
        f"plus {outcome.state.safety_seconds:.2f} s for checkpoints and bookkeeping",
        f"weights {result.params_sha256}",
        _best(result),
        f"results in {outcome.location}",
    ]


def _target(result: RunResult) -> list[str]:
    """A line on the target accuracy; none without one."""
    if result.target_accuracy is None:
        return []
    target, steps = f"--target-accuracy {result.target_accuracy:g}", counted(result.steps, "step")
    if result.target_reached:
        return [
            f"test accuracy {result.test_accuracy:.4f} reached {target} after {steps},"
            f" {result.seconds_to_target:.1f} s from the start of the first step (evaluations"
            " included)"
        ]
    return [
        f"{target} was not reached in {steps}: the best test accuracy was"
        f" {result.best_test_accuracy:.4f}"
    ]


def _best(result: RunResult) -> str:
    """A line on which weights are in which file."""
    if result.best_step == result.steps:
        return (
            f"{WEIGHTS} and {BEST_WEIGHTS}: both of step {result.steps}, which had the best test"
            " accuracy"
        )
    return (
        f"{WEIGHTS}: of the last step; {BEST_WEIGHTS}: of step {result.best_step}, the best test"
        f" accuracy ({result.best_test_accuracy:.4f})"
    )


def _finished(point: ResumePoint, result: RunResult) -> list[str]:
    """Lines on a run that was over already."""
    reached = result.steps < Plan(point.config, result.dataset.train_examples).total_steps
    return [
        f"{point.directory} is finished: test accuracy {result.test_accuracy:.4f} after"
        f" {counted(result.steps, 'step')}",
        f"weights {result.params_sha256}",
        "the run is complete; to train longer: --resume RUN"
        f" {'--target-accuracy A (0 for none)' if reached else '--epochs N'}",
    ]


def headline(run: Run, path: Path | None, state: State, point: ResumePoint | None) -> list[str]:
    """What is about to run, in lines: model, data, batch, ranks, threads, run directory."""
    config, dataset, world = run.config, run.dataset, run.communicator
    channels, height, width = dataset.image_shape
    threads = blas_threads()
    train, test = dataset.examples["train"], dataset.examples["test"]
    return [
        f"model    {config.model}, {counted(run.parameters.values.size, 'parameter')}",
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


if __name__ == "__main__":
    sys.exit(main())

"""Train a network: ``python -m distcnn.train``, alone or under ``mpirun``, to the same bits."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import distcnn.cli.start
import distcnn.system.rank0_imports  # noqa: F401
from distcnn.checkpoints.weights import BEST_WEIGHTS, WEIGHTS
from distcnn.cli.command import EXIT_STOPPED, run_command
from distcnn.cli.rank_warnings import RankWarnings
from distcnn.config import Config, as_flag
from distcnn.config_parsing import TARGET_DEFAULTS, make_parser, parse_request
from distcnn.datasets import DatasetInfo
from distcnn.datasets.dataset import SAMPLE_NAME, SAMPLE_NOTICE
from distcnn.datasets.streaming import window_examples
from distcnn.distributed import Communicator, on_root, together
from distcnn.distributed.blas_threads import blas_description, blas_thread_count
from distcnn.fault_tolerance.signals import StopSignals
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.spans import WRITE_METRICS, listening
from distcnn.system.wording import counted, number_ranges, plural
from distcnn.training.details import details, phases_reported
from distcnn.training.progress import NoProgress, Progress, QuietProgress
from distcnn.training.resume import ResumePoint
from distcnn.training.schedule import RunSchedule
from distcnn.training.session import Outcome, Session
from distcnn.training.setup import Run
from distcnn.training.state import State

NAME = "distcnn.train"
MOST_HOSTS_NAMED = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(NAME, make_parser, train_command, arguments)


def train_command(communicator: Communicator, arguments: Sequence[str]) -> None:
    """Parse, train, print the result."""
    request = on_root(communicator, lambda: parse_request(arguments))
    own = QuietProgress() if request.quiet else Progress()
    progress = own if communicator.rank == 0 else NoProgress()
    if request.debug or request.break_at_step is not None:
        from distcnn.training.debug import break_at, require_one_process  # brings pdb

        flag = "--debug" if request.break_at_step is None else "--break-at-step"
        together(communicator, lambda: require_one_process(communicator, flag))
        if request.break_at_step is not None:
            together(communicator, lambda: break_at(request, communicator, progress.say))
            return

    def end_before_first_step() -> None:
        """End all ranks for a signal; ``EXIT_STOPPED`` promises that ``--resume`` works."""
        if signals.can_resume:
            communicator.abort(EXIT_STOPPED)
        communicator.end_by_signal(signals.received or signal.SIGTERM)

    def announce(run: Run, path: Path | None, state: State, point: ResumePoint | None) -> None:
        progress.say(*headline(run, path, state, point))
        if request.verbose:
            progress.say(*details(run))
        found.show()

    def trace(
        run: Run, state: State, location: Callable[[], str | Path]
    ) -> AbstractContextManager[object]:
        from distcnn.profiling.tracing import traced  # few runs are traced

        return traced(run, state.step, location, progress.say)

    is_main, is_root = __name__ == "__main__", communicator.rank == 0
    signals = StopSignals(NAME, is_root, end_before_first_step, is_main)
    phases = phases_reported(progress.say) if request.verbose and is_root else nullcontext()
    with (
        RankWarnings(communicator, progress.say) as found,
        listening(found, {WRITE_METRICS}),
        signals,
        Watchdog(NAME, communicator) as watchdog,
        phases,
    ):
        watchdog.timeout_seconds = request.given.get("stall_timeout", watchdog.timeout_seconds)
        outcome = Session(
            request,
            communicator,
            progress,
            signals=signals,
            watchdog=watchdog,
            announce=announce,
            trace=trace,
        ).train()
        progress.result(*summary(outcome))


def summary(outcome: Outcome) -> list[str]:
    """The result, in lines."""
    result, point = outcome.result, outcome.point
    accuracy, steps = f"test accuracy {result.test_accuracy:.4f}", counted(result.steps, "step")
    hashes = [f"weights {result.params_sha256}"]
    if result.receipt_sha256:
        hashes.append(f"receipt {result.receipt_sha256}")
    if outcome.run is None and point is not None:  # it was finished already
        config = point.config
        total = RunSchedule(config, result.dataset.train_examples).total_steps
        more = "--max-steps N (0: no limit)" if config.max_steps == total else "--epochs N"
        if result.steps < total:
            is_patience = result.stopped_early and not result.target_reached
            more = "--patience N (0: never)" if is_patience else "--target-accuracy A (0: none)"
        return [
            f"{point.directory} is finished: {accuracy} after {steps}",
            *hashes,
            f"the run is complete; to train longer: --resume {point.directory} {more}",
        ]
    lines = [
        f"{accuracy} ({result.test_correct} of {result.test_examples}) after {steps},"
        f" {result.train_seconds:.1f} s, {result.images_per_second:,.0f} images/s"
    ]
    target = f"--target-accuracy {result.target_accuracy or 0:g}"
    split, best = f"{result.choosing_split} accuracy", result.best_choosing_accuracy
    if result.target_reached:
        lines.append(
            f"{split} {result.choosing_accuracy:.4f} reached {target} after {steps},"
            f" {result.seconds_to_target:.1f} s from the start of the first step (evaluations"
            " included)"
        )
    elif result.target_accuracy is not None:
        lines.append(f"{target} was not reached in {steps}: the best {split} was {best:.4f}")
    if result.spot_checks is not None:
        shards = counted(result.spot_checks, "shard")
        lines.append(f"spot checks: {shards} recomputed, all equal")
    seconds = outcome.state.safety_seconds
    lines += [f"plus {seconds:.2f} s for checkpoints and bookkeeping", *hashes]
    if result.best_step == result.steps:
        both = f"{WEIGHTS} and {BEST_WEIGHTS}: both of step {result.steps}"
        lines.append(f"{both}, which had the best {split}")
    else:
        step = f"of step {result.best_step}, the best {split} ({best:.4f})"
        has_best = Path(outcome.location, BEST_WEIGHTS).exists()
        kept = f"{BEST_WEIGHTS}: {step}" if has_best else f"the weights {step}, are lost"
        lines.append(f"{WEIGHTS}: of the last step; {kept}")
    if result.choosing_split == "test" and result.epochs > 1:
        lines.append(
            f"notice: the best {split} is optimistic, because the test set chose it; --validation"
            " avoids that (docs/validation.md)"
        )
    elif result.best_step != result.steps and has_best:
        lines[-1] += f", test accuracy {result.best_test_accuracy:.4f}"
    return [*lines, f"results in {outcome.location}"]


def headline(run: Run, path: Path | None, state: State, point: ResumePoint | None) -> list[str]:
    """The run in lines: model, data, batch, ranks, threads, run directory. Collective."""
    config, dataset, world = run.config, run.dataset, run.communicator
    shape = "x".join(map(str, dataset.image_shape))
    train, test = dataset.examples["train"], dataset.examples["test"]
    held_out = f", {len(dataset.held_out):,} validation" if len(dataset.held_out) else ""
    lines = [
        f"model    {config.model}, {counted(run.parameters.values.size, 'parameter')}",
        f"data     {dataset.name} ({dataset.path}): {train:,} training{held_out} and"
        f" {counted(test, 'test image')}, {shape}, {counted(dataset.classes, 'class')}",
    ]
    if dataset.name == SAMPLE_NAME:
        lines.append(f"notice   {SAMPLE_NOTICE}")
    if config.data_memory:
        lines.append(f"windows  {_windows(config, dataset)}")
    cycle = f" again every {counted(config.cycle_epochs, 'epoch')}" if config.cycle_epochs else ""
    lines += [
        f"batch    {counted(config.num_shards, 'shard')} x"
        f" {counted(config.microbatch_size, 'example')} = {config.global_batch_size:,} a step,"
        f" {config.reduction} sum",
        f"update   {config.optimizer}, learning rate {config.learning_rate:g},"
        f" {config.schedule}{cycle}, seed {config.seed}",
    ]
    if run.frozen:
        sizes = [
            values.size for name, values in run.parameters.named().items() if name in run.frozen
        ]
        lines.append(f"frozen   {', '.join(run.frozen)} ({counted(sum(sizes), 'parameter')})")
    split = "test" if run.validation is None else "validation"
    if target := config.target_accuracy:
        defaults = " ".join(f"{as_flag(name)} {value}" for name, value in TARGET_DEFAULTS.items())
        lines.append(f"target   {split} accuracy {target:g}; the defaults with it: {defaults}")
    if config.patience:
        waits = f"{counted(config.patience, 'evaluation')} without a better {split} accuracy"
        lines.append(f"patience stop after {waits}")
    if (config.target_accuracy or config.patience) and run.validation is None:
        lines.append(
            "notice   the test set chooses when to stop and which weights are best, so its accuracy"
            " is optimistic: --validation 0.1 holds out a part of the training set for that"
        )
    at_a_time, threads = run.training_step.at_a_time, counted(blas_thread_count(), "BLAS thread")
    each = f"{threads} each"
    if at_a_time > 1:
        ranks = "each with " if world.world_size > 1 else ""
        each = f"{ranks}{at_a_time} shards at a time, {threads} for each shard"
    lines.append(
        f"ranks    {world.world_size}{describe_hosts(world.hosts)} ({world.description}), {each}"
        f" ({describe_blas(world.gather(blas_description()) or [])})"
    )
    if point:
        steps, ranks = counted(run.schedule.total_steps, "step"), counted(state.world_size, "rank")
        where = f"{point.directory}, after {state.step} of {steps}"
        lines.append(f"resumed  {where}, started on {ranks}")
    return [*lines, f"results  {path}"]


def describe_hosts(hosts: Sequence[str]) -> str:
    """Which ranks are where: "on 2 hosts (a: 0-1; b: 2-3)"; nothing for one host."""
    named = list(dict.fromkeys(hosts))
    if len(named) == 1:
        return ""
    places = [
        f"{host}: {number_ranges(rank for rank, each in enumerate(hosts) if each == host)}"
        for host in named[:MOST_HOSTS_NAMED]
    ]
    more = "; ..." if len(named) > MOST_HOSTS_NAMED else ""
    return f" on {len(named)} hosts ({'; '.join(places)}{more})"


def describe_blas(names: Sequence[str]) -> str:
    """The BLAS of the ranks: one, or "A on rank 0, B on ranks 1-3"."""
    different = list(dict.fromkeys(names))
    if len(different) < 2:
        return "".join(different)
    found = []
    for name in different[:MOST_HOSTS_NAMED]:
        ranks = [rank for rank, each in enumerate(names) if each == name]
        found.append(f"{name} on {plural(len(ranks), 'rank')} {number_ranges(ranks)}")
    return ", ".join(found) + (", ..." if len(different) > MOST_HOSTS_NAMED else "")


def _windows(config: Config, dataset: DatasetInfo) -> str:
    length = window_examples(dataset, config.num_shards, config.data_memory)
    longest = -(-dataset.examples["train"] // config.num_shards)
    within = "one per shard"
    if length < longest:
        within = f"of up to {length:,} of the {counted(longest, 'example')} of a shard"
    return f"{within}, shuffled within (--data-memory {config.data_memory:g})"


if __name__ == "__main__":
    sys.exit(main())

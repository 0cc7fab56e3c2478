"""A measurement as text."""

from __future__ import annotations

from collections.abc import Iterator

from distcnn.benchmark.results import Measurement
from distcnn.profiling.step_times import REST, WAITING
from distcnn.spans import LOCAL_SUM
from distcnn.system.wording import counted, plural, printable

MIB = 2**20
TITLES = {WAITING: "late ranks", REST: "rest (Python)"}


def table(results: Measurement) -> list[str]:
    """All of it, in lines."""
    return [*_head(results), "", *_split(results), "", *_rest(results)]


def part_title(name: str, results: Measurement) -> str:
    """The name of a row that is no layer."""
    return f"{results.flags['reduction']} sum" if name == LOCAL_SUM else TITLES.get(name, name)


def _head(results: Measurement) -> Iterator[str]:
    flags, machine = results.flags, results.machine
    yield (
        f"model     {printable(results.model)}, {counted(results.parameters, 'parameter')},"
        f" {printable(results.data)}"
    )
    yield (
        f"batch     {counted(flags['num_shards'], 'shard')} x"
        f" {counted(flags['microbatch_size'], 'example')} = {results.global_batch_size:,} a step,"
        f" {flags['reduction']} sum, {flags['optimizer']}, overlap"
        f" {'on' if results.overlap else 'off'}"
    )
    threads = machine["blas_threads"]
    yield (
        f"ranks     {results.world_size} ({machine['mpi']}), {threads}"
        f" {plural(int(threads), 'BLAS thread')} each ({machine['blas']}), NumPy"
        f" {machine['numpy']}, Python {machine['python']}"
    )
    yield f"machine   {machine['processor']}, {counted(int(machine['cores']), 'core')}"
    speeds = results.images_per_second_turns
    yield (
        f"speed     {results.images_per_second:,.0f} images/s,"
        f" {results.step_seconds * 1e3:.2f} ms a step: median of {counted(len(speeds), 'turn')} of"
        f" {counted(results.steps_per_turn, 'step')}: {_speeds(speeds)}"
    )


def _split(results: Measurement) -> Iterator[str]:
    step, images = results.split_seconds, results.split_images
    yield (
        f"one step of rank 0, in µs per image ({counted(images, 'image')}; mean of the middle half"
        f" of {counted(results.split_steps, 'step')}; timing overhead"
        f" {step / results.step_seconds - 1:+.1%})"
    )
    yield f"{'':<16}{'forward':>9}{'backward':>9}{'together':>10}{'of step':>9}"

    def line(name: str, seconds: float, columns: str = " " * 18) -> str:
        return f"{name:<16}{columns}{seconds / images * 1e6:10.2f}{seconds / step:9.1%}"

    for row in results.layers:
        both = row.forward_seconds, row.backward_seconds
        columns = "".join(f"{seconds / images * 1e6:9.2f}" for seconds in both)
        yield line(row.name, sum(both), columns)
    for part in results.parts:
        yield line(part_title(part.name, results), part.seconds)
    yield line("step", step)


def _rest(results: Measurement) -> Iterator[str]:
    bound, sums = results.bound, results.allreduce_seconds
    yield (
        f"im2col bound    {bound.seconds * 1e3:.2f} ms, {bound.fraction:.1%} of a step (turns:"
        f" {' '.join(f'{fraction:.1%}' for fraction in bound.fraction_turns)}):"
        f" {bound.operations / 1e9:.3f} GFLOP at {bound.gflop_per_second:.1f} GFLOP/s a rank"
    )
    hidden = max(0.0, 1 - results.waited_seconds / sums) if sums else 0.0
    yield (
        f"allreduce       {sums * 1e3:.2f} ms a step, {hidden:.0%} hidden; waited"
        f" {results.waited_seconds * 1e3:.2f} ms, and {results.late_ranks_seconds * 1e3:.2f} ms for"
        f" late ranks: {results.communication_fraction:.1%} of a step"
    )
    yield (
        f"evaluation      {results.evaluation_images_per_second:,.0f} images/s:"
        f" {_speeds(results.evaluation_images_per_second_turns)}"
    )
    peaks = " ".join(f"{rank.peak_memory_bytes / MIB:,.1f}" for rank in results.ranks)
    yield f"peak memory     {peaks} MiB{' (each rank)' if len(results.ranks) > 1 else ''}"


def _speeds(speeds: list[float]) -> str:
    return " ".join(f"{speed:,.0f}" for speed in speeds)

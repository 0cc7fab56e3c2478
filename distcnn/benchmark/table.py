"""A measurement as text."""

from __future__ import annotations

from collections.abc import Iterator

from distcnn.benchmark.results import Measurement, Row, rows_of
from distcnn.profiling.step_times import REST, WAITING
from distcnn.spans import ALLREDUCE, BACKWARD, FORWARD, LOCAL_SUM
from distcnn.system.wording import counted, plural, printable

MIB = 2**20
TITLES = {WAITING: "late ranks", REST: "rest (Python)"}


def table(results: Measurement) -> list[str]:
    """The whole measurement, line by line."""
    return [*_head(results), "", *_split(results), "", *_rest(results)]


def part_title(name: str, results: Measurement) -> str:
    """The title of a row."""
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
    split, images = results.split, results.split_images
    yield (
        f"one step of rank 0, in µs per image ({counted(images, 'image')}; mean of the middle half"
        f" of {counted(results.split_steps, 'step')}; timing overhead"
        f" {split.seconds / results.step_seconds - 1:+.1%})"
    )
    yield f"{'':<16}{'forward':>9}{'backward':>9}{'together':>10}{'of step':>9}"
    for row in [*rows_of(split.parts), Row("step", {"": split.seconds})]:
        columns = ""
        for direction in (FORWARD, BACKWARD):
            seconds = row.seconds.get(direction)
            columns += " " * 9 if seconds is None else f"{seconds / images * 1e6:9.2f}"
        name = part_title(row.name, results)
        share = row.total / split.seconds
        yield f"{name:<16}{columns}{row.total / images * 1e6:10.2f}{share:9.1%}"


def _rest(results: Measurement) -> Iterator[str]:
    seconds, operations, split = results.gemm_bound_seconds, results.gemm_operations, results.split
    speed = operations / seconds / 1e9 if seconds else 0.0
    yield (
        f"im2col bound    {seconds * 1e3:.2f} ms, {results.gemm_bound_fraction:.1%} of a step"
        f" (turns: {' '.join(f'{turn:.1%}' for turn in results.gemm_bound_fraction_turns)}):"
        f" {operations / 1e9:.3f} GFLOP at {speed:.1f} GFLOP/s a rank"
    )
    sums, waited = split.sums_seconds, split.parts.get(ALLREDUCE, 0.0)
    late = split.parts.get(WAITING, 0.0)
    hidden = max(0.0, 1 - (waited + late) / sums) if sums else 0.0
    yield (
        f"allreduce       {sums * 1e3:.2f} ms a step, {hidden:.0%} hidden; waited"
        f" {waited * 1e3:.2f} ms, and {late * 1e3:.2f} ms for late ranks:"
        f" {results.communication_fraction:.1%} of a step"
    )
    yield (
        f"evaluation      {results.evaluation_images_per_second:,.0f} images/s:"
        f" {_speeds(results.evaluation_images_per_second_turns)}"
    )
    peaks = results.peak_memory_bytes_ranks
    yield (
        f"peak memory     {' '.join(f'{peak / MIB:,.1f}' for peak in peaks)} MiB"
        f"{' (each rank)' if len(peaks) > 1 else ''}"
    )


def _speeds(speeds: list[float]) -> str:
    return " ".join(f"{speed:,.0f}" for speed in speeds)

"""A measurement as text."""

from __future__ import annotations

from collections.abc import Iterator

from distcnn.benchmark.measurement import Measurement, StepPart, step_parts
from distcnn.profiling.step_times import REST, WAITING
from distcnn.spans import ALLREDUCE, BACKWARD, FORWARD, LOCAL_SUM
from distcnn.system.wording import counted, plural, printable

MIB = 2**20
TITLES = {WAITING: "late ranks", REST: "rest (Python)"}


def table(measured: Measurement) -> list[str]:
    """The whole measurement, line by line."""
    return [*_head(measured), "", *_split(measured), "", *_rest(measured)]


def part_title(name: str, measured: Measurement) -> str:
    """The title of a row."""
    return f"{measured.flags['reduction']} sum" if name == LOCAL_SUM else TITLES.get(name, name)


def _head(measured: Measurement) -> Iterator[str]:
    flags, machine = measured.flags, measured.machine
    yield (
        f"model     {printable(measured.model)}, {counted(measured.parameters, 'parameter')},"
        f" {printable(measured.data)}"
    )
    yield (
        f"batch     {counted(flags['num_shards'], 'shard')} x"
        f" {counted(flags['microbatch_size'], 'example')} = {measured.global_batch_size:,} a step,"
        f" {flags['reduction']} sum, {flags['optimizer']}, overlap"
        f" {'on' if measured.overlap else 'off'}"
    )
    threads = machine["blas_threads"]
    yield (
        f"ranks     {measured.world_size} ({machine['mpi']}), {threads}"
        f" {plural(int(threads), 'BLAS thread')} each ({machine['blas']}), NumPy"
        f" {machine['numpy']}, Python {machine['python']}"
    )
    yield f"machine   {machine['processor']}, {counted(int(machine['cores']), 'core')}"
    speeds = measured.images_per_second_turns
    yield (
        f"speed     {measured.images_per_second:,.0f} images/s,"
        f" {measured.step_seconds * 1e3:.2f} ms a step: median of {counted(len(speeds), 'turn')} of"
        f" {counted(measured.steps_per_turn, 'step')}: {_speeds(speeds)}"
    )


def _split(measured: Measurement) -> Iterator[str]:
    split, images = measured.split, measured.split_images
    yield (
        f"one step of rank 0, in µs per image ({counted(images, 'image')}; mean of the middle half"
        f" of {counted(measured.split_steps, 'step')}; timing overhead"
        f" {split.seconds / measured.step_seconds - 1:+.1%})"
    )
    yield f"{'':<16}{'forward':>9}{'backward':>9}{'together':>10}{'of step':>9}"
    for row in [*step_parts(split.parts), StepPart("step", {"": split.seconds})]:
        columns = ""
        for direction in (FORWARD, BACKWARD):
            seconds = row.seconds.get(direction)
            columns += " " * 9 if seconds is None else f"{seconds / images * 1e6:9.2f}"
        name = part_title(row.name, measured)
        share = row.total / split.seconds
        yield f"{name:<16}{columns}{row.total / images * 1e6:10.2f}{share:9.1%}"


def _rest(measured: Measurement) -> Iterator[str]:
    seconds, operations, split = (
        measured.gemm_bound_seconds,
        measured.gemm_operations,
        measured.split,
    )
    speed = operations / seconds / 1e9 if seconds else 0.0
    yield (
        f"im2col bound    {seconds * 1e3:.2f} ms, {measured.gemm_bound_fraction:.1%} of a step"
        f" (turns: {' '.join(f'{turn:.1%}' for turn in measured.gemm_bound_fraction_turns)}):"
        f" {operations / 1e9:.3f} GFLOP at {speed:.1f} GFLOP/s a rank"
    )
    sums, waited = split.sums_seconds, split.parts.get(ALLREDUCE, 0.0)
    late = split.parts.get(WAITING, 0.0)
    hidden = max(0.0, 1 - (waited + late) / sums) if sums else 0.0
    yield (
        f"allreduce       {sums * 1e3:.2f} ms a step, {hidden:.0%} hidden; waited"
        f" {waited * 1e3:.2f} ms, and {late * 1e3:.2f} ms for late ranks:"
        f" {measured.communication_fraction:.1%} of a step"
    )
    yield (
        f"evaluation      {measured.evaluation_images_per_second:,.0f} images/s:"
        f" {_speeds(measured.evaluation_images_per_second_turns)}"
    )
    peaks = measured.peak_memory_bytes_ranks
    yield (
        f"peak memory     {' '.join(f'{peak / MIB:,.1f}' for peak in peaks)} MiB"
        f"{' (each rank)' if len(peaks) > 1 else ''}"
    )


def _speeds(speeds: list[float]) -> str:
    return " ".join(f"{speed:,.0f}" for speed in speeds)

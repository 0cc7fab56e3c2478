"""A measurement as text, and measurements as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from distcnn import plotting
from distcnn.benchmark.measurement import Measurement
from distcnn.plotting import Axes
from distcnn.profiling.step_times import WAITING
from distcnn.spans import ALLREDUCE, BACKWARD, FORWARD
from distcnn.system.wording import counted, plural, printable

COLOURS, OTHER = {FORWARD: plotting.BLUE, BACKWARD: plotting.ORANGE}, plotting.GREY
LEGEND = {**COLOURS, "not in a layer": OTHER}
MOST_COLUMNS = 3
PANEL_WIDTH, ROW_HEIGHT, FRAME_HEIGHT = 5.4, 0.27, 1.5


def table(measured: Measurement) -> list[str]:
    """The whole measurement, line by line."""
    return [*_head(measured), "", *_split(measured), "", *_rest(measured)]


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
    step_seconds, images = measured.split.seconds, measured.split_images
    yield (
        f"one step of rank 0, in µs per image ({counted(images, 'image')}; mean of the middle half"
        f" of {counted(measured.split_steps, 'step')}; timing overhead"
        f" {step_seconds / measured.step_seconds - 1:+.1%})"
    )
    yield f"{'':<16}{'forward':>9}{'backward':>9}{'together':>10}{'of step':>9}"
    for title, seconds in {**measured.rows(), "step": {"": step_seconds}}.items():
        columns = [
            f"{seconds[direction] / images * 1e6:.2f}" if direction in seconds else ""
            for direction in (FORWARD, BACKWARD)
        ]
        total = sum(seconds.values())
        yield (
            f"{title:<16}{columns[0]:>9}{columns[1]:>9}{total / images * 1e6:10.2f}"
            f"{total / step_seconds:9.1%}"
        )


def _rest(measured: Measurement) -> Iterator[str]:
    seconds, operations = measured.gemm_bound_seconds, measured.gemm_operations
    speed = operations / seconds / 1e9 if seconds else 0.0
    yield (
        f"im2col bound    {seconds * 1e3:.2f} ms, {measured.gemm_bound_fraction:.1%} of a step"
        f" (turns: {' '.join(f'{turn:.1%}' for turn in measured.gemm_bound_fraction_turns)}):"
        f" {operations / 1e9:.3f} GFLOP at {speed:.1f} GFLOP/s a rank"
    )
    sums, parts = measured.split.sums_seconds, measured.split.parts
    waited, late = parts.get(ALLREDUCE, 0.0), parts.get(WAITING, 0.0)
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
    peaks = [peak / 2**20 for peak in measured.peak_memory_bytes_ranks]
    yield (
        f"peak memory     {' '.join(f'{peak:,.1f}' for peak in peaks)} MiB"
        f"{' (each rank)' if len(peaks) > 1 else ''}"
    )


def _speeds(speeds: Sequence[float]) -> str:
    return " ".join(f"{speed:,.0f}" for speed in speeds)


def draw(measurements: Sequence[Measurement], output: str | Path) -> None:
    """Write the picture: a panel for each measurement, a bar for each part of a step."""
    columns = min(MOST_COLUMNS, len(measurements))
    lines = -(-len(measurements) // columns)
    rows = max(len(measured.rows()) for measured in measurements)
    width, height = PANEL_WIDTH * columns, (ROW_HEIGHT * rows + FRAME_HEIGHT) * lines + 0.4
    figure = plotting.new_figure(max(7.0, width), height)
    panels = plotting.panels(figure, len(measurements), columns)
    for axes, measured in zip(panels, measurements, strict=True):
        _draw_panel(axes, measured)
    plotting.legend(figure, LEGEND, columns=len(LEGEND))
    plotting.save(figure, output, "--picture")


def _draw_panel(axes: Axes, measured: Measurement) -> None:
    rows, unit = measured.rows(), 1e6 / measured.split_images
    for row, seconds in enumerate(rows.values()):
        end = 0.0
        for direction, took in seconds.items():
            colour = COLOURS.get(direction, OTHER)
            axes.barh(row, took * unit, left=end, height=0.74, color=colour, linewidth=0)
            end += took * unit
        share = f"{end / unit / measured.split.seconds:.1%}"
        style = {"va": "center", "fontsize": plotting.SMALL, "color": "#333333"}
        axes.annotate(share, (end, row), (4, 0), textcoords="offset points", **style)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlim(0, max(sum(seconds.values()) for seconds in rows.values()) * unit * 1.16)
    axes.set_xlabel("µs per image of a rank, and share of the step", fontsize=plotting.SMALL)
    axes.tick_params(axis="y", length=0)
    title = (
        f"{measured.model}, {counted(measured.world_size, 'rank')}:"
        f" {measured.images_per_second:,.0f} images/s\n{measured.step_seconds * 1e3:.1f} ms a step;"
        f" im2col's products alone: {measured.gemm_bound_fraction:.0%} of it"
    )
    plotting.tidy(axes, title, frame="bottom", grid="x")

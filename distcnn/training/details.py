"""What ``--verbose`` adds: layers, software, where each rank runs and what it holds, and how long
each phase took.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distcnn import spans
from distcnn.spans import Span, listening
from distcnn.system.host import usable_cores
from distcnn.system.wording import counted, duration, number_ranges
from distcnn.training.run_files import Report
from distcnn.training.setup import Run

PHASES = {
    *(spans.READ_RUN, spans.PREPARE_DATA, spans.OPEN_DATA, spans.SURVEY_DATA, spans.BUILD_NETWORK),
    *(spans.COMPARE_RANKS, spans.RESTORE, spans.CREATE_RUN, spans.EVALUATION, spans.CLOSE_EPOCH),
    *(spans.CHECKPOINT, spans.WRITE_CHECKPOINT, spans.WAIT_FOR_CHECKPOINT, spans.WRITE_RESULTS),
}
"""The spans outside the steps, of which each is a line when it ends."""
LEAST_SECONDS = 0.001
"""A shorter phase is not worth a line."""
MOST_RANKS_LISTED = 64


def details(run: Run) -> list[str]:
    """Lines about a run that is about to take its first step. Collective."""
    world, config, schedule = run.communicator, run.config, run.schedule
    shards = run.training_step.shards
    examples = counted(sum(shard.examples for shard in shards), "example")
    numbers = number_ranges(shard.index for shard in shards)
    host, cores = world.hosts[world.rank], number_ranges(usable_cores("").ids)
    place = f"host {host}, process {os.getpid()}, cores {cores}"
    everyone = world.gather(f"{place}, shards {numbers}, {examples}")
    if everyone is None:  # not root
        return []
    table = run.model.summary(run.dataset.image_shape, config.microbatch_size).splitlines()
    record = run.dataset_record
    mean, std = (", ".join(f"{value:.4g}" for value in each) for each in (record.mean, record.std))
    every = config.checkpoint_every
    extra = f" and every {counted(every, 'step')}" if every else ""
    listed = everyone[:MOST_RANKS_LISTED]
    more = len(everyone) - len(listed)
    return [
        *(f"layers   {line}" for line in table),
        f"images   {Path(record.path).absolute() if record.path else 'in memory'}, SHA-256 of the"
        f" examples {record.content_sha256}",
        f"inputs   (pixel / 255 - mean) / std, mean {mean}, std {std}",
        f"steps    {schedule.steps_an_epoch:,} an epoch, {schedule.total_steps:,} in all, warm-up"
        f" {schedule.warmup_steps}; checkpoints after each epoch{extra}",
        f"software {', '.join(f'{name} {value}' for name, value in run.software.items() if value)}",
        *(f"rank {rank:<4}{text}" for rank, text in enumerate(listed)),
        *([f"         ... and {counted(more, 'more rank')}"] if more else []),
    ]


class PhaseTimes:
    """A listener that reports how long each span took, in whichever thread."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._begun: dict[int, list[float]] = {}

    def begin(self, span: Span) -> None:
        self._begun.setdefault(threading.get_ident(), []).append(time.perf_counter())

    def end(self, span: Span) -> None:
        if begun := self._begun.get(threading.get_ident()):
            seconds = time.perf_counter() - begun.pop()
            what = "".join(f", {key} {text}" for key, text in span.labels.items())
            if seconds >= LEAST_SECONDS:
                self._report(f"time     {span.name}{what}: {duration(seconds)}")


@contextmanager
def phases_reported(report: Report) -> Iterator[None]:
    """Report how long each phase in this context takes."""
    with listening(PhaseTimes(report), PHASES):
        yield

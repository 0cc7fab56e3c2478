"""Tracing a run: record on every rank, then bring all clocks together and write one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import distcnn
from distcnn.distributed.communicator import JointError
from distcnn.errors import Stopped, TrainingError
from distcnn.fault_tolerance.heartbeat import Activity, pulse
from distcnn.profiling import chrome_trace
from distcnn.profiling.between import between_steps
from distcnn.profiling.chrome_trace import THREADS, Slices
from distcnn.profiling.clock_sync import Clock, clocks_of, measure_offsets
from distcnn.profiling.recorder import (
    MOST_BETWEEN,
    MOST_OF_STEPS,
    Counts,
    Parts,
    Recorder,
    clock,
    share_of,
)
from distcnn.profiling.steps import StepTrace
from distcnn.system.files import write_atomically
from distcnn.training.checkpointing import Saving
from distcnn.training.loop import Records
from distcnn.training.setup import Run

Say = Callable[[str], None]


@contextmanager
def traced(
    run: Run, first_step: int, records: Records, saving: Saving, path: Path, say: Say
) -> Iterator[None]:
    """Trace what the run does within, from ``first_step`` on, into a file in ``path``. Collective.

    It is written at the end, and when all ranks end together before: stopped by a signal, or where
    training cannot go on. What ends one rank alone ends all at once, and the trace with them. A
    file that cannot be written (a full disk) is reported, no more.
    """
    trace = Trace(run, first_step, records, saving)
    try:
        with trace.entered():
            yield
    except (JointError, TrainingError, Stopped):
        trace.write(path, say)
        raise
    trace.write(path, say)


class Trace:
    """Records one rank's part. Collective, all of it."""

    def __init__(self, run: Run, first_step: int, records: Records, saving: Saving) -> None:
        self._run, self._first_step, self._records, self._saving = run, first_step, records, saving
        world_size, config = run.communicator.world_size, run.config
        most, most_between = share_of(MOST_OF_STEPS, world_size), share_of(MOST_BETWEEN, world_size)
        self._parts = Parts()
        self._main, self._sums, self._between, self._writer = map(
            Recorder, (most, most, most_between, most_between)
        )
        start = max(first_step, config.trace_from)
        window = range(start, start + config.trace)
        self._steps = StepTrace(
            run.step, window, self._parts, self._main, self._sums, f"{config.reduction} sum"
        )
        self._origin = run.communicator.broadcast(clock())
        self._offsets = measure_offsets(run.communicator)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """While it is entered, all is recorded."""
        steps, parts = self._steps, self._parts
        between = between_steps(
            self._run, self._records, self._saving, steps.pause, parts, self._between, self._writer
        )
        with steps.entered(), between:
            yield

    def write(self, path: Path, say: Say) -> None:
        """Bring all ranks' slices together and write them into ``path``, on root."""
        pulse.beat(Activity.WRITING_RESULTS)
        communicator = self._run.communicator
        clocks = clocks_of(communicator.hosts, self._offsets, measure_offsets(communicator))
        recorders = self._main, self._sums, self._between, self._writer
        full = [
            rank
            for rank, each in enumerate(
                communicator.allgather(any(each.refused for each in recorders))
            )
            if each
        ]
        of_ranks = communicator.gather(self._lines(clocks[communicator.rank]))
        if of_ranks is None:
            return
        file = Path(self._saving.location or path) / f"trace-{self._first_step:09d}.json"
        try:
            write_atomically(
                file, *chrome_trace.document(of_ranks, self._facts(clocks, full)), sync=False
            )
        except OSError as error:
            say(f"warning: {file} cannot be written ({error.strerror}): there is no trace")
            return
        where = (
            f"trace in {file} ({file.stat().st_size / 1e6:.1f} MB),"
            f" {_in_words(self._steps.recorded)}: open it at https://ui.perfetto.dev"
        )
        say(where)
        if full:
            say(
                "the trace is not whole: no more slices could be kept on rank"
                f" {', '.join(map(str, full))}"
            )

    def _lines(self, own: Clock) -> bytes:
        """This rank's part of the file."""
        communicator, parts = self._run.communicator, self._parts
        main = np.concatenate(
            [self._in_root_time(each, own) for each in (self._between, self._main)]
        )
        threads = dict(
            zip(
                THREADS,
                (main, *(self._in_root_time(each, own) for each in (self._sums, self._writer))),
                strict=True,
            )
        )
        waiting = parts.number_of("waiting", Counts.RANK)
        for thread in ("main", "sums"):
            met = chrome_trace.meetings(parts.kinds, threads[thread])
            of_ranks = communicator.allgather(met["begin"])
            begins = np.array(
                [each[: min(map(len, of_ranks))] for each in of_ranks]
            )  # where some rank had no more room
            threads[thread] = np.concatenate(
                [chrome_trace.waiting(met, begins, waiting), threads[thread]]
            )  # these end first: they are inner
        used = {
            thread: chrome_trace.in_order(slices)
            for thread, slices in threads.items()
            if len(slices)
        }
        events = chrome_trace.name_events(
            communicator.rank, communicator.hosts[communicator.rank], list(used)
        )
        for thread, slices in used.items():
            events += chrome_trace.slice_events(
                communicator.rank, thread, parts.kinds, slices, self._run.plan.steps_an_epoch
            )
        return chrome_trace.lines_of(events)

    def _in_root_time(self, recorder: Recorder, own: Clock) -> Slices:
        slices = recorder.slices
        for name in ("begin", "end"):
            slices[name] = own.to_root(slices[name]) - self._origin
        return slices

    def _facts(self, clocks: Sequence[Clock], full: list[int]) -> dict[str, Any]:
        """What is said of the whole. Chrome knows ``otherData``, and leaves what is in it to us."""
        run, recorded = self._run, self._steps.recorded
        return {
            "distcnn": distcnn.__version__,
            "model": run.config.model,
            "world_size": run.communicator.world_size,
            "steps": [recorded.start, recorded.stop],
            "ranks_without_room": full,
            "clocks": [
                {
                    "rank": rank,
                    "ahead_of_rank_0_ns": (
                        [0, 0] if each.same else [each.begin.middle, each.end.middle]
                    ),
                    "error_ns": each.error,
                    "measured_ns": [
                        [each.begin.low, each.begin.high],
                        [each.end.low, each.end.high],
                    ],
                }
                for rank, each in enumerate(clocks)
            ],
        }


def _in_words(steps: range) -> str:
    return f"steps {steps.start} to {steps.stop - 1} in full" if steps else "no step in full"

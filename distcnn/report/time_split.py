"""Where the time of a run went: by its result, and within a step by its trace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from distcnn.errors import InputError
from distcnn.profiling.plot import COLOURS, read_events
from distcnn.profiling.tracing import TraceEvent
from distcnn.report.charts import Chart, bar_chart
from distcnn.report.records import RunRecords
from distcnn.spans import STEP

LARGEST_TRACE = 2**27
"""Bytes; reading a larger one takes too long."""
PARTS = {
    "training steps": "train_seconds",
    "evaluation": "test_seconds",
    "checkpoints and bookkeeping": "bookkeeping_seconds",
}


def whole_runs(runs: Sequence[RunRecords]) -> Chart | None:
    """The seconds of the finished ``runs``; None if no result has them."""
    rows = {
        run.label if len(runs) > 1 else "run": {
            part: getattr(run.result, field) for part, field in PARTS.items()
        }
        for run in runs
        if run.result and run.result.test_seconds > 0
    }
    if not rows:
        return None
    told = [
        f"{name}: {', '.join(f'{part} {seconds:.1f} s' for part, seconds in row.items())}"
        for name, row in rows.items()
    ]
    return bar_chart(
        "Time of the run", f"{'; '.join(told)}.", rows, "run", "seconds", ",.2f", "run-time"
    )


def traced_step(run: RunRecords, number: int) -> tuple[Chart | None, str]:
    """The mean step of a run's latest trace, one bar for each rank; or why there is none.

    ``number`` is the run's place on the page.
    """
    paths = sorted(path for path in run.path.glob("trace-*.json") if path.is_file())
    if not paths:
        return None, (
            "the run recorded no trace, so how a step divides into forward, backward and sums is"
            " not known: train with --trace, or see python -m distcnn.benchmark."
        )
    try:
        if paths[-1].stat().st_size > LARGEST_TRACE:
            raise InputError("it is too large for this page; open it at https://ui.perfetto.dev")
        rows = mean_steps(read_events(paths[-1]))
        if not rows:
            raise InputError("it has no whole step")
    except (InputError, LookupError, TypeError, ValueError, AttributeError) as error:
        return None, f"the trace {paths[-1].name} is left out: {error}."
    title = f"A step, by the trace {Path(paths[-1]).stem}"
    text = "Milliseconds of a mean step on each rank's main thread, by what it was doing."
    return bar_chart(title, text, rows, "rank", "milliseconds", ".3f", f"step-time-{number}"), ""


def mean_steps(events: Sequence[TraceEvent]) -> dict[str, dict[str, float]]:
    """Milliseconds by activity of a mean step, on the main thread of each rank.

    The time of a slice is counted without the slices within it, so the parts add up to the step.
    """
    main = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "main"
    }
    slices = [event for event in events if event["ph"] == "X"]
    rows: dict[str, dict[str, float]] = {}
    for pid, tid in sorted(main):
        own = [event for event in slices if (event["pid"], event["tid"]) == (pid, tid)]
        steps = sum(event["name"] == STEP for event in own)
        if steps:
            sums = _exclusive(sorted(own, key=lambda event: (event["ts"], -event["dur"])))
            rows[f"rank {pid}"] = {word: sums[word] / steps / 1000 for word in COLOURS}
    return rows


def _exclusive(slices: Sequence[TraceEvent]) -> defaultdict[str, float]:
    """Microseconds by activity of the slices inside steps, each without those within it."""
    sums: defaultdict[str, float] = defaultdict(float)
    around: list[TraceEvent] = []
    for event in slices:
        while around and around[-1]["ts"] + around[-1]["dur"] <= event["ts"]:
            around.pop()
        if around or event["name"] == STEP:
            sums[_activity(event)] += event["dur"]
            if around:
                sums[_activity(around[-1])] -= event["dur"]
            around.append(event)
    return sums


def _activity(event: TraceEvent) -> str:
    return next((word for word in COLOURS if word in event["name"]), "other")

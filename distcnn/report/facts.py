"""The results of a run, and what ran where, in words and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distcnn.checkpoints.weights import BEST_WEIGHTS
from distcnn.report.charts import Table
from distcnn.report.records import RunRecords
from distcnn.score import wilson_interval
from distcnn.system.wording import counted, duration, first_few, plural
from distcnn.training.receipt import Line

MOST_NAMED = 20


@dataclass(frozen=True)
class Result:
    """A number to show large, with a remark below it."""

    name: str
    value: str
    remark: str = ""


def title_of(run: RunRecords) -> str:
    """The network and the image set, as a title."""
    model = run.config.model if run.config else run.result.model if run.result else "a network"
    if model.startswith("Sequential("):
        model = "A network of layers"
    name = run.result.dataset.name if run.result else str(run.recorded("dataset", "name"))
    return f"{model} on {name}" if name else model


def headline(run: RunRecords) -> str:
    """How the run went, in a sentence or two."""
    result = run.result
    if result is None:
        done = f"The last step on record is {run.last_step:,}."
        return f"This run has not finished. {done} Its test results come at the end."
    steps = f"{counted(result.steps, 'step')} ({counted(result.epochs, 'whole epoch')})"
    right = f"{result.test_correct:,} of {counted(result.test_examples, 'test image')}"
    told = f"After {steps}, {right} are classified correctly."
    split = result.choosing_split
    if result.stopped_early:
        told += f" It ended early: the {split} accuracy had stopped improving (--patience)."
    if result.target_reached and result.target_accuracy:
        told += f" It ended at its target, a {split} accuracy of {result.target_accuracy:.2%}."
    if result.best_step != result.steps:
        has_best = (run.path / BEST_WEIGHTS).exists()
        told += (
            f" The best {split} accuracy was {result.best_choosing_accuracy:.2%}, after step"
            f" {result.best_step:,}: {BEST_WEIGHTS}"
            f" {'has those weights' if has_best else 'is missing'}."
        )
    return told


def key_results(run: RunRecords) -> list[Result]:
    """The results that matter most."""
    result, curves = run.result, run.history
    if result is None:
        return [Result("Steps taken", f"{run.last_step:,}", "not finished"), *_latest(run)]
    shown = []
    if 0 <= result.test_correct <= result.test_examples and result.test_examples > 0:
        low, high = wilson_interval(result.test_correct, result.test_examples)
        interval = f"95% confidence: {low:.2%} to {high:.2%}"
        shown.append(Result("Test accuracy", f"{result.test_accuracy:.2%}", interval))
    if curve := curves["validation_accuracy"]:
        shown.append(Result("Validation accuracy", f"{curve[-1][1]:.2%}", "after the last epoch"))
    seconds = result.train_seconds + result.test_seconds + result.bookkeeping_seconds
    what = "steps, evaluation, bookkeeping" if result.test_seconds else "for the steps alone"
    return [
        *shown,
        Result("Test loss", f"{result.test_loss:.4f}", f"training loss {result.train_loss:.4f}"),
        Result("Speed", f"{result.images_per_second:,.0f}", "images per second, all ranks"),
        Result("Time", duration(seconds) if 0 <= seconds < 1e9 else "unknown", what),
        Result("Parameters", f"{result.parameters:,}", f"seed {result.seed}"),
    ]


def _latest(run: RunRecords) -> list[Result]:
    """The last values on record."""
    names = (
        ("Training loss", "loss", ".4f"),
        ("Validation accuracy", "validation_accuracy", ".2%"),
        ("Test accuracy", "test_accuracy", ".2%"),
        ("Speed", "images_per_second", ",.0f"),
    )
    return [
        Result(name, format(curve[-1][1], form), f"at step {curve[-1][0]:,}")
        for name, key, form in names
        if (curve := run.history[key])
    ]


def circumstances(run: RunRecords) -> tuple[Table, str]:
    """What ran where, and a note on what is not known."""
    starts = [
        (
            "Started" if start["kind"] == "start" else f"Resumed at step {start['step']:,}",
            _start(start),
        )
        for start in run.starts
    ]
    blas, threads = (run.recorded("software", name) for name in ("blas", "blas_threads"))
    of_rank = f"{threads} {plural(float(threads == '1'), 'thread')}"
    known = [
        ("Processor", run.recorded("machine", "processor")),
        ("MPI", run.recorded("machine", "mpi")),
        ("BLAS", f"{blas}, {of_rank} per rank" if blas else ""),
        ("NumPy", run.recorded("software", "numpy")),
        ("Python", run.recorded("software", "python")),
        ("distcnn", version_of(run)),
        ("Machine type", run.recorded("software", "machine")),
        ("Instruction sets", run.recorded("software", "cpu_flags")),
        ("Variables that choose kernels", run.recorded("software", "environment")),
    ]
    rows = [*starts, *((name, str(value)) for name, value in known if value)]
    note = ""
    if run.starts and "machine" not in run.starts[-1]:
        note = (
            "Hosts, processor, MPI and time of day are not in the records of distcnn"
            f" {version_of(run)}."
        )
    return Table("What ran where", ("what", "where and which"), rows), note


def dataset_facts(run: RunRecords) -> Table:
    """What is known of the image set."""
    rows = [("Name", str(run.recorded("dataset", "name")))]
    if result := run.result:
        data = result.dataset
        shape = " x ".join(map(str, data.image_shape))
        rows = [
            ("Name", data.name),
            ("File", data.path),
            ("Images", f"{shape} (channels x height x width)" if shape else ""),
            ("Classes", f"{data.classes:,}: {first_few(data.class_names, MOST_NAMED)}"),
        ]
    rows += [
        ("Training examples", count_of(run.recorded("dataset", "train_examples"))),
        ("Validation examples", count_of(run.recorded("dataset", "validation_examples"))),
        ("Test examples", count_of(run.recorded("dataset", "test_examples"))),
        ("Source", str(run.recorded("dataset", "source"))),
        ("SHA-256 of all examples", str(run.recorded("dataset", "content_sha256"))),
    ]
    return Table("The image set", ("what", "value"), [row for row in rows if row[1]])


def _start(start: Line) -> str:
    """When and on which hosts the run was started or resumed."""
    machine, size = start.get("machine", {}), start.get("world_size")
    text = counted(size, "rank") if type(size) is int else "an unknown number of ranks"
    hosts = machine.get("ranks_by_host")
    if isinstance(hosts, Mapping):
        many = len(hosts) > 1
        places = (f"{host} ({count})" if many else str(host) for host, count in hosts.items())
        text += f" on {first_few(places, MOST_NAMED)}"
    return f"{machine['started']}, {text}" if "started" in machine else text


def version_of(run: RunRecords) -> str:
    """The version of distcnn that ran it last."""
    return str(run.recorded("software", "distcnn", "of an unknown version"))


def ranks_of(run: RunRecords) -> str:
    """The number of ranks, "3, then 2" if it was resumed on others."""
    sizes = [str(start.get("world_size", "unknown")) for start in run.starts]
    return ", then ".join(dict.fromkeys(sizes))


def count_of(value: object) -> str:
    """A recorded number of examples; empty if it is not one."""
    return f"{value:,}" if type(value) is int else ""

"""What is recorded of each start and resume of a run.

A native run has it in its receipt. The receipt of a portable run must be the same on every machine,
on any number of ranks and in any folder, so it gets only ``portable_part``; ``environment.jsonl``
has all of it.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from distcnn.checkpoints.weights import INITIAL_WEIGHTS
from distcnn.config import OF_THE_MACHINE
from distcnn.distributed import Communicator
from distcnn.system.files import read_bytes
from distcnn.system.host import processor
from distcnn.training.checkpointing import parse_checkpoint
from distcnn.training.fingerprint import deciding_differences, portable_would_agree
from distcnn.training.receipt import Line
from distcnn.training.results import ENVIRONMENT, RECEIPT
from distcnn.training.resume import ResumePoint, changed_lengths
from distcnn.training.run_directory import RunDirectory
from distcnn.training.run_files import Report
from distcnn.training.setup import Run

OF_THE_IMAGES = "content_sha256", "train_examples", "validation_examples", "test_examples"
"""What tells an image set from others, whatever file it is in."""


def begin_recording(
    run: Run, path: Path, point: ResumePoint | None, report: Report, held: ExitStack
) -> RunDirectory:
    """Restore the directory's files to the checkpoint, and note this start in the receipt."""
    initial_weights = run.initial.content if run.initial else b""
    directory = RunDirectory(path, run.config, report, held, initial_weights)
    checkpoint = point.checkpoint if point else None
    step = checkpoint.step if checkpoint else 0
    if point:
        if not checkpoint:
            report(
                f"{point.directory} has no complete checkpoint: the run starts again from its first"
                " step"
            )
        if changed := changed_lengths(point.directory, step, run.config):
            report(changed)
        texts = checkpoint.texts if checkpoint else {"metrics": "", "receipt": ""}
        if is_edited(point.directory / RECEIPT, texts["receipt"]):
            report(
                f"warning: {point.directory / RECEIPT} was edited since the checkpoint of step"
                f" {step} was made: the checkpoint's lines replace it"
            )
        directory.restore(texts["metrics"], texts["receipt"], texts.get("timings", ""))
    else:
        directory.metrics.append(b"")  # so that a run that ends early has the file, too
    record_start(run, directory, point, report)
    return directory


def record_start(
    run: Run, directory: RunDirectory, point: ResumePoint | None, report: Report
) -> None:
    """Note this start or resume in the receipt; that of a portable run in the environment, and in
    the receipt only if it changes what that holds.
    """
    checkpoint = point.checkpoint if point else None
    kind, step = ("resume", checkpoint.step) if checkpoint else ("start", 0)
    parsed = parse_checkpoint(checkpoint) if checkpoint else None
    start = start_of(run)
    is_portable, before = run.config.is_portable, parsed.software if parsed else run.software
    if changes := deciding_differences(before, run.software, is_portable):
        where, remedy = "" if is_portable else " or on another processor", ""
        if portable_would_agree(before, run.software):
            remedy = " (a new run with --arithmetic portable would keep its bits)"
        report(
            f"warning: the run was started with other software{where}; its bits may differ from"
            f" here on: {'; '.join(changes)}{remedy}"
        )
    if is_portable:
        if point:
            directory.environment.begin_with(whole_lines_of(point.directory / ENVIRONMENT))
        directory.environment.add({"kind": kind, "step": step, **start})
        start = portable_part(start)
        last = parsed.receipt.starts[-1] if parsed and parsed.receipt.starts else {}
        if start == {name: last[name] for name in last if name not in ("kind", "step")}:
            return
    directory.add_receipt(kind, step, **start)


def is_edited(file: Path, text: str) -> bool:
    """Whether ``file`` parts from ``text``, rather than being cut off or continuing it."""
    with suppress(OSError):
        found, expected = read_bytes(file), text.encode()
        length = min(len(found), len(expected))
        return found[:length] != expected[:length]
    return False


def whole_lines_of(file: Path) -> bytes:
    """``file`` up to its last line feed; nothing if it cannot be read."""
    with suppress(OSError):
        content = read_bytes(file)
        return content[: content.rfind(b"\n") + 1]
    return b""


def machine_of(communicator: Communicator) -> dict[str, Any]:
    """When and where a start or resume happens; a replay does not compare it."""
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "ranks_by_host": Counter(communicator.hosts),
        "processor": processor(),
        "mpi": communicator.description,
    }


def start_of(run: Run) -> Line:
    """All that is recorded of a start or resume of ``run``."""
    return {
        "world_size": run.communicator.world_size,
        "configuration": dataclasses.asdict(run.config),
        "dataset": run.dataset_record.identity,
        "software": run.software,
        "machine": machine_of(run.communicator),
        **({"model_sources": run.model_sources} if run.model_sources else {}),
        **({"initial_weights": run.initial.record} if run.initial else {}),
    }


def portable_part(start: Line) -> Line:
    """The part of ``start_of`` on which bits and records of a portable run depend."""
    configuration, dataset, weights = (
        start.get(name, {}) for name in ("configuration", "dataset", "initial_weights")
    )
    kept: Line = {
        "configuration": {
            name: value for name, value in configuration.items() if name not in OF_THE_MACHINE
        },
        "dataset": {name: dataset[name] for name in OF_THE_IMAGES if name in dataset},
        **({"model_sources": start["model_sources"]} if "model_sources" in start else {}),
    }
    if weights:  # the run has a copy, whatever file they came from
        kept["configuration"]["initial_weights"] = INITIAL_WEIGHTS
        kept["initial_weights"] = {"params_sha256": weights["params_sha256"]}
    return kept

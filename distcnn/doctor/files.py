"""The folder for results, which only rank 0 writes to, and the image set, which all ranks read."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from distcnn.distributed import Communicator
from distcnn.doctor.findings import BAD, GOOD, WARNING, Finding, Found, Same
from distcnn.doctor.resources import free_space
from distcnn.doctor.time_limits import bounded
from distcnn.errors import InputError
from distcnn.system.host import most_memory

if TYPE_CHECKING:
    from distcnn.datasets import DatasetInfo

SECONDS = 5.0
SLOW_SECONDS = 1.0
SAMPLE_BYTES = 16 * 2**20
"""About the size of a short run of the default network."""
LITTLE_BYTES = 256 * 2**20
OF_A_RUN = "config.toml"

LARGE_BYTES = 64 * 2**20
"""For sets larger than this, only the labels are checked."""
LABELS_AT_ONCE = 2**17
LABEL_BYTES = 8
DEFAULT_DATA = "data/mnist.h5"

COPY = "copy it to a file system that every host mounts, or give a path that is valid on every host"
REPAIR = f"fix what the message says; if other ranks can read the file: {COPY}"


def output(communicator: Communicator, options: argparse.Namespace) -> Iterator[Finding]:
    """Whether rank 0 can write, how fast, and how much room there is."""
    path = Path(options.output)
    if communicator.rank:
        return
    try:
        seconds, free, holds_run = bounded(SECONDS, f"writing to {path}", lambda: _write(path))
    except OSError as error:
        text = f"{path} cannot be written: {error.strerror or error}"
        remedy = "choose a folder with --output that rank 0's host can write (ls -ld, quota, df -h)"
        yield Finding(BAD, "output", text, remedy)
        return
    if holds_run:
        remedy = f"choose another folder, or continue the run with --resume {path}"
        text = f"{path} holds a run, which is not overwritten"
        yield Finding(WARNING, "output", text, remedy)
    speed = f"{SAMPLE_BYTES / 2**20:.0f} MiB written in {seconds:.2f} s"
    if free < LITTLE_BYTES:
        text = f"{path}: only {free / 2**20:,.0f} MiB free"
        remedy = "free some space, or choose another with --output"
        yield Finding(WARNING, "output", text, remedy)
    elif seconds > SLOW_SECONDS:
        remedy = "training continues while checkpoints are written, but may wait for the last one"
        yield Finding(WARNING, "output", f"{path} is slow: {speed}", remedy)
    else:
        room = "over 100" if free > 100 * 2**30 else f"{free / 2**30:.1f}"
        yield Finding(GOOD, "output", f"{path}: {speed}, {room} GiB free")


def _write(path: Path) -> tuple[float, int, bool]:
    """Write a sample in the folder, or where it would be made: seconds, free bytes, holds a run."""
    folder = next(place for place in (path, *path.parents) if os.path.lexists(place))
    start = time.perf_counter()
    free = free_space(folder, SAMPLE_BYTES)
    return time.perf_counter() - start, free, os.path.exists(path / OF_A_RUN)  # noqa: PTH110


def data(communicator: Communicator, options: argparse.Namespace) -> Found:
    """The image set: whether all ranks can read the same one, and what is wrong with it."""
    path = options.data or DEFAULT_DATA
    try:
        yield from bounded(
            SECONDS, f"reading {path}", lambda: [*_image_set(communicator, options.data)]
        )
    except TimeoutError as error:
        yield Finding(BAD, "data", str(error), REPAIR)
    except ImportError:  # h5py is broken: reported by the software check
        pass


def _image_set(communicator: Communicator, named: str) -> Found:
    from distcnn.datasets import read_info

    path, why = named or DEFAULT_DATA, "ranks see different files"
    if not named and not os.path.exists(path):  # noqa: PTH110
        text = f"{path} does not exist yet: the first run creates it; --data FILE checks another"
        yield Same("data", text, why, COPY)
        return
    try:
        info = read_info(path)
        counts = " + ".join(f"{info.examples[split]:,}" for split in ("train", "test"))
        size = sum(info.examples.values()) * (info.image_bytes + LABEL_BYTES)
        name = f"{info.name}, " if info.name else ""
        text = f"{path}: {name}{counts} images {'x'.join(map(str, info.image_shape))}"
        if size > LARGE_BYTES:
            text += "; only its labels were checked, training also checks the images"
        yield Same("data", text, why, COPY)
        hosts, most = communicator.hosts, most_memory()
        needed = size * hosts.count(hosts[communicator.rank]) / len(hosts)
        if most is not None and needed > most:
            text = f"{needed / 2**30:,.1f} GiB of images for a host with {most / 2**30:,.1f} GiB"
            remedy = "limit the memory for data with --data-memory MIB, or use more hosts"
            text = f"{text} of memory: training would refuse it"
            yield Finding(WARNING, "data", text, remedy)
        if communicator.rank == 0:
            for remark in judge_content(info, size > LARGE_BYTES):
                remedy = "training gives the same warning and continues"
                yield Finding(WARNING, "data", remark, remedy)
    except InputError as error:
        yield Finding(BAD, "data", str(error), REPAIR)


def judge_content(info: DatasetInfo, only_labels: bool) -> list[str]:
    """The warnings training would give. ``InputError`` if training would refuse the set."""
    from distcnn.datasets.examples import ExampleFile, piece_size, pieces_of
    from distcnn.datasets.survey import Survey, judge, judge_labels

    survey = Survey(info)
    with closing(ExampleFile(info)) as file:
        for split in ("test", "train"):
            size = LABELS_AT_ONCE if only_labels else piece_size(info, split)
            for piece in pieces_of(range(info.examples[split]), size):
                if only_labels:
                    survey.add_labels(split, file.read_labels(split, piece))
                else:
                    survey.add(split, piece.start, *file.load(split, piece))
            if split == "test":
                survey.look_for(survey.test_hashes)
    if only_labels:
        return judge_labels(info, survey.found)
    return judge(info, [survey.found], survey.test_hashes)

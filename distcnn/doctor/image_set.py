"""The image set: opened on every rank and checked as training does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distcnn.doctor.check import Check, Finding, Options, Places
from distcnn.doctor.time_limits import bounded
from distcnn.errors import InputError
from distcnn.system.host import most_memory

if TYPE_CHECKING:
    from distcnn.datasets import DatasetInfo
    from distcnn.distributed import Communicator

DEFAULT = "data/mnist.h5"
SECONDS = 5.0
LARGE_BYTES = 64 * 2**20
"""For sets larger than this, only the labels are checked."""
LABELS_AT_ONCE = 2**17
LABEL_BYTES = 8

COPY = "copy it to a file system that every host mounts, or give a path that is valid on every host"


@dataclass
class ImageSet:
    """The image set as one rank sees it. Filled in step by step, in case a step hangs.

    Args:
        path: the file.
        named: whether the user named it.
        exists: whether the file exists.
        problem: why it cannot be trained on.
        content: path, name, numbers of examples, image shape; empty if unknown.
        memory_bytes: memory that all its examples take.
        most_memory: memory of the host, container or job; None: unknown.
        remarks: training's warnings, on rank 0.
    """

    path: str
    named: bool
    exists: bool = False
    problem: str = ""
    content: str = ""
    memory_bytes: int = 0
    most_memory: int | None = None
    remarks: tuple[str, ...] = ()


def collect(communicator: Communicator, options: Options) -> ImageSet:
    """Open the file and, on rank 0, check its content."""
    found = ImageSet(options.data or DEFAULT, bool(options.data))
    try:
        bounded(SECONDS, f"reading {found.path}", lambda: _fill(found, communicator.rank == 0))
    except (InputError, TimeoutError) as error:
        found.problem = str(error)
    except ImportError:  # h5py is broken: reported by the software check
        pass
    return found


def evaluate(places: Places, everyone: Mapping[int, ImageSet]) -> Iterator[Finding]:
    """Content and memory."""
    first = next(iter(everyone.values()))
    if not first.named and not any(facts.exists for facts in everyone.values()):
        text = (
            f"{first.path} does not exist yet: the first run creates it; --data FILE checks another"
        )
        yield Finding.good("data", text)
        return
    read = {rank: facts for rank, facts in everyone.items() if facts.content}
    if read:
        contents = {rank: facts.content for rank, facts in read.items()}
        yield places.compared("data", contents, "ranks see different files", COPY)
    own = {
        rank: [*_own(facts), *_memory(facts, len(ranks) / places.total)]
        for ranks in places.ranks_of_host.values()
        for rank, facts in everyone.items()
        if rank in ranks
    }
    yield from places.gathered(own)


def _fill(found: ImageSet, judge: bool) -> None:
    from distcnn.datasets import read_info

    found.exists = os.path.exists(found.path)  # noqa: PTH110
    info = read_info(found.path)
    found.memory_bytes, found.most_memory = bytes_of(info), most_memory()
    channels, height, width = info.image_shape
    counts = " + ".join(f"{info.examples[split]:,}" for split in ("train", "test"))
    name = f"{info.name}, " if info.name else ""
    partly = ""
    if found.memory_bytes > LARGE_BYTES:
        partly = "; only its labels were checked, training also checks the images"
    found.content = f"{found.path}: {name}{counts} images {channels}x{height}x{width}{partly}"
    if judge:
        found.remarks = tuple(judge_content(info))


def bytes_of(info: DatasetInfo) -> int:
    """Bytes of all images and labels in memory."""
    return sum(info.examples.values()) * (info.image_bytes + LABEL_BYTES)


def judge_content(info: DatasetInfo) -> list[str]:
    """Return the warnings training would give; for a large set, only those about labels.

    Raises:
        InputError: training would refuse the set.
    """
    from distcnn.datasets.examples import ExampleFile, piece_size, pieces_of
    from distcnn.datasets.survey import Survey, judge, judge_labels

    survey, large = Survey(info), bytes_of(info) > LARGE_BYTES
    with closing(ExampleFile(info)) as file:
        for split in ("test", "train"):
            size = LABELS_AT_ONCE if large else piece_size(info, split)
            for piece in pieces_of(range(info.examples[split]), size):
                if large:
                    survey.add_labels(split, file.read_labels(split, piece))
                    continue
                survey.add(split, piece.start, *file.load(split, piece))
            if split == "test":
                survey.look_for(survey.test_hashes)
    if large:
        return judge_labels(info, survey.found)
    return judge(info, [survey.found], survey.test_hashes)


def _own(facts: ImageSet) -> Iterator[Finding]:
    if facts.problem:
        remedy = f"fix what the message says; if other ranks can read the file: {COPY}"
        yield Finding.bad("data", facts.problem, remedy)
    for remark in facts.remarks:
        yield Finding.warning("data", remark, "training gives the same warning and continues")


def _memory(facts: ImageSet, share: float) -> Iterator[Finding]:
    needed, most = facts.memory_bytes * share, facts.most_memory
    if most is not None and needed > most:
        text = f"{needed / 2**30:,.1f} GiB of images for a host with {most / 2**30:,.1f} GiB"
        remedy = "limit the memory for data with --data-memory MIB, or use more hosts"
        yield Finding.warning("data", f"{text} of memory: training would refuse it", remedy)


CHECK = Check("data", collect, evaluate)

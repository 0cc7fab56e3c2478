"""The image set, as every rank sees it: that it opens with training's own reader, that nobody
writes it, how fast it is read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from distcnn.doctor.check import Everyone, Facts, Section, bounded
from distcnn.doctor.file_systems import file_system
from distcnn.doctor.finding import BAD, GOOD, WARNING, Finding, Places, compared, gathered
from distcnn.doctor.options import Options
from distcnn.errors import InputError
from distcnn.system.host_memory import most_memory

if TYPE_CHECKING:
    from distcnn.datasets import DatasetInfo

DEFAULT = "data/mnist.h5"
SECONDS = 5.0
"""What looking at a file may take: a file system that needs longer hangs."""
SAMPLE_SECONDS, SAMPLE_BYTES = 1.5, 64 * 2**20
"""Of the training images all ranks together read so much, or as much as they can in the time."""
SLOW_BYTES_PER_SECOND = 10e6
"""A rank of the default network takes about 3 MB of pixels in a second."""
LARGE_CHUNK_BYTES = 32 * 2**20
LABELS_AT_ONCE = 2**17
LABEL_BYTES = 8
LOCKING = "HDF5_USE_FILE_LOCKING"

COPY = "copy it to where every host sees it, or name it as every host does (an absolute path)"
WAIT = "wait until it is written, or end what writes it; h5clear -s FILE when a writer died"


def look(communicator: Any, options: Options) -> Facts:
    """What is at the path; where it can be read, what it holds and how fast it comes."""
    path = options.data or DEFAULT
    facts: Facts = {
        "path": path,
        "named": bool(options.data),
        "locking": os.environ.get(LOCKING, ""),
    }
    seen: Facts = {}
    try:
        bounded(
            SECONDS,
            f"looking at {path}",
            lambda: _look_at(path, communicator.rank, communicator.world_size, seen),
        )
    except TimeoutError as error:
        return facts | seen | {"problem": f"{error}: the file system hangs, or is very slow"}
    return facts | seen


def judge(places: Places, everyone: Everyone) -> list[Finding]:
    """The file, locks, speed."""
    first = next(iter(everyone.values()))
    if not first["named"] and not any(facts.get("exists") for facts in everyone.values()):
        text = (
            f"{first['path']} is not there yet: the first run makes it (from --source, a mirror or"
            " a package)"
        )
        return [Finding("data", GOOD, f"{text}; --data FILE.h5 looks at one")]
    found = gathered(places, {rank: list(_own(facts)) for rank, facts in everyone.items()})
    whole = {rank: facts for rank, facts in everyone.items() if "what" in facts}
    if whole:
        contents = {rank: facts["what"] for rank, facts in whole.items()}
        found.insert(0, compared(places, "data", contents, "ranks see different files", COPY))
        found.append(_locking(next(iter(whole.values()))))
        found += gathered(places, _room(places, whole), of_hosts=True)
    timed = {rank: facts for rank, facts in whole.items() if facts.get("seconds")}
    return [*found, *_speed(places, timed)] if timed else found


def bytes_per_second(facts: Facts) -> float:
    """Of what one rank read."""
    return float(facts["bytes"] / facts["seconds"]) if facts.get("seconds") else 0.0


def _look_at(path: str, rank: int, world_size: int, seen: Facts) -> None:
    """Add to ``seen``, in the order in which things may hang or fail."""
    seen["exists"] = os.path.exists(path)  # noqa: PTH110
    if seen["exists"]:
        before = os.stat(path)  # noqa: PTH116
        seen |= {
            "kind": file_system(path),
            "bytes_of_file": before.st_size,
            "age": time.time() - before.st_mtime,
        }
    try:
        from distcnn.datasets import read_info
        from distcnn.datasets.opening import lock_state, require_regular

        require_regular(path)  # before it is opened to look at its locks: opening a FIFO waits
        seen["lock"] = lock_state(path)
        info = read_info(path)
        channels, height, width = info.image_shape
        counts = " + ".join(f"{info.examples[split]:,}" for split in ("train", "test"))
        name = f"{info.name}, " if info.name else ""
        seen |= {
            "chunk_bytes": info.chunk_examples["train"] * info.image_bytes,
            "bytes_of_set": bytes_of(info),
            "most": most_memory(),
        }
        read, seconds = read_sample(info, rank, world_size)
        partly = (
            "; only its labels were checked, training checks the images too"
            if bytes_of(info) > SAMPLE_BYTES
            else ""
        )
        seen |= {
            "what": f"{path}: {name}{counts} images {channels}x{height}x{width}{partly}",
            "bytes": read,
            "seconds": seconds,
        }
        if rank == 0:
            seen["remarks"] = look_through(info)
    except InputError as error:
        seen["problem"] = str(error)
    except ImportError:  # h5py's own line tells
        return
    if seen["exists"]:
        after = os.stat(path)  # noqa: PTH116
        seen["changed"] = (after.st_size, after.st_mtime_ns, after.st_ino) != (
            before.st_size,
            before.st_mtime_ns,
            before.st_ino,
        )


def bytes_of(info: DatasetInfo) -> int:
    """Of all images and labels in memory."""
    return sum(info.examples.values()) * (info.image_bytes + LABEL_BYTES)


def read_sample(info: DatasetInfo, rank: int, world_size: int) -> tuple[int, float]:
    """Bytes and seconds of reading this rank's part of the training images, from its beginning, as
    far as the sample goes.
    """

    from distcnn.datasets.examples import ExampleFile, piece_size, pieces_of

    examples = info.examples["train"]
    mine = range(rank * examples // world_size, (rank + 1) * examples // world_size)
    start, read = time.perf_counter(), 0
    with closing(ExampleFile(info)) as file:
        for piece in pieces_of(mine, piece_size(info, "train")):
            file.read("train", piece, *file.empty(len(piece)))
            read += len(piece) * info.image_bytes
            if time.perf_counter() - start > SAMPLE_SECONDS or read >= SAMPLE_BYTES / world_size:
                break
    return read, time.perf_counter() - start


def look_through(info: DatasetInfo) -> list[str]:
    """What training says of all examples as it starts; of a large set, only what it says of the
    labels.

    ``InputError`` where training refuses them.
    """
    from distcnn.datasets.examples import ExampleFile, piece_size, pieces_of
    from distcnn.datasets.survey import Survey, judge, judge_labels

    survey, large = Survey(info), bytes_of(info) > SAMPLE_BYTES
    with closing(ExampleFile(info)) as file:
        for split in ("test", "train"):
            for piece in pieces_of(
                range(info.examples[split]), LABELS_AT_ONCE if large else piece_size(info, split)
            ):
                if large:
                    survey.add_labels(split, file.read_labels(split, piece))
                    continue
                images, labels = file.empty(len(piece))
                file.read(split, piece, images, labels)
                survey.add(split, piece.start, images, labels)
            if split == "test":
                survey.look_for(survey.test_hashes)
    if large:
        return judge_labels(info, [survey.found])
    return judge(info, [survey.found], survey.test_hashes)


def _own(facts: Facts) -> Iterator[Finding]:
    """What is wrong with the file on one rank."""
    path = facts["path"]
    if facts.get("problem"):
        remedy = (
            WAIT
            if "another process" in facts["problem"]
            else "the line says it; where other ranks can read it: " + COPY
        )
        yield Finding("data", BAD, facts["problem"], remedy)
    for remark in facts.get("remarks", []):
        yield Finding("data", WARNING, remark, "training says so too, and goes on")
    if facts.get("changed"):
        yield Finding("data", BAD, f"{path} was changed while it was read", WAIT)
    elif facts.get("age", 0) < -60:
        text = f"{path} was written {-facts['age']:.0f} s in the future"
        yield Finding(
            "data",
            WARNING,
            text,
            "the clocks of this host and of the file server differ: ask the site",
        )


def _room(places: Places, whole: Everyone) -> dict[int, list[Finding]]:
    """Whether the ranks of each host can keep their part of the set in memory."""
    found: dict[int, list[Finding]] = {}
    for ranks in places.ranks_of_host.values():
        for rank in (each for each in ranks if each in whole):
            needed, most = (
                whole[rank]["bytes_of_set"] * len(ranks) / places.whole,
                whole[rank]["most"],
            )
            if most is not None and needed > most:
                text = (
                    f"{needed / 2**30:,.1f} GiB of the image set on a host that has"
                    f" {most / 2**30:,.1f} GiB of memory: training refuses it"
                )
                found[rank] = [
                    Finding(
                        "data",
                        WARNING,
                        text,
                        "bound it with --data-memory MIB (data/README.md), or use more hosts",
                    )
                ]
    return found


def _locking(facts: Facts) -> Finding:
    """What reading has to do with locks."""
    how = f"{LOCKING}={facts['locking']}" if facts["locking"] else f"{LOCKING} is not set"
    if facts["lock"] in ("free", "held"):
        return Finding(
            "locking",
            GOOD,
            f"{facts['kind'] or 'the file system'} has locks; distcnn reads without them ({how})",
        )
    text = (
        f"{facts['kind'] or 'the file system'} has no locks ({facts['lock']}): distcnn reads"
        " without them, other tools may fail"
    )
    return Finding(
        "locking", WARNING, text, f"export {LOCKING}=FALSE for h5py, h5ls and the like ({how})"
    )


def _speed(places: Places, timed: Everyone) -> list[Finding]:
    speeds = {rank: bytes_per_second(facts) for rank, facts in timed.items()}
    total, read = sum(speeds.values()), sum(facts["bytes"] for facts in timed.values())
    slowest = min(speeds.values())
    text = f"{total / 1e6:,.0f} MB/s of pixels"
    if len(places.hosts) > 1:
        text += f", all ranks at once, {slowest / 1e6:,.0f} the slowest"
    text += f" ({read / 1e6:,.1f} MB, perhaps from the system's cache)"
    chunk = max(facts["chunk_bytes"] for facts in timed.values())
    slow = {
        rank
        for rank, speed in speeds.items()
        if speed < SLOW_BYTES_PER_SECOND and timed[rank]["seconds"] > 0.1
    }
    if slow:
        remedy = (
            "copy the file to a faster place (the host's own disk, /dev/shm); or write it in chunks"
            " of about 1 MiB, lightly compressed"
        )
        return [Finding("reading", WARNING, f"{text}: slow {places.of(slow)}".rstrip(), remedy)]
    if chunk > LARGE_CHUNK_BYTES:
        text += f"; a chunk is {chunk / 2**20:,.0f} MiB, and is read whole"
        return [
            Finding(
                "reading", WARNING, text, "write the file in chunks of about 1 MiB (data/README.md)"
            )
        ]
    return [Finding("reading", GOOD, text)]


SECTION = Section("data", look, judge)

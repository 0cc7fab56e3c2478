"""Reads TensorBoard's event files back, with tensorboardX's own messages and checksums."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

Scalars = dict[str, list[tuple[int, float]]]
"""(step, value) of each tag, in the order of the file."""


def event_files(run: Path) -> list[Path]:
    return sorted(run.glob("events.out.tfevents.*.distcnn"))


def scalars(run: Path) -> Scalars:
    """All scalars in the folder, in the order in which TensorBoard reads its files."""
    found: Scalars = {}
    for event in (event for path in event_files(run) for event in events(path)):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def events(path: Path) -> list[Event]:
    """The events of a file, each with right checksums; the first names the format."""
    content, found = path.read_bytes(), []
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        parts, ends = (content[:8], content[12 : 12 + size]), (8, 12 + size)
        for part, end in zip(parts, ends, strict=True):
            assert struct.unpack("<I", content[end : end + 4]) == (masked_crc32c(part),)
        found.append(Event.FromString(parts[1]))
        content = content[16 + size :]
    assert found[0].file_version == "brain.Event:2"
    return found


def of_metrics(run: Path) -> Scalars:
    """What the event files should hold by ``metrics.jsonl``: single precision."""
    found: Scalars = {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        for name in line.keys() - {"kind", "step", "epoch"}:
            value = float(np.float32(line[name]))
            found.setdefault(f"{line['kind']}/{name}", []).append((line["step"], value))
    return found

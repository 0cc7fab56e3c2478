"""Several processes write one image set at once."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from distcnn.datasets import read_examples, read_info
from tests.support.image_sets import ROOT

WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from distcnn.datasets import Split, write_dataset
path, ready = Path(sys.argv[1]), Path(sys.argv[2])
images, labels = np.arange(300 * 64).astype(np.uint8).reshape(300, 8, 8), np.arange(300) % 10
ready.touch()
while not (ready.parent / "go").exists():
    time.sleep(0.001)
for _ in range(15):
    batches = [(images[i : i + 50], labels[i : i + 50]) for i in range(0, 300, 50)]
    write_dataset(path, name="n", source="s", classes=10, splits={split: Split(300, batches) for split in ("train", "test")})
"""  # noqa: E501


def test_processes_that_write_one_path_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path, signals = tmp_path / "out" / "set.h5", tmp_path / "signals"
    signals.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with ExitStack() as stack:
        writers = []
        for number in range(4):
            command = [sys.executable, "-c", WRITER, str(path), str(signals / str(number))]
            writers.append(
                stack.enter_context(
                    subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
                )
            )
            stack.callback(writers[-1].kill)
        deadline = time.monotonic() + 30
        while len(list(signals.iterdir())) < len(writers) and time.monotonic() < deadline:
            time.sleep(0.01)
        (signals / "go").touch()
        seen = set()
        while any(writer.poll() is None for writer in writers):
            if path.exists():
                seen.add(hashlib.sha256(path.read_bytes()).hexdigest())
        errors = [writer.stderr.read() for writer in writers if writer.stderr]
    assert [writer.returncode for writer in writers] == [0] * 4, errors
    assert len(seen) == 1, "at any moment the file is whole"
    assert [each.name for each in path.parent.iterdir()] == ["set.h5"]
    assert len(read_examples(read_info(path), "train", range(300))[1]) == 300

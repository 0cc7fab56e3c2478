"""A network that fails on demand, in runs that tests start. The environment says how, on which
ranks and in which step.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from distcnn import nn
from distcnn.checkpoints import CheckpointStore
from distcnn.spans import SHARD, STEP, Span, listening
from distcnn.system import launcher

MODEL = f"{__name__}:network"
RANK = launcher.declared_rank(os.environ)
PACE_SECONDS = (
    float(os.environ.get("STAGED_PACE", "0"))
    if str(RANK) in os.environ.get("STAGED_PACE_RANKS", str(RANK))
    else 0
)
FAULT, FAULT_STEP = os.environ.get("STAGED_FAULT", ""), int(os.environ.get("STAGED_STEP", "0"))
MARK = os.environ.get("STAGED_MARK", "")
to_come = [FAULT] if str(RANK) in os.environ.get("STAGED_RANKS", "").split(",") else []


class Where:
    """Follows which step and shard the main thread is in; no shard during an evaluation."""

    step, shard = -1, -1

    def begin(self, span: Span) -> None:
        if span.name == STEP:
            self.step = int(str(span.labels["step"]))
        elif span.name == SHARD:
            self.shard = int(str(span.labels["shard"]))

    def end(self, span: Span) -> None:
        if span.name == SHARD:
            self.shard = -1


where = Where()
held = listening(where)  # for as long as this process lives
held.__enter__()


def fail() -> None:
    raise RuntimeError("broken on purpose")


def leave() -> None:
    sys.exit(0)


def exhaust_memory() -> None:
    bytearray(1 << 62)


def fail_in_thread() -> None:
    threading.Thread(target=fail).start()


def fail_while_saving() -> None:
    def save(store: CheckpointStore, *what: Any) -> Path:
        raise RuntimeError("broken on purpose")

    CheckpointStore.save = save  # type: ignore[method-assign]


def fail_while_summing() -> None:
    sys.modules["distcnn.distributed.mpi"].allreduce_beside = lambda *what: fail()  # type: ignore[attr-defined]


def hang() -> None:
    time.sleep(3600)


def pause() -> None:
    time.sleep(3)


def read_fifo() -> None:
    Path(os.environ["STAGED_FIFO"]).read_bytes()


class Poisoned(nn.Identity):
    """In training only: NaN for the shards POISONED_SHARDS in step STAGED_STEP."""

    def function(self, x: Any, out: Any) -> None:
        super().function(x, out)
        if where.step == FAULT_STEP and str(where.shard) in os.environ["POISONED_SHARDS"]:
            out.fill(float("nan"))


class Staged(nn.Identity):
    """In training only: PACE_SECONDS for every shard, and the fault, once; the file MARK<rank>
    records its time.
    """

    def function(self, x: Any, out: Any) -> None:
        super().function(x, out)
        if where.shard < 0:
            return
        time.sleep(PACE_SECONDS)
        if to_come and where.step == FAULT_STEP:
            if MARK:
                Path(f"{MARK}{RANK}").touch()
            globals()[to_come.pop()]()


def network(input_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    return nn.Sequential([nn.Flatten(), Staged(), nn.Dense(classes)])


def poisoned_network(input_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """Two buckets: 39,200 elements and 510; the NaN reaches the gradients of both."""
    return nn.Sequential(
        [nn.Conv2d(4, 3, padding=1), Poisoned(), nn.Flatten(), nn.Dense(50), nn.Dense(classes)]
    )

"""Communicators, ownership of shards, the exact sum. It knows nothing of layers."""

from distcnn.distributed.async_allreduce import ForegroundSums, Sums
from distcnn.distributed.buckets import plan_buckets
from distcnn.distributed.communicator import (
    Communicator,
    SerialCommunicator,
    on_root,
    open_communicator,
    together,
)
from distcnn.distributed.exact_sum import ExactSum, RangeError
from distcnn.distributed.partition import shards_of_rank, span_of
from distcnn.distributed.reduction import REDUCTIONS, Reduction
from distcnn.distributed.shared_memory_reduction import keep_gradients
from distcnn.distributed.step_stats import TALLY_SIZE, Tally, Totals

__all__ = [
    "REDUCTIONS",
    "TALLY_SIZE",
    "Communicator",
    "ExactSum",
    "ForegroundSums",
    "RangeError",
    "Reduction",
    "SerialCommunicator",
    "Sums",
    "Tally",
    "Totals",
    "keep_gradients",
    "on_root",
    "open_communicator",
    "plan_buckets",
    "shards_of_rank",
    "span_of",
    "together",
]

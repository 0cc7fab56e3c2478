"""Communicators, ownership of shards, the exact sum. It knows nothing of layers."""

from distcnn.distributed.async_allreduce import Bucket, ForegroundSums, Sums, plan_buckets
from distcnn.distributed.communicator import (
    Communicator,
    SerialCommunicator,
    on_root,
    open_communicator,
    together,
)
from distcnn.distributed.exact_sum import ExactSum, RangeError
from distcnn.distributed.partition import shards_of_rank, span_of
from distcnn.distributed.reduction import REDUCERS, MisuseError, Reducer, StepTotals, SummedReducer
from distcnn.distributed.shared_memory_reduction import share_gradients
from distcnn.distributed.step_stats import STATS_SIZE, StepStats, Totals

__all__ = [
    "REDUCERS",
    "STATS_SIZE",
    "Bucket",
    "Communicator",
    "ExactSum",
    "ForegroundSums",
    "MisuseError",
    "RangeError",
    "Reducer",
    "SerialCommunicator",
    "StepStats",
    "StepTotals",
    "SummedReducer",
    "Sums",
    "Totals",
    "on_root",
    "open_communicator",
    "plan_buckets",
    "shards_of_rank",
    "share_gradients",
    "span_of",
    "together",
]

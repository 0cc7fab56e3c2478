"""Communicators, which rank owns which shard, and the sum of all gradients.

It knows nothing of layers.
"""

from distcnn.distributed.allreduce import Allreduce, BlockingAllreduce
from distcnn.distributed.buckets import Bucket, plan_buckets
from distcnn.distributed.communicator import (
    Communicator,
    SerialCommunicator,
    on_root,
    open_communicator,
    together,
)
from distcnn.distributed.exact_sum import ExactSum, RangeError
from distcnn.distributed.partition import shards_of_rank, share_of
from distcnn.distributed.reduction import REDUCERS, BucketReducer, MisuseError, Reducer, StepTotals
from distcnn.distributed.shared_memory_reduction import shared_memory_reducer
from distcnn.distributed.step_stats import STATS_SIZE, StepStats, Totals

__all__ = [
    "REDUCERS",
    "STATS_SIZE",
    "Allreduce",
    "BlockingAllreduce",
    "Bucket",
    "BucketReducer",
    "Communicator",
    "ExactSum",
    "MisuseError",
    "RangeError",
    "Reducer",
    "SerialCommunicator",
    "StepStats",
    "StepTotals",
    "Totals",
    "on_root",
    "open_communicator",
    "plan_buckets",
    "shards_of_rank",
    "share_of",
    "shared_memory_reducer",
    "together",
]

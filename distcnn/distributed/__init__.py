"""Communicators, which rank owns which shard, and the sum of all gradients.

It knows nothing of layers.
"""

from distcnn.distributed.allreduce import Allreduce
from distcnn.distributed.communicator import Communicator, on_root, open_communicator, together
from distcnn.distributed.exact_sum import STATS_SIZE, ExactSum, RangeError, StepStats, Totals
from distcnn.distributed.partition import Bucket, plan_buckets, shards_of_rank, share_of
from distcnn.distributed.reduction import SUMS, BucketReducer, Reducer
from distcnn.distributed.shared_memory_reduction import shared_memory_reducer

__all__ = [
    "STATS_SIZE",
    "SUMS",
    "Allreduce",
    "Bucket",
    "BucketReducer",
    "Communicator",
    "ExactSum",
    "RangeError",
    "Reducer",
    "StepStats",
    "Totals",
    "on_root",
    "open_communicator",
    "plan_buckets",
    "shards_of_rank",
    "share_of",
    "shared_memory_reducer",
    "together",
]

"""Communicators, ownership of shards, the exact sum. It knows nothing of layers."""

from distcnn.parallel.buckets import plan_buckets
from distcnn.parallel.communicator import Communicator, SerialCommunicator, on_root, open_communicator, together
from distcnn.parallel.exact_sum import ExactSum, RangeError
from distcnn.parallel.kept import keep_gradients
from distcnn.parallel.ownership import shards_of_rank, span_of
from distcnn.parallel.reduction import REDUCTIONS, Reduction
from distcnn.parallel.sums import ForegroundSums, Sums
from distcnn.parallel.tally import TALLY_SIZE, Tally, Totals

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

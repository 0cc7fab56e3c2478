"""The HDF5 format, shards, and the ways in: MNIST, IDX files, folders of images."""

from distcnn.datasets.examples import read_examples
from distcnn.datasets.hdf5 import DatasetInfo, read_info
from distcnn.datasets.shards import Microbatch, Part, Shard, steps_per_epoch
from distcnn.datasets.writer import Split, write_dataset

__all__ = [
    "DatasetInfo",
    "Microbatch",
    "Part",
    "Shard",
    "Split",
    "read_examples",
    "read_info",
    "steps_per_epoch",
    "write_dataset",
]

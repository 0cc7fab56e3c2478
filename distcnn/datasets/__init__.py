"""The HDF5 format, shards, and the ways in: MNIST, IDX files, folders of images."""

from distcnn.datasets.hdf5 import DatasetInfo, Split, read_examples, read_info, write_dataset
from distcnn.datasets.shards import Microbatch, Shard, steps_per_epoch

__all__ = ["DatasetInfo", "Microbatch", "Shard", "Split", "read_examples", "read_info", "steps_per_epoch", "write_dataset"]

"""Image sets: files in HDF5, arrays, MNIST, and the importers for IDX files and image folders."""

from distcnn.datasets.dataset import ArrayDataset, Dataset, HDF5Dataset, mnist, open
from distcnn.datasets.examples import ExampleReader, read_examples
from distcnn.datasets.hdf5 import DatasetInfo, read_info
from distcnn.datasets.shards import Microbatch, Part, Shard, steps_per_epoch
from distcnn.datasets.writer import Split, write_dataset

from_arrays = ArrayDataset

__all__ = [
    "ArrayDataset",
    "Dataset",
    "DatasetInfo",
    "ExampleReader",
    "HDF5Dataset",
    "Microbatch",
    "Part",
    "Shard",
    "Split",
    "from_arrays",
    "mnist",
    "open",
    "read_examples",
    "read_info",
    "steps_per_epoch",
    "write_dataset",
]

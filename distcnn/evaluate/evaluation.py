"""A run's network on an image set: read in pieces, shared by all ranks, the same on any number."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from distcnn.config import Config
from distcnn.datasets import Dataset, DatasetInfo, HDF5Dataset
from distcnn.datasets.examples import piece_size, pieces_of
from distcnn.datasets.hdf5 import VALIDATION
from distcnn.distributed import Communicator, on_root, together
from distcnn.errors import InputError
from distcnn.loading import load, require_fit, weights_file, weights_used
from distcnn.network import Network
from distcnn.score import Score, Tally
from distcnn.system.wording import counted, first_few
from distcnn.training.arguments import ARRAYS
from distcnn.training.data import content_sha256, held_out
from distcnn.training.evaluation import examples_of_rank, num_blocks
from distcnn.training.results import RESULT, DatasetRecord, read_result
from distcnn.training.run_files import read_config

MOST_BYTES_TO_HASH = 2**34
"""Of an image set that is compared with the run's by its whole content: a minute or so."""


@dataclass(frozen=True)
class Evaluated:
    """Where a ``score`` is from.

    ``is_runs_own`` says whether the image set is that of the run; None if that is not known. The
    indices of mistakes are those in ``split_of_file``. ``notices`` are lines for the user.
    """

    run: str
    weights: str
    data: str
    split: str
    is_runs_own: bool | None
    class_names: tuple[str, ...]
    score: Score
    notices: tuple[str, ...]

    @property
    def split_of_file(self) -> str:
        """Where the images are in ``data``: "test", or "train", of which validation is a part."""
        return "test" if self.split == "test" else "train"


@dataclass(frozen=True)
class Records:
    """What a run directory says about its training and its image set."""

    config: Config
    dataset: DatasetRecord


def evaluate(
    communicator: Communicator,
    run: str,
    *,
    data: str | None = None,
    split: str = "test",
    weights: Literal["last", "best"] = "last",
    trust_model: bool = False,
) -> Evaluated:
    """Evaluate the network of ``run``; the same result on all ranks. Collective.

    ``InputError`` on all ranks when something cannot be read, or does not fit the network.
    """
    network = together(communicator, lambda: load(run, weights=weights, trust_model=trust_model))
    file, records = on_root(
        communicator, lambda: read_records(weights_file(run, weights), of_file=data)
    )
    used = on_root(communicator, lambda: weights_used(run, weights))
    whole = HDF5Dataset(file)
    info = together(communicator, whole.read_info)
    together(communicator, lambda: require_fit(network, info))
    is_own = is_same(whole, info, records, communicator) if records else None
    notices = notices_on(network, info, records, is_own)
    if split == VALIDATION:
        together(communicator, lambda: require_validation(run, records, file, is_own))
    images: Dataset = whole
    if records and split != "test" and is_own is not False:
        images = held_out(whole, info, records.config, communicator)
        info = together(communicator, images.read_info)
    if split == "train" and len(info.held_out):
        notices.append(
            f"these are the {counted(info.examples[split], 'image')} that the run was trained on;"
            f" the other {len(info.held_out):,} were held out (--split {VALIDATION})"
        )
    tally = together(communicator, lambda: count(network, images, info, split, communicator))
    tally.all_reduce(communicator)
    return Evaluated(
        run=run,
        weights=used,
        data=file,
        split=split,
        is_runs_own=is_own,
        class_names=network.class_names,
        score=located(tally.score(), info, split),
        notices=tuple(notices),
    )


def read_records(weights: Path, of_file: str | None) -> tuple[str, Records | None]:
    """The image set to evaluate on, and the records beside the file of ``weights``.

    ``of_file`` is the one that the user names; else it is the run's own.
    """
    run, records, problem = weights.parent, None, f"{RESULT} names none"
    try:
        records = Records(read_config(run), read_result(run).dataset)
    except InputError as error:
        problem = str(error)
    if of_file:
        return of_file, records
    if not records or not records.dataset.path:
        raise InputError(
            f"{run} does not say where its image set is ({problem}): name one with --data FILE.h5"
        )
    if records.config.data == ARRAYS:
        raise InputError(
            f"{run} was trained on arrays in memory: name a file of the same images with --data"
            " FILE.h5"
        )
    path = records.dataset.path
    if not os.path.exists(path):  # noqa: PTH110  (Path's raises for a folder without permission)
        raise InputError(
            f"{run} was trained on {path}, which is not there (seen from this folder): if it has"
            " moved, name it with --data FILE.h5"
        )
    return path, records


def require_validation(run: str, records: Records | None, file: str, is_own: bool | None) -> None:
    """``InputError`` unless it is known which images of ``file`` the run has held out."""
    remedy = f"name --split test or train instead of {VALIDATION}"
    if not records:
        raise InputError(f"{run} does not say what was held out for validation: {remedy}")
    if not records.config.validation:
        raise InputError(
            f"{run} was trained without --validation, so nothing is held out: {remedy}"
        )
    if is_own is False:
        raise InputError(
            f"{file} is not the image set of {run}, so nothing of it was held out: leave"
            f" --data out, or {remedy}"
        )


def located(score: Score, info: DatasetInfo, split: str) -> Score:
    """``score`` with the indices of mistakes in the file's training or test set."""
    rows = info.rows(split, np.array([mistake.index for mistake in score.mistakes], np.int64))
    mistakes = zip(score.mistakes, rows.tolist(), strict=True)
    return replace(
        score, mistakes=tuple(replace(mistake, index=index) for mistake, index in mistakes)
    )


def count(
    network: Network, images: Dataset, info: DatasetInfo, split: str, communicator: Communicator
) -> Tally:
    """Count this rank's part of the examples, whole microbatches."""
    size, examples = network.microbatch_size, info.examples[split]
    tally = Tally(len(network.class_names), num_blocks(examples, size), network.arithmetic)
    own = examples_of_rank(examples, size, communicator.world_size, communicator.rank)
    with closing(images.open(info)) as reader:
        for piece in pieces_of(own, piece_size(info, split, size)):
            network.count(tally, *reader.load(split, piece), piece.start)
    return tally


def is_same(
    images: Dataset, info: DatasetInfo, records: Records, communicator: Communicator
) -> bool | None:
    """Whether the image set is the run's, by its content; None if that cannot be told. Collective.

    A very large one is compared only by the hash that it states.
    """
    record = records.dataset
    training = record.train_examples + (record.validation_examples or 0)
    recorded = training, record.test_examples, record.sha256 or info.sha256
    if recorded != (info.examples["train"], info.examples["test"], info.sha256 or record.sha256):
        return False
    if info.image_bytes * sum(info.examples.values()) > MOST_BYTES_TO_HASH:
        return None if not info.sha256 else True
    seen = held_out(images, info, records.config, communicator)
    info = together(communicator, seen.read_info)
    return content_sha256(seen, info, records.config, communicator) == record.content_sha256


def notices_on(
    network: Network, info: DatasetInfo, records: Records | None, is_own: bool | None
) -> list[str]:
    """What the user should know about the image set."""
    found = []
    if is_own is None:
        found.append(f"whether {info.path} is the image set of the run was not checked")
    elif not is_own:
        found.append(f"{info.path} is not the image set of the run: its content differs")
    if info.class_names and info.class_names != network.class_names:
        pairs = zip(network.class_names, info.class_names, strict=True)
        differing = [f"'{ours}' is '{theirs}'" for ours, theirs in pairs if ours != theirs]
        found.append(
            f"the names of {counted(len(differing), 'class')} differ between the network and"
            f" {info.path} (classes are compared by their numbers): {first_few(differing)}"
        )
    if records and records.config.loss != "cross-entropy":
        found.append(f"the run was trained with {records.config.loss}; the loss is cross-entropy")
    return found

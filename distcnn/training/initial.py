"""What a run starts from: weights that exist already, and which parameters stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from distcnn.checkpoints.weights import INITIAL_WEIGHTS, array_sha256, encode_weights
from distcnn.config import Config
from distcnn.datasets import DatasetInfo
from distcnn.datasets.normalisation import OF_DATA, OF_WEIGHTS, Normalisation, parse_normalisation
from distcnn.distributed import Communicator, on_root
from distcnn.errors import InputError
from distcnn.nn import Parameters, Sequential
from distcnn.nn.layer import Array
from distcnn.system.wording import counted

Report = Callable[[str], None]


@dataclass(frozen=True)
class InitialWeights:
    """The weights that a run starts from.

    Attributes:
        record: for the receipt: the file, its SHA-256 (when it was read), that of all parameters.
        normalisation: of the inputs that they were trained with, where the file records it.
        content: on root, the file for the run directory; it is enough to start the run again.
    """

    record: dict[str, str]
    normalisation: Normalisation | None
    content: bytes


def load_initial_weights(
    config: Config,
    model: Sequential,
    parameters: Parameters,
    info: DatasetInfo,
    communicator: Communicator,
    report: Report,
    directory: Path | None,
) -> InitialWeights | None:
    """Put them into ``parameters``, which have been drawn: root reads, all take them. Collective.

    They come from the copy in ``directory``, of a run that began before, if there is one.
    """
    if not config.initial_weights:
        return None
    copy = directory / INITIAL_WEIGHTS if directory else None
    arrays, lines, normalisation, record = on_root(
        communicator, lambda: _read(config, model, info, copy if copy and copy.exists() else None)
    )
    for line in lines:
        report(f"notice: {line}")
    parameters.assign(arrays)
    record["params_sha256"] = array_sha256(parameters.values)
    attributes = vars(normalisation) if normalisation else {}
    is_root = communicator.rank == 0
    content = encode_weights(parameters.named(), attributes) if is_root else b""
    return InitialWeights(record, normalisation, content)


def _read(
    config: Config, model: Sequential, info: DatasetInfo, copy: Path | None
) -> tuple[dict[str, Array], list[str], Normalisation | None, dict[str, str]]:
    """The arrays by our names, lines for the user, the file's normalisation, the record."""
    from distcnn.interop import fit, read_foreign  # needed on root only

    source = read_foreign(copy or config.initial_weights)
    weights, mapping = source.weights, "" if copy else config.map
    fitted = fit(weights, model, info.image_shape, mapping, source.path, config.model)
    record = {"file": config.initial_weights}
    if copy:
        return fitted.arrays, [], weights.normalisation, record
    lines = list(fitted.remarks)
    if config.normalisation == OF_DATA and weights.normalisation is None:
        lines.append(
            "the file does not record the mean and std of its inputs, so the image set's are used;"
            " if the weights were trained with others, give --normalisation MEAN/STD (0/1 for"
            f" pixels / 255, 0/{1 / 255:.9f} for pixels of 0 to 255)"
        )
    theirs, ours = weights.class_names, info.class_names or tuple(map(str, range(info.classes)))
    if theirs and theirs != ours and len(theirs) == len(ours):
        lines.append(
            f"the classes of the weights were {', '.join(theirs)}; the image set's are"
            f" {', '.join(ours)}"
        )
    return fitted.arrays, lines, weights.normalisation, {**record, "sha256": source.sha256}


def normalisation_of(
    config: Config, initial: InitialWeights | None, of_data: Normalisation, report: Report
) -> Normalisation:
    """The normalisation of the run's inputs; ``of_data`` is that of the image set."""
    found, channels = initial.normalisation if initial else None, len(of_data.mean)
    if config.normalisation == OF_DATA:
        if found and initial and "sha256" in initial.record and str(found) != str(of_data):
            report(
                f"notice: the initial weights were trained with inputs of mean/std {found}, but"
                f" this run uses the image set's {of_data}; to keep theirs: --normalisation weights"
            )
        return of_data
    if config.normalisation != OF_WEIGHTS:
        found = parse_normalisation(config.normalisation)
    elif found is None:
        raise InputError(
            f"--normalisation weights: {config.initial_weights} does not record mean and std: give"
            " the numbers, such as --normalisation 0.1307/0.3081"
        )
    if len(found.mean) == 1:
        found = Normalisation(found.mean * channels, found.std * channels)
    if len(found.mean) != channels:
        raise InputError(
            f"--normalisation {config.normalisation}: mean and std have"
            f" {counted(len(found.mean), 'channel')}, but the images {channels}"
        )
    return found


def frozen_parameters(parameters: Parameters, patterns: str) -> tuple[str, ...]:
    """The names of the parameters that ``patterns`` (with commas) match, themselves or by layer.

    ``InputError`` when one matches nothing, or all are frozen.
    """
    frozen: set[str] = set()
    for pattern in filter(None, map(str.strip, patterns.split(","))):
        found = {
            name
            for name in parameters.slices
            if fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern)
        }
        if not found:
            raise InputError(
                f"--freeze {pattern} matches no parameter or layer: there are"
                f" {', '.join(parameters.slices)}"
            )
        frozen |= found
    if patterns and not frozen:
        raise InputError(f"--freeze {patterns}: name what to freeze: PATTERN,...")
    if len(frozen) == len(parameters.slices):
        raise InputError(f"--freeze {patterns} freezes all parameters: leave some to train")
    return tuple(name for name in parameters.slices if name in frozen)


def trained_slices(parameters: Parameters, frozen: Sequence[str]) -> list[slice]:
    """The parts of a flat vector that are trained; neighbours are one."""
    edges = np.zeros(parameters.values.size + 2, np.int8)
    for name, span in parameters.slices.items():
        edges[span.start + 1 : span.stop + 1] = name not in frozen
    bounds = np.flatnonzero(np.diff(edges)).tolist()
    return [slice(a, b) for a, b in zip(bounds[::2], bounds[1::2], strict=True)]

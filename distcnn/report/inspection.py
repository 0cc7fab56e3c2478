"""A network seen from inside, and what it does with its test set.

Both may be missing: a network of somebody's own code is not imported without trust, and an image
set may have moved. Then the reason is noted, and the rest is shown.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcnn.checkpoints.weights import WEIGHTS, array_sha256, read_weights
from distcnn.datasets.dataset import HDF5Dataset
from distcnn.datasets.hdf5 import DatasetInfo, Images, Indices, Labels, by
from distcnn.errors import ArgumentError, InputError
from distcnn.loading import load, require_fit
from distcnn.network import Network
from distcnn.nn import Flatten
from distcnn.report.charts import Table
from distcnn.report.pictures import MOST_TILES, Picture, picture, sheet
from distcnn.report.records import RunRecords
from distcnn.score import Mistake, Score
from distcnn.system.wording import counted
from distcnn.training.arguments import ARRAYS
from distcnn.user_code import TRUST_FLAG, modules_of, require_outside

MOST_EXAMPLES, MOST_BYTES = 20_000, 2**28
"""Test images that are read at most, and their bytes; of a larger set, blocks from all over it."""
BLOCK = 250
MOST_CLASSES = 2000
"""With more classes the confusion matrix takes too much memory."""
MISTAKES_SHOWN = 24
LARGEST_MAP = 32
"""Pixels along a side of a feature map; of larger ones every second is drawn, or every third ..."""
UNITS_IN_A_ROW = 50

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class LayerView:
    """A layer: its description, the shape of its output, and that for one example, drawn."""

    name: str
    description: str
    shape: str
    parameters: int
    maps: Picture | None = None
    note: str = ""


@dataclass(frozen=True)
class Inspection:
    """What was found out about a run's network; ``missing`` has the reason for each gap."""

    class_names: tuple[str, ...] = ()
    weights_sha256: str = ""
    """Computed from the file of weights."""
    filters: Picture | None = None
    filters_note: str = ""
    layers: tuple[LayerView, ...] = ()
    score: Score | None = None
    test_examples: int = 0
    """In the test set, of which ``score`` has seen all or some."""
    of_other_data: bool = False
    """Whether the image set is not the one that the run was tested on."""
    mistakes: tuple[tuple[Mistake, Picture], ...] = ()
    example: Picture | None = None
    example_note: str = ""
    same_as: str = ""
    """The label of another run with the same weights, of which the rest is shown."""
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def layer_table(self) -> Table:
        """The layers in words."""
        rows = [
            (layer.name, layer.description, layer.shape, f"{layer.parameters:,}")
            for layer in self.layers
        ]
        return Table("The layers in order", ("layer", "kind", "output", "parameters"), rows)


def inspect(
    run: RunRecords, data: str | None, trusted: bool, others: Mapping[str, Inspection]
) -> Inspection:
    """Look at the last weights of ``run``, and test them on ``data``, by default its own set.

    ``others``, by label, are those before it: the same weights are not shown again.
    """
    if run.result is None:
        return Inspection(missing={"network": "the run has not finished: it has no weights yet."})
    try:
        arrays, about = read_weights(run.path / WEIGHTS)
        found = Inspection(
            class_names=tuple(
                str(name) or f"class {label}" for label, name in enumerate(about["class_names"])
            ),
            weights_sha256=array_sha256(
                np.concatenate([values.reshape(-1) for values in arrays.values()])
            ),
        )
        for label, other in others.items():
            if (other.weights_sha256, other.class_names) == (
                found.weights_sha256,
                found.class_names,
            ):
                return replace(found, same_as=other.same_as or label)
        filters, note = first_filters(arrays, tuple(about["image_shape"]))
        found = replace(found, filters=filters, filters_note=note)
    except (InputError, LookupError, TypeError, ValueError) as error:
        return Inspection(missing={"network": f"the weights cannot be read: {error}."})
    own = modules_of(str(about.get("architecture") or about.get("model")))
    failures = Exception if own else (InputError, ArgumentError, MemoryError)
    try:
        network = _network(run, own, trusted)
        found = replace(found, layers=tuple(_described(network)))
    except failures as error:
        return replace(found, missing={"network": _sentence(error)})
    try:
        images, labels, rows, info = read_test_set(run, network, data)
        score = network.evaluate(images, labels)
        seen = _one_example(network, images, labels, found.class_names)
    except failures as error:
        return replace(found, missing={"test": _sentence(error)})
    recorded = run.result.dataset.sha256
    return replace(
        found,
        **seen,
        score=score,
        test_examples=info.examples["test"],
        of_other_data=bool(recorded and info.sha256 and info.sha256 != recorded),
        mistakes=tuple(
            _shown(mistake, images, rows, found.class_names)
            for mistake in score.mistakes[:MISTAKES_SHOWN]
        ),
    )


def first_filters(arrays: Arrays, image_shape: tuple[int, ...]) -> tuple[Picture | None, str]:
    """The weights that meet the image, drawn, and a note on them; None if they are no filters."""
    name, values = next((item for item in arrays.items() if item[1].ndim >= 2), ("", np.empty(0)))
    what = "filters"
    if values.ndim == 2 and values.shape[1] == math.prod(image_shape):
        values, what = values.reshape(-1, *image_shape), "weights of units"
    if values.ndim != 4 or max(values.shape[2:]) < 2:
        return None, ""
    count, channels, height, width = values.shape
    shown = f"{min(count, MOST_TILES)} of the " if count > MOST_TILES else ""
    note = f"{name}: {shown}{count:,} {what}, {height} x {width}"
    if channels == 3:
        return sheet(values.transpose(0, 2, 3, 1), note), f"{note}, as colours; gray is zero"
    if channels > 1:
        note += f"; the first of {channels} channels"
    return sheet(values[:, 0], note, signed=True), f"{note}; blue is positive, orange negative"


def read_test_set(
    run: RunRecords, network: Network, data: str | None
) -> tuple[Images, Labels, Indices, DatasetInfo]:
    """Test images, their labels and indices, all or blocks of them, and the image set."""
    assert run.result is not None
    path = data or run.result.dataset.path
    if not data and run.config and run.config.data == ARRAYS:
        raise InputError(
            "the run was trained on arrays in memory: name a file of the same images with --data"
        )
    if not os.path.exists(path):  # noqa: PTH110  (Path's raises for a folder without permission)
        raise InputError(f"the image set {path} is not here: if it has moved, name it with --data")
    dataset = HDF5Dataset(path)
    info = dataset.read_info()
    require_fit(network, info)
    if info.classes > MOST_CLASSES:
        raise InputError(f"{counted(info.classes, 'class')} are too many for this page")
    with closing(dataset.open(info)) as reader:
        parts = [(*reader.load("test", span), np.array(span)) for span in blocks(info)]
    images, labels, rows = map(np.concatenate, zip(*parts, strict=True))
    return images, labels, rows, info


def blocks(info: DatasetInfo) -> list[range]:
    """The spans of test examples to read: all, or evenly spaced blocks if they are too many."""
    total = info.examples["test"]
    spans = [range(start, min(start + BLOCK, total)) for start in range(0, total, BLOCK)]
    most = max(1, min(MOST_EXAMPLES, MOST_BYTES // info.image_bytes) // BLOCK)
    if len(spans) <= most:
        return spans
    return [spans[index * len(spans) // most] for index in range(most)]


def _network(run: RunRecords, own: list[str], trusted: bool) -> Network:
    if own and not trusted:
        raise InputError(
            f"the network is made by code in {', '.join(own)}, and importing that runs it: if you"
            f" trust it, add {TRUST_FLAG}"
        )
    require_outside([f"{module}:" for module in own], run.path)
    return load(run.path, trust_model=trusted)


def _described(network: Network) -> list[LayerView]:
    model, shape = network.model, network.image_shape
    parameters, shapes = model.allocate(shape), model.shapes(shape)[1:]
    sizes = [
        end - start for start, end in pairwise([*parameters.layer_starts, parameters.values.size])
    ]
    layers = zip(model.names, model.layers, shapes, sizes, strict=True)
    return [LayerView(name, repr(layer), by(output), size) for name, layer, output, size in layers]


def _one_example(
    network: Network, images: Images, labels: Labels, names: Sequence[str]
) -> dict[str, Any]:
    """What the network makes of one test image, layer by layer: the first that it gets right."""
    few = images[:BLOCK]
    probabilities = network.predict(few)
    right = np.flatnonzero(probabilities.argmax(axis=1) == labels[: len(few)])
    index = int(right[0]) if len(right) else 0
    best = np.argsort(-probabilities[index], kind="stable")[:3]
    guesses = ", ".join(f"{names[k]} ({probabilities[index, k]:.1%})" for k in best)
    outputs = network.activations(few[index : index + 1])
    drawn = [
        layer if isinstance(made, Flatten) else _drawn(layer, outputs[layer.name][0])
        for layer, made in zip(_described(network), network.model.layers, strict=True)
    ]
    return {
        "example": picture(few[index], f"test image {index}, of class {names[labels[index]]}"),
        "example_note": f"True class {names[labels[index]]}. Predicted: {guesses}.",
        "layers": tuple(drawn),
    }


def _drawn(layer: LayerView, output: NDArray[np.float32]) -> LayerView:
    """The layer with its output: feature maps (C, H, W), or units in rows."""
    count = f"{len(output):,}"
    if output.ndim == 3:
        step = math.ceil(max(output.shape[1:]) / LARGEST_MAP)
        maps, what = output[:, ::step, ::step], "feature maps"
        if len(maps) > MOST_TILES:
            count = f"{MOST_TILES} of {count}"
    else:
        units = output.reshape(-1)[: UNITS_IN_A_ROW * 20]
        columns = min(len(units), UNITS_IN_A_ROW)
        maps = np.zeros((1, math.ceil(len(units) / columns), columns), np.float32)
        maps.reshape(-1)[: len(units)] = units
        what = "units"
    signed = bool(output.min() < 0)
    scale = "blue positive, orange negative" if signed else "black is 0, white the largest"
    note = f"{count} {what}; {scale}"
    return replace(layer, maps=sheet(maps, f"{layer.name}: {note}", signed), note=note)


def _shown(
    mistake: Mistake, images: Images, rows: Indices, names: Sequence[str]
) -> tuple[Mistake, Picture]:
    """The mistake, with its index in the whole test set, and its image."""
    label, predicted, index = names[mistake.label], names[mistake.predicted], rows[mistake.index]
    told = f"test image {index}: {label}, mistaken for {predicted}"
    return replace(mistake, index=int(index)), picture(images[mistake.index], told)


def _sentence(error: BaseException) -> str:
    """The text of an error as a sentence that follows a colon: it may begin with a file's name."""
    return f"{str(error) or type(error).__name__}."

"""Which of a file's arrays become which of a network's parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import zip_longest

import numpy as np

from distcnn.architecture import describe, described_layers
from distcnn.errors import InputError
from distcnn.interop.foreign import PYTORCH, Array, ForeignWeights, Image, Layout
from distcnn.nn import Sequential
from distcnn.system.wording import counted, first_few

MOST_NAMED, MOST_MISFITS = 12, 4


@dataclass(frozen=True)
class Wanted:
    """A parameter of the network: its ``image`` is what a Flatten before it has made flat."""

    name: str
    shape: tuple[int, ...]
    layer: str
    image: Image | None
    is_last: bool

    def __str__(self) -> str:
        return f"{self.name} {shown(self.shape)}"


@dataclass(frozen=True)
class Fitted:
    """The arrays by the network's names and in its shapes; the other parameters are left out."""

    arrays: dict[str, Array]
    remarks: list[str]
    """What was decided, one line each."""


Pairs = Sequence[tuple[Wanted, str]]
"""Parameters, each with the name of the array that is to be its value."""


def fit(
    weights: ForeignWeights,
    model: Sequential,
    image_shape: Image,
    mapping: str = "",
    path: str = "",
    name: str = "",
) -> Fitted:
    """Give ``weights`` to the parameters of ``model``.

    Without ``mapping`` all parameters take values: of the same names, or in the order of the layers
    where the names differ. Only a last layer of another number of classes is left out.

    Args:
        weights: what a file holds.
        model: the network.
        image_shape: (channels, height, width) of its images.
        mapping: "ours=theirs,...", names of parameters or layers, or patterns of equal names:
            nothing else is loaded.
        path: the file, for messages.
        name: that of ``model``, as for ``--model``, for messages.

    Raises:
        InputError: some array is missing, or fits nowhere.
    """
    wanted = wanted_of(model, image_shape)
    if mapping:
        tried = {f"as in --map {mapping}": mapped_pairs(wanted, weights, mapping, path)}
    else:
        tried = _guesses(wanted, weights)
    problems: list[list[str]] = []
    for how, pairs in tried.items():
        for layout in weights.layouts:
            arrays, wrong = _converted(pairs, weights, layout)
            others = [item.name for item, _ in pairs if item.name not in arrays]
            if arrays and not wrong:
                remarks = list(_remarks(pairs, arrays, weights, layout, how, path))
                left = [item.name for item in wanted if item.name not in arrays]
                if left:
                    why = "another number of classes" if others else "not in --map"
                    remarks.append(f"{', '.join(left)} newly initialised ({why})")
                if not mapping and (other := _other_layer(weights, model)):
                    remarks.append(other)
                return Fitted(arrays, remarks)
            problems.append(wrong)
    ours = "x".join(map(str, image_shape))
    wrong = min(problems, key=len, default=[])
    raise InputError(_no_fit(wanted, weights, wrong, ours, path, name))


def wanted_of(model: Sequential, image_shape: Image) -> list[Wanted]:
    """The parameters of ``model``, in order."""
    found: list[Wanted] = []
    image: Image | None = None
    layers = list(zip(model.names, model.layers, model.shapes(image_shape)[:-1], strict=True))
    last = next((name for name, layer, shape in reversed(layers) if layer.parameters(shape)), "")
    for name, layer, shape in layers:
        if len(shape) == 3:
            image = shape[0], shape[1], shape[2]
        for parameter in layer.parameters(shape):
            flat = image if len(shape) == 1 else None
            full = f"{name}.{parameter.name}"
            found.append(Wanted(full, parameter.shape, name, flat, name == last))
        if layer.parameters(shape):
            image = None
    return found


def _guesses(wanted: Sequence[Wanted], weights: ForeignWeights) -> dict[str, Pairs]:
    """By name, else by order, where that is possible."""
    names, guesses = list(weights.arrays), dict[str, Pairs]()
    if all(item.name in weights.arrays for item in wanted):
        guesses["by name"] = [(item, item.name) for item in wanted]
    if len(names) == len(wanted):
        guesses["by order"] = list(zip(wanted, names, strict=True))
    return guesses


def mapped_pairs(
    wanted: Sequence[Wanted], weights: ForeignWeights, mapping: str, path: str
) -> Pairs:
    """The pairs that ``mapping`` lists; ``InputError`` for names that do not exist."""
    pairs: dict[str, tuple[Wanted, str]] = {}
    for entry in filter(None, map(str.strip, mapping.split(","))):
        ours, equals, theirs = (part.strip() for part in entry.partition("="))
        items = matching(wanted, ours)
        if not items:
            raise InputError(
                f"--map {entry}: the network has no parameter or layer {ours}: it has"
                f" {', '.join(item.name for item in wanted)}"
            )
        names = [item.name for item in items] if not equals else _below(theirs, weights)
        missing = [name for name in names if name not in weights.arrays] or names[len(items) :]
        if missing or len(names) != len(items):
            raise InputError(
                f"--map {entry}: {ours} has {counted(len(items), 'array')}"
                f" ({', '.join(map(str, items))}), but {path} has {_listed(weights, names)}"
            )
        pairs |= {item.name: (item, name) for item, name in zip(items, names, strict=True)}
    if not pairs:
        raise InputError(f"--map {mapping}: name what to load: OURS=THEIRS,...")
    return list(pairs.values())


def matching(wanted: Iterable[Wanted], pattern: str) -> list[Wanted]:
    """The parameters whose name, or whose layer's, ``pattern`` matches."""
    return [
        item
        for item in wanted
        if fnmatchcase(item.name, pattern) or fnmatchcase(item.layer, pattern)
    ]


def _below(name: str, weights: ForeignWeights) -> list[str]:
    """The array ``name``, or those of the layer ``name``."""
    if name in weights.arrays:
        return [name]
    return [each for each in weights.arrays if each.startswith((f"{name}.", f"{name}/"))]


def _converted(
    pairs: Pairs, weights: ForeignWeights, layout: Layout
) -> tuple[dict[str, Array], list[str]]:
    """The arrays that fit in this layout, and what is wrong with the others."""
    arrays, wrong = dict[str, Array](), []
    for item, name in pairs:
        theirs = weights.arrays[name]
        made = layout.convert(theirs, len(item.shape), item.image)
        if made is not None and made.shape == item.shape:
            arrays[item.name] = np.ascontiguousarray(made)
        elif not (item.is_last and made is not None and made.shape[1:] == item.shape[1:]):
            wrong.append(
                f"{item.name} is {shown(item.shape)}, but the file's {name} {shown(theirs.shape)}"
            )
    return arrays, wrong


def _remarks(
    pairs: Pairs,
    arrays: dict[str, Array],
    weights: ForeignWeights,
    layout: Layout,
    how: str,
    path: str,
) -> Iterable[str]:
    count, used = sum(map(np.size, arrays.values())), {name for _, name in pairs}
    yield f"{count:,} initial weights from {path} ({weights.kind}), {how}"
    if how == "by order":
        renamed = [f"{item.name} is {name}" for item, name in pairs if item.name != name]
        yield f"the names differ, so arrays were taken in their order: {', '.join(renamed)}"
    if layout != PYTORCH:
        changes = [
            *(["kernels transposed"] if layout.kernels != PYTORCH.kernels else []),
            *(["kernels flipped"] if layout.flipped else []),
            *(["dense weights transposed"] if layout.dense_in_first else []),
            *(["flattened images reordered from H, W, C"] if layout.channels_last else []),
        ]
        yield f"converted from the layout {layout.name}: {', '.join(changes)}"
    if unused := [name for name in weights.arrays if name not in used]:
        yield f"not used: {first_few(unused, MOST_NAMED)} of {path}"
    yield from weights.remarks


def _other_layer(weights: ForeignWeights, model: Sequential) -> str:
    """How the network that the weights were trained in differs, where the file records it."""
    try:
        ours = described_layers(describe(model, initialisers=False))
    except InputError:  # a user's own layer that cannot be described
        return ""
    theirs = described_layers(weights.architecture)
    for number, (was, now) in enumerate(zip_longest(theirs, ours, fillvalue="missing"), 1):
        is_head = number == len(theirs) == len(ours) and was[:5] == now[:5] == "Dense"
        if theirs and was != now and not is_head:
            return (
                "the weights fit, but they were trained in another network: its layer"
                f" {number} was {was}, this one's is {now}"
            )
    return ""


def _no_fit(
    wanted: Sequence[Wanted],
    weights: ForeignWeights,
    wrong: Sequence[str],
    image_shape: str,
    path: str,
    name: str,
) -> str:
    what, choose = first_few(wrong, MOST_MISFITS), "choose the --model that they belong to"
    if not wrong:
        what = (
            f"the network has {counted(len(wanted), 'array')} ({first_few(wanted, MOST_NAMED)}),"
            f" the file {_listed(weights, list(weights.arrays))}"
        )
    if weights.model and weights.model != name:
        choose = f"they are those of --model {weights.model}"
    elif wrong and weights.image_shape not in ("", image_shape):
        choose = (
            f"they are for images of {weights.image_shape} (channels x height x width), and the"
            f" image set's are {image_shape}: make one like that (distcnn.convert --size,"
            " --grayscale)"
        )
    network = f"the network (--model {name})" if name else "the network"
    return (
        f"the weights in {path} do not fit {network}: {what}: {choose}, or say which to load with"
        " --map ours=theirs,..."
    )


def _listed(weights: ForeignWeights, names: Sequence[str]) -> str:
    known = [name for name in names if name in weights.arrays]
    if not known:
        return f"no such array, only {first_few(weights.arrays, MOST_NAMED)}"
    shapes = [f"{name} {shown(weights.arrays[name].shape)}" for name in known]
    return f"{len(known)} ({first_few(shapes, MOST_NAMED)})"


def shown(shape: tuple[int, ...]) -> str:
    """A shape as text: 20x1x5x5."""
    return "x".join(map(str, shape)) if math.prod(shape) else str(shape)

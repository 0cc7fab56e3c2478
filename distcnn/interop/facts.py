"""What a file says about its weights beside them: the same names in every format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import distcnn
from distcnn.datasets.normalisation import Normalisation, gives_finite_inputs
from distcnn.interop.foreign import ForeignWeights

LISTS = ("class_names", "image_shape", "mean", "std")
TEXTS = ("model", "architecture", "step", "test_accuracy", "params_sha256")
NAMES = (*LISTS, *TEXTS, "distcnn")


def facts_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """The facts among the attributes of a run's file of weights."""
    found = {name: about[name] for name in (*LISTS, *TEXTS) if about.get(name, "") != ""}
    return {**found, "distcnn": distcnn.__version__}


def as_texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """The facts as texts, lists in JSON: for formats whose metadata are texts."""
    return {
        name: json.dumps(list(value), ensure_ascii=False) if name in LISTS else str(value)
        for name, value in facts.items()
    }


def from_texts(texts: Mapping[str, str]) -> dict[str, Any]:
    """The facts from ``as_texts``; ``ValueError`` for damaged lists."""
    return {
        name: json.loads(texts[name]) if name in LISTS else texts[name]
        for name in NAMES
        if name in texts
    }


def normalisation_in(values: Mapping[str, Any]) -> Normalisation | None:
    """The normalisation among the facts ``values``; ``ValueError`` or ``TypeError`` for others."""
    if not {"mean", "std"} <= values.keys():
        return None
    mean, std = (tuple(map(float, values[name])) for name in ("mean", "std"))
    if not gives_finite_inputs(mean, std):
        raise ValueError(f"its mean is {mean} and its std {std}")
    # A channel that never varied was only centred.
    return Normalisation(mean, tuple(one if one > 0 else 1.0 for one in std))


def described(kind: str, arrays: dict[str, Any], values: Mapping[str, Any]) -> ForeignWeights:
    """Weights that a file of ``kind`` describes by the facts ``values``."""
    return ForeignWeights(
        kind,
        arrays,
        normalisation=normalisation_in(values),
        class_names=tuple(map(str, values.get("class_names", ()))),
        image_shape="x".join(map(str, values.get("image_shape", ()))),
        model=str(values.get("model", "")),
        architecture=str(values.get("architecture", "")),
    )

"""``load`` reads a trained network from a run directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from distcnn.architecture import parse
from distcnn.checkpoints.weights import BEST_WEIGHTS, WEIGHTS, read_weights
from distcnn.datasets import DatasetInfo
from distcnn.errors import InputError
from distcnn.models import MODELS
from distcnn.network import ImageShape, Network
from distcnn.nn import ARITHMETICS, NATIVE, Sequential
from distcnn.registry import find
from distcnn.system.wording import counted, shell_word
from distcnn.user_code import TRUST_FLAG, modules_of, require_outside


def load(
    run: str | Path,
    *,
    weights: Literal["last", "best"] = "last",
    model: Sequential | None = None,
    trust_model: bool = False,
) -> Network:
    """The network of a finished run, without its data or the module that built it.

    A network with layers of your own needs their module: import it before, or let it be imported
    with ``trust_model``. Never trust a run directory from a stranger: importing runs code.

    Args:
        run: the run directory, or a file of weights in one.
        weights: of the last step, or of the best evaluation.
        model: the network, if the run does not record it.
        trust_model: whether to import the module that the run names.

    Raises:
        InputError: the run does not exist or is damaged, or its network cannot be built.

    Example:
        >>> network = distcnn.load("runs/first")
        >>> network.predict(images).shape
        (1000, 10)
    """
    if weights not in ("last", "best"):
        raise InputError(f"weights is {weights!r}: it must be one of last, best")
    if model is not None and not isinstance(model, Sequential):
        raise InputError(f"model is {model!r}: make it a distcnn.nn.Sequential([...])")
    path = weights_file(run, weights)
    try:
        arrays, about = read_weights(path)
        settings = _settings(about)
    except (ValueError, LookupError, TypeError) as error:
        cause = error.__cause__ or error
        reason = getattr(cause, "strerror", None) or cause
        if isinstance(error, KeyError):
            reason = f"it has no attribute {error}"
        elif "signature not found" in str(cause):
            reason = "it is not an HDF5 file"
        raise InputError(
            f"{path} is not a network's weights, or damaged ({reason}): name a run directory"
        ) from error
    try:
        made = model or _recorded_model(about, settings["image_shape"], path.parent, trust_model)
        network = Network(made, arrays, **settings)
    except (ValueError, MemoryError) as error:
        raise InputError(f"{path}: {error}") from error
    if about.get("params_sha256", network.params_sha256) != network.params_sha256:
        raise InputError(
            f"{path} is damaged (the SHA-256 of its weights is not its params_sha256): restore it"
        )
    return network


def require_fit(network: Network, info: DatasetInfo) -> None:
    """``InputError`` unless the network can be evaluated on the image set."""
    theirs, ours = (
        f"images of {'x'.join(map(str, shape))} (channels x height x width) in"
        f" {counted(classes, 'class')}"
        for shape, classes in (
            (info.image_shape, info.classes),
            (network.image_shape, len(network.class_names)),
        )
    )
    if ours != theirs:
        raise InputError(
            f"{info.path} has {theirs}, but the network was trained on {ours}: name an image set"
            " like that with --data"
        )


def _settings(about: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``Network`` from the attributes of a file of weights."""
    channels, height, width = map(int, about["image_shape"])
    mean, std = (tuple(map(float, about[name])) for name in ("mean", "std"))
    return {
        "image_shape": (channels, height, width),
        "mean": mean,
        "std": std,
        "class_names": tuple(map(str, about["class_names"])),
        "microbatch_size": int(about.get("microbatch_size", 16)),
        "arithmetic": _known_arithmetic(about.get("arithmetic", NATIVE)),
    }


def _known_arithmetic(name: object) -> str:
    if name not in ARITHMETICS:
        raise ValueError(f"its arithmetic is {name!r}, not one of {', '.join(ARITHMETICS)}")
    return str(name)


def weights_file(run: str | Path, weights: str = "last") -> Path:
    """The file of the ``weights``, "last" or "best", of a run directory, or such a file itself.

    ``InputError`` if there is none, or the file has the others.
    """
    path, name = Path(run), {"last": WEIGHTS, "best": BEST_WEIGHTS}[weights]
    try:
        is_file, is_there = path.is_file(), os.path.lexists(path / name)
        is_folder, is_run = path.is_dir(), (path / "config.toml").exists()
    except (OSError, ValueError) as error:  # a name that is too long, a null character
        raise InputError(f"{path} cannot be read ({error}): name a run directory") from error
    if is_file and (weights, path.name) == ("best", WEIGHTS):
        raise InputError(
            f"{path} has the weights of the last step, not the best: name the run directory, or"
            f" {path.with_name(BEST_WEIGHTS)}"
        )
    if is_file or is_there:
        return path if is_file else path / name
    if is_run and os.path.lexists(path / WEIGHTS):
        raise InputError(f"{path} has no {name}: use its {WEIGHTS}, those of the last step")
    if is_run:
        raise InputError(
            f"{path} has no {name}: the run has not finished; continue it with python -m"
            f" distcnn.train --resume {shell_word(str(path))}"
        )
    problem = f"no such run: {path}"
    if is_folder:
        problem = f"{path} is not a run directory: it has no {name}"
    raise InputError(f"{problem}: name the output directory of distcnn.train")


def weights_used(run: str | Path, weights: str = "last") -> str:
    """Which weights those are, "last" or "best": ``run`` may be a file, which says so itself."""
    return "best" if weights_file(run, weights).name == BEST_WEIGHTS else "last"


def _recorded_model(
    about: Mapping[str, Any], image_shape: ImageShape, run: Path, trusted: bool
) -> Sequential:
    """The network that a file of weights describes; older ones only name it."""
    text, name = str(about.get("architecture", "")), str(about.get("model", ""))
    classes = len(about["class_names"])
    for module in modules_of(text or name):
        if module not in sys.modules and not trusted:
            raise InputError(
                f"the network uses code in the module {module!r}, which loading would run:"
                " import that module first, or if you trust the run, load it with"
                f" trust_model=True ({TRUST_FLAG})"
            )
        if module not in sys.modules:
            require_outside([text or name], run)
    made = parse(text) if text else find("model", name, MODELS)(image_shape, classes)
    if not isinstance(made, Sequential):
        raise InputError(f"model {name!r} returned a {type(made).__name__}: pass model=...")
    return made

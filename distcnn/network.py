"""``Network``: a trained network, for prediction; ``load`` reads one from a run directory."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distcnn.architecture import parse
from distcnn.checkpoints.weights import BEST_WEIGHTS, WEIGHTS, array_sha256, read_weights
from distcnn.datasets import Microbatch
from distcnn.datasets.examples import pieces_of
from distcnn.errors import ArgumentError, InputError, arguments_named
from distcnn.models import MODELS
from distcnn.nn import Sequential, numpy_settings
from distcnn.nn.layer import Array
from distcnn.predictions import Predictions
from distcnn.registry import find
from distcnn.score import Score, Tally
from distcnn.system.wording import shell_word
from distcnn.user_code import TRUST_FLAG, modules_of, require_outside

if TYPE_CHECKING:
    from distcnn.datasets.fitting import Fit, Fitting, Invert

ImageShape = tuple[int, int, int]


class Network:
    """A network with its weights, normalisation and class names.

    Several threads may use one. The number of BLAS threads is left as it is; with the run's, the
    outputs are those of the run's own tests, bit for bit.

    Usually ``load`` makes it.

    Args:
        model: the layers.
        weights: each parameter by name, in PyTorch's shape.
        image_shape: (channels, height, width) of the images it takes.
        mean, std: per channel: the network's inputs are (pixel / 255 - mean) / std.
        class_names: in the order of the outputs.
        microbatch_size: images computed at a time.

    Raises:
        InputError: the weights are not those of the model.
    """

    def __init__(
        self,
        model: Sequential,
        weights: Mapping[str, NDArray[Any]],
        *,
        image_shape: ImageShape,
        mean: Sequence[float],
        std: Sequence[float],
        class_names: Sequence[str],
        microbatch_size: int = 16,
    ) -> None:
        self.model, self.image_shape, self.class_names = model, image_shape, tuple(class_names)
        self.mean, self.std, self.microbatch_size = tuple(mean), tuple(std), microbatch_size
        parameters = model.allocate(image_shape)
        named = parameters.named()
        shapes, stored = (
            {name: values.shape for name, values in arrays.items()} for arrays in (named, weights)
        )
        if shapes != stored:
            raise InputError(
                f"the weights are {stored}, but the model's are {shapes}: this is not the model"
                " that was trained"
            )
        for name, values in weights.items():
            named[name][...] = values
        statistics = np.asarray(mean), np.asarray(std)
        if len(self.mean) != image_shape[0] or len(statistics[1]) != image_shape[0]:
            raise InputError(
                f"mean is {mean} and std {std}: give one for each of {image_shape[0]} channels"
            )
        self._parameters = parameters
        self._microbatch = Microbatch(image_shape, microbatch_size, *statistics)
        self._plan = model.plan(image_shape, microbatch_size, parameters)
        self._lock = threading.Lock()
        if self._plan.output_shape != (len(self.class_names),):
            raise InputError(
                f"the model's outputs are {self._plan.output_shape} for an image, but there are"
                f" {len(self.class_names)} class names"
            )

    def __repr__(self) -> str:
        size = "x".join(map(str, self.image_shape))
        return f"Network for images of {size}, {len(self.class_names)} classes: {self.model!r}"

    def summary(self) -> str:
        """The layers with output shapes and parameters, and the buffers' memory, as text."""
        return self.model.summary(self.image_shape, self._microbatch.size)

    __str__ = summary

    @property
    def params_sha256(self) -> str:
        """The hash of the weights, as in the run's result."""
        return array_sha256(self._parameters.values)

    def logits(self, images: ArrayLike) -> NDArray[np.float32]:
        """The network's outputs (N, classes), before the softmax; ``images`` as for ``predict``.

        (classes,) for a single image.
        """
        pixels = _as_array(images, "images")
        if pixels.ndim and self._is_one(pixels.shape):
            outputs: NDArray[np.float32] = self.logits(pixels[np.newaxis])[0]
            return outputs
        pixels = self._pixels(pixels)
        outputs = np.empty((len(pixels), len(self.class_names)), np.float32)
        for span, logits in self._logits(pixels, np.zeros(len(pixels), np.int64)):
            outputs[span] = logits[:, : span.stop - span.start].T
        return outputs

    def predict(self, images: ArrayLike) -> NDArray[np.float32]:
        """Probabilities (N, classes): the softmax of the outputs.

        Beside these, memory is needed for one microbatch only, whatever N is; of a ``numpy.memmap``
        only that is read at a time.

        Args:
            images: uint8 (N, H, W) or (N, H, W, C), as in image sets; any N, also 0. Or one image
                (H, W) or (H, W, C): the result is (classes,).

        Raises:
            ArgumentError: for images of another type or shape.

        Example:
            >>> network = distcnn.load("runs/first")
            >>> best = network.predict(images).argmax(axis=1)
            >>> [network.class_names[label] for label in best]
        """
        logits = self.logits(images)
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
        probabilities: NDArray[np.float32] = exponentials / exponentials.sum(axis=-1, keepdims=True)
        return probabilities

    @arguments_named()
    def predict_files(
        self,
        files: str | Path | Sequence[str | Path],
        *,
        fit: Fit = "auto",
        invert: Invert = "auto",
        split: Literal["train", "test"] = "test",
    ) -> Predictions:
        """Predict pictures in files: PNG, JPEG and others, folders of them, HDF5 and NumPy files.

        Pictures of any size and mode become images as the network was trained on; ``notices`` of
        the result say how. As ``python -m distcnn.predict``, on one process.

        Args:
            files: one or several files or folders.
            fit: "strokes" cuts out what is drawn, and centres and scales it as MNIST's digits were;
                "whole" resizes the whole picture; "auto" does the former for pictures of another
                size if the network was trained on MNIST.
            invert: "yes" inverts light and dark, "auto" where needed, for gray images.
            split: which images of a file that has both.

        Raises:
            InputError: a file cannot be read as an image, or does not fit.

        Example:
            >>> found = network.predict_files(["digit.png"])
            >>> found.names[0], found.classes[0], found.probabilities[0].max()
            ('digit.png', '7', 0.99)
        """
        from distcnn.datasets.inputs import find_inputs  # training does not need these

        given = [files] if isinstance(files, str | Path) else files
        fitting = self.fitting(fit, invert)
        inputs = find_inputs(given, split, fitting)
        if inputs.unreadable:
            raise InputError(inputs.unreadable[0].reason)
        names: list[str] = []
        probabilities = np.empty((len(inputs), len(self.class_names)), np.float32)
        remarks: Counter[str] = Counter()
        for span in pieces_of(range(len(inputs)), self.microbatch_size):
            part = inputs.load(span, fitting)
            if part.unreadable:
                raise InputError(next(iter(part.unreadable.values())))
            names += part.names
            probabilities[span.start : span.stop] = self.predict(part.images)
            remarks += part.remarks
        notices = (*inputs.notices, *fitting.sentences(remarks))
        return Predictions(tuple(names), probabilities, self.class_names, notices)

    def fitting(self, fit: Fit = "auto", invert: Invert = "auto") -> Fitting:
        """How pictures become images of this network; arguments as for ``predict_files``."""
        from distcnn.datasets.fitting import Fitting, are_like_mnist

        is_mnist = are_like_mnist(self.image_shape, self.mean, self.std, self.class_names)
        mean = sum(self.mean) / len(self.mean)
        return Fitting(self.image_shape, mean, is_mnist, fit, invert)

    def evaluate(self, images: ArrayLike, labels: ArrayLike) -> Score:
        """How well the network does on ``images`` with known ``labels``.

        Args:
            images: uint8 (N, H, W) or (N, H, W, C), at least one.
            labels: integers (N,), indices into ``class_names``.

        Raises:
            ArgumentError: for images or labels that do not fit.
        """
        pixels = self._pixels(images)
        microbatches = -(-len(pixels) // self.microbatch_size)
        tally = Tally(len(self.class_names), max(1, microbatches))  # ``count`` refuses 0 images
        self.count(tally, pixels, labels)
        return tally.score()

    def count(self, tally: Tally, images: ArrayLike, labels: ArrayLike, first: int = 0) -> None:
        """Count examples in ``tally``: ``evaluate`` in parts, which may be on several ranks.

        Args:
            tally: of as many classes.
            images, labels: as for ``evaluate``.
            first: the index of the first of them. For the bits of ``evaluate`` it must be a
                multiple of ``microbatch_size``.

        Raises:
            ArgumentError: for images or labels that do not fit.
            InputError: the network's outputs are not finite.
        """
        pixels, numbers = self._pixels(images), _as_array(labels, "labels")
        count = len(self.class_names)
        if numbers.shape != (len(pixels),) or numbers.dtype.kind not in "iu" or not len(pixels):
            raise ArgumentError(
                f"labels are {numbers.dtype} of shape {numbers.shape} for {len(pixels)} images:"
                " give at least one image, and an integer for each"
            )
        if numbers.min() < 0 or numbers.max() >= count:
            raise ArgumentError(
                f"labels go from {numbers.min()} to {numbers.max()}: they must be 0 to {count - 1}"
            )
        for span, logits in self._logits(pixels, numbers.astype(np.int64)):
            with numpy_settings():
                tally.add(first + span.start, logits, self._microbatch)

    def activations(self, images: ArrayLike) -> dict[str, NDArray[np.float32]]:
        """The output of every layer, by the layer's name: (N, *shape of the output).

        For a few images, to look at what the layers do: all outputs are kept in memory.

        Args:
            images: as for ``predict``.

        Raises:
            ArgumentError: for images of another type or shape.

        Example:
            >>> network.activations(images)["conv1"].shape
            (1, 20, 24, 24)
        """
        pixels = self._pixels(images)
        shapes = zip(self.model.names, self.model.shapes(self.image_shape)[1:], strict=True)
        outputs = {name: np.empty((len(pixels), *shape), np.float32) for name, shape in shapes}
        batch, plan = self._microbatch, self._plan.unfused()
        with self._lock, numpy_settings():
            for start in range(0, len(pixels), batch.size):
                part = pixels[start : start + batch.size]
                batch.fill(part, np.zeros(len(part), np.int64), np.arange(len(part)))
                x = batch.images
                for stage in plan.stages:
                    x = stage.forward(x, training=False, random_source=None)
                    # Copied at once: the next layer may overwrite its input.
                    outputs[stage.name][start : start + len(part)] = np.moveaxis(
                        x[..., : len(part)], -1, 0
                    )
        return outputs

    def _is_one(self, shape: tuple[int, ...]) -> bool:
        """Whether that is one image."""
        channels, height, width = self.image_shape
        return shape == (height, width, channels) or (channels == 1 and shape == (height, width))

    def _pixels(self, images: ArrayLike) -> NDArray[np.uint8]:
        """``images`` as (N, H, W, C)."""
        pixels = _as_array(images, "images")
        channels, height, width = self.image_shape
        shapes = [(height, width, channels), *([(height, width)] if channels == 1 else [])]
        if pixels.shape[1:] not in shapes or pixels.ndim < 3:
            wanted = " or ".join(str(("N", *shape)).replace("'", "") for shape in shapes)
            remedy = f"resize them to {height}x{width}"
            if pixels.ndim < 2:
                remedy = "give arrays of pixels"
            elif self._is_one(pixels.shape):
                remedy = "for one image give images[np.newaxis]"
            elif pixels.shape[1:] == (channels, height, width):
                remedy = "channels come last: give images.transpose(0, 2, 3, 1)"
            raise ArgumentError(
                f"images have shape {pixels.shape}, but this network takes {wanted}: {remedy}"
            )
        if pixels.dtype != np.uint8:
            raise ArgumentError(
                f"images are {pixels.dtype}: give the pixels as uint8, 0 to 255; the network"
                " normalises them"
            )
        return pixels.reshape(len(pixels), height, width, channels)

    def _logits(
        self, pixels: NDArray[np.uint8], labels: NDArray[np.int64]
    ) -> Iterator[tuple[slice, Array]]:
        """Go through all examples by microbatches; yield their range and their logits."""
        batch = self._microbatch
        with self._lock:
            for start in range(0, len(pixels), batch.size):
                span = slice(start, min(start + batch.size, len(pixels)))
                batch.fill(pixels[span], labels[span], np.arange(span.stop - start))
                with numpy_settings():
                    logits = self._plan.forward(batch.images, training=False)
                yield span, logits


def _as_array(values: ArrayLike, what: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:  # of rows of different lengths
        raise ArgumentError(f"{what} are not an array: {error}") from error


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
        InputError: there is no such run, it is damaged, or its network cannot be made.

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
    }


def weights_file(run: str | Path, weights: str = "last") -> Path:
    """The file of the ``weights``, "last" or "best", of a run directory, or such a file itself.

    ``InputError`` if there is none.
    """
    path, name = Path(run), {"last": WEIGHTS, "best": BEST_WEIGHTS}[weights]
    try:
        if path.is_file() or os.path.lexists(path / name):
            return path if path.is_file() else path / name
        is_folder, is_run = path.is_dir(), (path / "config.toml").exists()
    except (OSError, ValueError) as error:  # a name that is too long, a null character
        raise InputError(f"{path} cannot be read ({error}): name a run directory") from error
    if is_run and os.path.lexists(path / WEIGHTS):
        raise InputError(f"{path} has no {name}: use its {WEIGHTS}, those of the last step")
    if is_run:
        raise InputError(
            f"{path} has no {name}: the run has not finished; continue it with python -m"
            f" distcnn.train --resume {shell_word(str(path))}"
        )
    problem = f"{path} is not a run directory: it has no {name}" if is_folder else "no such run"
    raise InputError(
        f"{problem}{'' if is_folder else f': {path}'}: name the output directory of distcnn.train"
    )


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


if __name__ == "__main__":
    # In 0.2.0, python -m distcnn.network tested the interconnect: name the command of today.
    sys.exit("the interconnect is tested by python -m distcnn.scaling.interconnect_test")

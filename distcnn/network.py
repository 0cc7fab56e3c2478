"""``Network``: a trained network, for prediction."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distcnn.checkpoints.weights import array_sha256
from distcnn.datasets import Microbatch
from distcnn.datasets.examples import pieces_of
from distcnn.datasets.normalisation import gives_finite_inputs
from distcnn.errors import ArgumentError, InputError, arguments_named
from distcnn.nn import NATIVE, PORTABLE, Sequential, numpy_settings
from distcnn.nn.layer import Array
from distcnn.portable import functions, self_test
from distcnn.predictions import Predictions, require_finite
from distcnn.score import Score, Tally

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
        arithmetic: "native", or "portable" for the same bits on every machine.

    Raises:
        InputError: the weights are not those of the model, or mean or std is impossible.
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
        arithmetic: str = NATIVE,
    ) -> None:
        self.arithmetic = arithmetic
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
        parameters.assign(weights)
        statistics = np.asarray(mean), np.asarray(std)
        if len(self.mean) != image_shape[0] or len(statistics[1]) != image_shape[0]:
            raise InputError(
                f"mean is {mean} and std {std}: give one for each of {image_shape[0]} channels"
            )
        if not gives_finite_inputs(self.mean, self.std) or not any(self.std):
            raise InputError(
                f"mean is {mean} and std {std}: they must be finite in float32, and each std above"
                " 0 (0 only for a channel that is constant beside others)"
            )
        if arithmetic == PORTABLE and (problem := self_test.problem()):
            logging.getLogger("distcnn").warning(
                f"portable arithmetic: this machine computes other bits than others do: {problem}"
                " (docs/portable.md)"
            )
        self._parameters = parameters
        self._microbatch = Microbatch(image_shape, microbatch_size, *statistics)
        self._plan = model.plan(image_shape, microbatch_size, parameters, arithmetic)
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
        return self.model.summary(self.image_shape, self._microbatch.size, self.arithmetic)

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
            InputError: the network's outputs are not finite.

        Example:
            >>> network = distcnn.load("runs/first")
            >>> best = network.predict(images).argmax(axis=1)
            >>> [network.class_names[label] for label in best]
        """
        logits = self.logits(images)
        require_finite(logits)
        shifted = logits - logits.max(axis=-1, keepdims=True, initial=-np.inf)
        if self.arithmetic == PORTABLE:
            exponentials = functions.exp(shifted)
            totals = functions.total(exponentials, axis=-1)[..., np.newaxis]
        else:
            exponentials = np.exp(shifted)
            totals = exponentials.sum(axis=-1, keepdims=True)
        probabilities: NDArray[np.float32] = exponentials / totals
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
        microbatches = -(-len(pixels) // self.microbatch_size)  # ``count`` refuses 0 images
        tally = Tally(len(self.class_names), max(1, microbatches), self.arithmetic)
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
        """The output of every layer, by the layer's name: (N, *shape of the output), without N for
        a single image.

        For a few images, to look at what the layers do: all outputs are kept in memory.

        Args:
            images: as for ``predict``.

        Raises:
            ArgumentError: for images of another type or shape.

        Example:
            >>> network.activations(images)["conv1"].shape
            (1, 20, 24, 24)
        """
        pixels = _as_array(images, "images")
        if pixels.ndim and self._is_one(pixels.shape):
            found = self.activations(pixels[np.newaxis])
            return {name: values[0] for name, values in found.items()}
        pixels = self._pixels(pixels)
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
            elif (height, width) in (pixels.shape[1:3], pixels.shape[:2]):
                remedy = f"convert them to {'gray' if channels == 1 else f'{channels} channels'}"
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


if __name__ == "__main__":
    # In 0.2.0, python -m distcnn.network tested the interconnect: name the command of today.
    sys.exit("the interconnect is tested by python -m distcnn.scaling.interconnect_test")

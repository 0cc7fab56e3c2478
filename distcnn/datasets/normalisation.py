"""Means and standard deviations by which inputs are normalised: (pixel / 255 - mean) / std."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

OF_DATA, OF_WEIGHTS = "data", "weights"
LARGEST_INPUT = 2.0**127
"""A float32."""


@dataclass(frozen=True)
class Normalisation:
    """``mean`` and ``std`` of pixels / 255, one number per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        sound = all(map(math.isfinite, (*self.mean, *self.std))) and min(self.std, default=0) > 0
        if len(self.mean) != len(self.std) or not sound:
            raise ValueError(
                f"mean {self.mean} and std {self.std}: give a std above 0 to each mean"
            )

    def __str__(self) -> str:
        return "/".join(",".join(f"{n:.4g}" for n in numbers) for numbers in (self.mean, self.std))


def parse_normalisation(text: str) -> Normalisation:
    """That of ``0.1307/0.3081``, or of colours ``a,b,c/d,e,f``; else ``ValueError``."""
    mean, std = (tuple(map(float, part.split(","))) for part in text.split("/"))
    if not gives_finite_inputs(mean, std):
        raise ValueError(f"mean {mean} and std {std}: the inputs would not be finite")
    return Normalisation(mean, std)


def gives_finite_inputs(mean: Sequence[float], std: Sequence[float]) -> bool:
    """Whether inputs normalised by ``mean`` and ``std`` are numbers of float32.

    A std of 0 is that of a constant channel, which is only centred.
    """
    return all(
        0 <= deviation < math.inf and (1 + abs(centre)) / (deviation or 1) < LARGEST_INPUT
        for centre, deviation in zip(mean, std, strict=False)
    )


def is_normalisation(text: str) -> bool:
    """Whether ``text`` is one, or names where to take it from."""
    with suppress(ValueError):
        return text in (OF_DATA, OF_WEIGHTS) or bool(parse_normalisation(text))
    return False

"""A user's module with a mistake in one of its places."""

from __future__ import annotations

from pathlib import Path

NETWORK = """from distcnn import nn
import numpy as np

class Mine(nn.Tanh):
    def function(self, x, out):
        super().function(x, out){in_forward}

    def derivative(self, x, y, out):
        super().derivative(x, y, out){in_backward}

def start(rng, shape, fan_in, fan_out):
    return rng.standard_normal(shape){in_initialiser}

def network(input_shape, classes{more}):
    {in_building}
    return nn.Sequential([nn.Flatten(), nn.Dense(3), Mine(), nn.Dense(classes, weight_initialiser=start)]){in_return}
"""  # noqa: E501
PLACES = ("in_forward", "in_backward", "in_initialiser", "more", "in_building", "in_return")
WRONG = "[][3]"


def module(folder: Path, **wrong: str) -> Path:
    """The network, with something added in one of PLACES."""
    file = folder / "mine.py"
    file.write_text(NETWORK.format(**{**dict.fromkeys(PLACES, ""), "in_building": "pass", **wrong}))
    return file


def line_of(file: Path, text: str) -> int:
    """The number of the first line with ``text``."""
    lines = enumerate(file.read_text().splitlines(), start=1)
    return next(number for number, line in lines if text in line)

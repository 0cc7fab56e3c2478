"""Networks: latency and bandwidth, given as numbers or fitted to a measured network test."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distcnn.distributed.allreduce_benchmark import BESIDE, WAITING
from distcnn.distributed.async_allreduce import SECONDS_BETWEEN_LOOKS
from distcnn.errors import InputError
from distcnn.scaling.prediction.allreduce import ALGORITHMS, SHORT_BYTES, cost_of
from distcnn.system.files import read_bytes

KIND = "distcnn.scaling.interconnect_test"
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
BITS = {"bit": 1.0, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9, "Tbit": 1e12}
HOW = (
    "write latency=L,bandwidth=B, with L in s, ms or us (one way; a bare number is in seconds) and"
    " B in bit, kbit, Mbit or Gbit (a second; a bare number is in bits per second), such as"
    " latency=1ms,bandwidth=10Gbit, or the file that python -m distcnn.scaling.interconnect_test"
    " --json wrote"
)
FEWEST_ROWS = 3
BORDERS = (SHORT_BYTES, 64, 32_768, 262_144)
"""Sizes up to which a library may take messages for short."""


@dataclass(frozen=True)
class Line:
    """An exchange of n bytes takes ``latency + n * seconds_per_byte`` (alpha, beta), and adding a
    byte ``add_seconds_per_byte`` (gamma).

    ``error`` is the largest relative distance of a measured sum from the fit.
    """

    latency: float
    seconds_per_byte: float
    add_seconds_per_byte: float = 0.0
    error: float = 0.0
    short_bytes: int = SHORT_BYTES
    """Up to here sums are made by recursive doubling, beyond by Rabenseifner's algorithm."""

    def split(self, ranks: int, nbytes: float, algorithm: str = "") -> tuple[float, float]:
        """Seconds of an allreduce: what its latencies take, and what its bytes take."""
        cost = cost_of(ranks, nbytes, algorithm, self.short_bytes)
        return (
            cost.exchanges * self.latency,
            cost.nbytes * self.seconds_per_byte + cost.added_bytes * self.add_seconds_per_byte,
        )

    def seconds(self, ranks: int, nbytes: float, algorithm: str = "") -> float:
        """Of an allreduce."""
        return sum(self.split(ranks, nbytes, algorithm))


@dataclass(frozen=True)
class Network:
    """``lines`` by way of summing (``parallel/trial.py``)."""

    name: str
    lines: Mapping[str, Line]
    algorithm: str = ""
    """Empty: MPICH's by size."""
    measured_on: int = 0
    """Ranks of the network test; 0 for a network that was not measured."""

    def line(self, way: str) -> Line:
        """For sums in this way; MPI may have allowed no thread, then the other."""
        return self.lines.get(way) or next(iter(self.lines.values()))

    def describe(self) -> str:
        """In words, with the fit's error."""
        return "; ".join(
            f"{way} {each.latency * 1e3:.3f} ms, {_bandwidth(each.seconds_per_byte)}, "
            + (
                self.algorithm
                or f"recursive doubling up to {each.short_bytes:,} bytes, then Rabenseifner"
            )
            + (f" (farthest row {each.error:.0%} off)" if self.measured_on else "")
            for way, each in self.lines.items()
        )


def _bandwidth(seconds_per_byte: float) -> str:
    return f"{8e-6 / seconds_per_byte:,.0f} Mbit/s" if seconds_per_byte else "any bandwidth"


def parse_network(text: str, add_seconds_per_byte: float = 0.0) -> Network:
    """What ``--network`` says: numbers, or a file. ``InputError`` names what is wrong."""
    if "=" not in text:
        return read_network(Path(text))
    words = [each.partition("=") for each in text.split(",")]
    values = {name.strip(): value.strip() for name, _, value in words}
    strange = values.keys() - {"latency", "bandwidth", "algorithm", "name"}
    missing = {"latency", "bandwidth"} - values.keys()
    if strange or missing or len(values) < len(words):
        what = (
            f"has no {min(missing)}"
            if missing
            else f"has the unknown word {min(strange)!r}"
            if strange
            else "says something twice"
        )
        raise InputError(f"--network {text!r} {what}: {HOW}")
    latency, bandwidth = (
        _number(text, values["latency"], SECONDS, 0.0),
        _number(text, values["bandwidth"], BITS, math.ulp(0.0)),
    )
    algorithm = values.get("algorithm", "")
    if algorithm and algorithm not in ALGORITHMS:
        raise InputError(
            f"--network {text!r}: there is no algorithm {algorithm!r}: choose"
            f" {', '.join(ALGORITHMS)}, or leave it out"
        )
    line = Line(latency, 8 / bandwidth, add_seconds_per_byte)
    # With overlap a thread looks in now and then: each exchange goes on at its next look.
    beside = Line(latency + SECONDS_BETWEEN_LOOKS, 8 / bandwidth, add_seconds_per_byte)
    name = values.get("name") or f"{values['latency']}, {values['bandwidth']}"
    return Network(name, {WAITING: line, BESIDE: beside}, algorithm)


def _number(text: str, value: str, units: Mapping[str, float], least: float) -> float:
    found = re.fullmatch(r"([0-9.]+(?:[eE][+-]?[0-9]+)?) ?([A-Za-z]*)(/s)?", value)
    unit = (
        {each.lower(): each for each in units}.get(found[2].lower(), "" if not found[2] else None)
        if found
        else None
    )
    try:
        if not found or unit is None:
            raise ValueError
        number = float(found[1]) * (units[unit] if unit else 1.0)
    except ValueError:
        raise InputError(
            f"--network {text!r}: {value!r} is no number with a unit of {', '.join(units)}: {HOW}"
        ) from None
    if not (math.isfinite(number) and number >= least):
        raise InputError(
            f"--network {text!r}: {value!r} is no {'latency' if units is SECONDS else 'bandwidth'}:"
            f" {HOW}"
        )
    return number


def read_network(path: Path) -> Network:
    """Fitted to the network test in a file. ``InputError`` when there is none."""
    try:
        found = json.loads(read_bytes(path, follow=True))
    except OSError as error:
        raise InputError(
            f"--network {str(path)!r} cannot be read ({error.strerror}): {HOW}"
        ) from error
    except ValueError as error:
        raise InputError(
            f"--network {str(path)!r} holds no network test ({error}): {HOW}"
        ) from error
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise InputError(f"--network {str(path)!r} holds no network test: {HOW}")
    try:
        return fit_network(found, path.stem)
    except InputError:
        raise
    except (KeyError, TypeError, IndexError, AttributeError, ArithmeticError, ValueError) as error:
        raise InputError(
            f"--network {str(path)!r} is not whole ({type(error).__name__}: {error}): measure it"
            " again"
        ) from error


def fit_network(found: Mapping[str, Any], name: str) -> Network:
    """The network in which a network test took what it took.

    ``InputError`` when it has too few rows.
    """
    ranks, gamma = int(found["world_size"]), float(found["add_seconds_per_byte"])
    lines = {way: fit_line(rows, ranks, gamma, name) for way, rows in found["rows"].items()}
    if not lines:
        raise InputError(f"the network test {name} has no rows: it needs 2 ranks")
    return Network(name, lines, measured_on=ranks)


def fit_line(rows: Sequence[Sequence[float]], ranks: int, gamma: float, name: str = "") -> Line:
    """Latency and time of a byte by least squares of relative distances from ``rows`` of (bytes,
    seconds) over ``ranks``, none below 0.

    Of the ``BORDERS`` between short and long messages that which fits best, MPICH's where none fits
    better.
    """
    if len(rows) < FEWEST_ROWS:
        raise InputError(
            f"the network test {name} has {len(rows)} sizes, and {FEWEST_ROWS} are needed for"
            " latency and bandwidth: measure it again, for longer (python -m"
            " distcnn.scaling.interconnect_test --seconds 30), or give numbers (--network"
            " latency=...,bandwidth=...)"
        )
    fits = [_fit(rows, ranks, gamma, border) for border in BORDERS]
    return min(fits, key=lambda fit: fit[0])[1]


def _fit(
    rows: Sequence[Sequence[float]], ranks: int, gamma: float, border: int
) -> tuple[float, Line]:
    """The mean square of the relative distances (to so many digits that a worse border is no better
    by rounding), and the line.
    """
    seconds = np.array([row[1] for row in rows])
    costs = [cost_of(ranks, row[0], short_bytes=border) for row in rows]
    terms = np.array([[cost.exchanges, cost.nbytes] for cost in costs]) / seconds[:, None]
    wanted = 1 - gamma * np.array([cost.added_bytes for cost in costs]) / seconds
    found = np.linalg.lstsq(terms, wanted, rcond=None)[0]
    if found.min() < 0:
        one = int(found.argmax())
        found = np.zeros(2)
        found[one] = max(0.0, float(terms[:, one] @ wanted / (terms[:, one] @ terms[:, one])))
    distances = np.abs(terms @ found - wanted)
    line = Line(float(found[0]), float(found[1]), gamma, float(distances.max()), border)
    return round(float(np.mean(distances**2)), 9), line

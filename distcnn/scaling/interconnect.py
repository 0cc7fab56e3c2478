"""Interconnects: the cost of an allreduce between hosts, from latency and bandwidth, given or
fitted to an interconnect test.

MPICH sums short messages by recursive doubling and long ones by Rabenseifner's algorithm; the
closed forms are those of Thakur, Rabenseifner and Gropp, "Optimization of collective communication
operations in MPICH", IJHPCA 19 (2005), 49-66. Of p ranks, P is the largest power of two up to p,
and n are the bytes of the message. If p is not a power of two, p - P ranks first send everything to
a neighbour and receive the result at the end: two exchanges and 2n bytes more.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distcnn.distributed.allreduce import SECONDS_BETWEEN_POLLS
from distcnn.errors import InputError
from distcnn.system.files import read_bytes
from distcnn.system.json_values import from_json

WAITING, BESIDE = "waiting", "beside"
"""The main thread waits for a sum, or another thread sums while the main thread computes."""
WAY_NAMES = {WAITING: "blocking", BESIDE: "overlapped"}  # as printed
KINDS = ("distcnn.scaling.interconnect_test", "distcnn.network")
"""Of the files that the interconnect test writes; the second one is its former name."""
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
BITS = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "tbit": 1e12}
USAGE = (
    "write latency=1ms,bandwidth=10Gbit (one way, in s, ms or us; per second, in bit, kbit, Mbit or"
    " Gbit), or name a file written by python -m distcnn.scaling.interconnect_test --json FILE"
)
FEWEST_ROWS = 3
# MPICH takes messages up to here for short (MPIR_CVAR_ALLREDUCE_SHORT_MSG_SIZE).
SHORT_BYTES = 2048
THRESHOLDS = (SHORT_BYTES, 64, 32_768, 262_144)  # of other libraries; the first one wins a tie


def recursive_doubling(ranks: int, nbytes: float) -> tuple[int, float]:
    """Return exchanges and bytes sent: log2 P exchanges of everything, for short messages."""
    power = ranks.bit_length() - 1
    exchanges = power + 2 * (ranks > 2**power)
    return exchanges, exchanges * nbytes


def rabenseifner(ranks: int, nbytes: float) -> tuple[int, float]:
    """Return exchanges and bytes sent: a reduce-scatter, then an allgather, for long messages."""
    power = ranks.bit_length() - 1
    folds = 2 * (ranks > 2**power)
    return 2 * power + folds, 2 * nbytes * (2**power - 1) / 2**power + folds * nbytes


def cost_of(ranks: int, nbytes: float, short_bytes: int = SHORT_BYTES) -> tuple[int, float]:
    """Return exchanges and bytes sent, one after the other, of an allreduce."""
    return (recursive_doubling if nbytes <= short_bytes else rabenseifner)(ranks, nbytes)


@dataclass(frozen=True)
class SumTimes:
    """The interconnect test: (bytes, seconds) of sums over all ranks by way of summing."""

    world_size: int
    hosts: list[str]  # of each rank
    library: str
    rows: dict[str, list[list[float]]]


@dataclass(frozen=True)
class Line:
    """An exchange of n bytes takes ``latency + n * seconds_per_byte`` (alpha and beta). Adding what
    arrives takes time in proportion to the bytes, and counts as part of beta.
    """

    latency: float
    seconds_per_byte: float
    error: float = 0.0  # the largest relative one of the fit
    short_bytes: int = SHORT_BYTES  # messages up to here are summed by recursive doubling

    def seconds(self, ranks: int, nbytes: float) -> float:
        """Of an allreduce."""
        exchanges, sent_bytes = cost_of(ranks, nbytes, self.short_bytes)
        return exchanges * self.latency + sent_bytes * self.seconds_per_byte


@dataclass(frozen=True)
class Interconnect:
    """What connects ranks: a ``Line`` for each way of summing, ``WAITING`` and ``BESIDE``."""

    name: str
    lines: Mapping[str, Line]
    is_measured: bool = False

    def line(self, way: str) -> Line:
        """Return the line of ``way``, or the other one if only that was measured."""
        return self.lines.get(way) or next(iter(self.lines.values()))

    def describe(self) -> str:
        """Return latency and bandwidth in words, with the error of the fit."""
        words = []
        for way, line in self.lines.items():
            beta = line.seconds_per_byte
            bandwidth = f"{8e-6 / beta:,.0f} Mbit/s" if beta else "any bandwidth"
            fit = f" (fit within {line.error:.0%})" if self.is_measured else ""
            words.append(f"{WAY_NAMES[way]} {line.latency * 1e3:.3f} ms, {bandwidth}{fit}")
        return "; ".join(words)


def parse_interconnect(text: str) -> Interconnect:
    """Read the value of ``--interconnect``, numbers or a file; ``InputError`` if it is neither."""
    if "=" not in text:
        return read_interconnect(Path(text))

    def number(name: str, units: Mapping[str, float]) -> float:
        found = re.fullmatch(
            rf"(\d+\.?\d*|\.\d+)(e[+-]?\d+)? ?({'|'.join(units)})?(/s)?", values[name].lower()
        )
        value = float(found[1] + (found[2] or "")) * units.get(found[3], 1.0) if found else math.inf
        if value == math.inf:
            raise InputError(
                f"--interconnect {text!r}: {values[name]!r} is not a number with a unit of"
                f" {', '.join(units)}: {USAGE}"
            )
        return value

    words = [word.partition("=") for word in text.split(",")]
    values = {name.strip(): value.strip() for name, _, value in words}
    if values.keys() != {"latency", "bandwidth"} or len(words) != 2:
        raise InputError(f"--interconnect {text!r} is not a latency and a bandwidth: {USAGE}")
    latency, bandwidth = number("latency", SECONDS), number("bandwidth", BITS)
    if not bandwidth:
        raise InputError(f"--interconnect {text!r}: the bandwidth must be above 0: {USAGE}")
    # With overlap, every exchange waits until the thread that sums polls again.
    latencies = {WAITING: latency, BESIDE: latency + SECONDS_BETWEEN_POLLS}
    lines = {way: Line(seconds, 8 / bandwidth) for way, seconds in latencies.items()}
    return Interconnect(f"{values['latency']}, {values['bandwidth']}", lines)


def read_interconnect(path: Path) -> Interconnect:
    """Fit an interconnect to the test in a file; ``InputError`` if it is not a complete one."""
    try:
        table = json.loads(read_bytes(path, follow=True))
        if table["kind"] not in KINDS:
            raise TypeError("it is another kind of file")
        return fit_interconnect(from_json(SumTimes, table), path.stem)
    except InputError:
        raise
    except (OSError, KeyError, TypeError, ArithmeticError, ValueError) as error:
        problem = f"is not an interconnect test ({error})"
        if isinstance(error, OSError):
            problem = f"cannot be read ({error.strerror})"
        raise InputError(f"--interconnect {str(path)!r} {problem}: {USAGE}") from error


def fit_interconnect(times: SumTimes, name: str) -> Interconnect:
    """Fit a line to each way of summing; ``InputError`` if too few sizes were measured."""
    lines = {way: fit_line(rows, times.world_size, name) for way, rows in times.rows.items()}
    if not lines:
        raise InputError(f"the interconnect test {name} needs at least 2 ranks: measure it again")
    return Interconnect(name, lines, is_measured=True)


def fit_line(rows: Sequence[Sequence[float]], ranks: int, name: str = "") -> Line:
    """Fit latency and seconds per byte to (bytes, seconds) of sums over ``ranks``.

    By least squares of relative errors, neither below 0, with the best of ``THRESHOLDS`` between
    short and long messages.
    """
    if len(rows) < FEWEST_ROWS:
        raise InputError(
            f"the interconnect test {name} has {len(rows)} sizes, and needs {FEWEST_ROWS}: measure"
            " for longer (python -m distcnn.scaling.interconnect_test --seconds 30)"
        )
    fits = []
    for threshold in THRESHOLDS:
        costs = np.array([cost_of(ranks, nbytes, threshold) for nbytes, _ in rows])
        terms = costs / np.array([[seconds] for _, seconds in rows])
        found = np.linalg.lstsq(terms, np.ones(len(rows)), rcond=None)[0]
        if found.min() < 0:
            one = int(found.argmax())
            found = np.zeros(2)
            found[one] = max(0.0, terms[:, one].sum() / (terms[:, one] @ terms[:, one]))
        distances = np.abs(terms @ found - 1)
        line = Line(float(found[0]), float(found[1]), float(distances.max()), threshold)
        fits.append((round(float(np.mean(distances**2)), 9), line))  # equal fits are a tie
    return min(fits, key=lambda fit: fit[0])[1]

"""All that is predicted for one command: for each mode and network a row of numbers of ranks; and
what was measured, beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from distcnn.errors import InputError
from distcnn.scaling.points import STRONG, Point
from distcnn.scaling.prediction.calibration import Calibration, ranks_a_host
from distcnn.scaling.prediction.interconnect import Network
from distcnn.scaling.prediction.options import Wanted
from distcnn.scaling.prediction.step_time import Place, Prediction, predict
from distcnn.scaling.summary import Summary
from distcnn.scaling.sweep_directory import Record


@dataclass(frozen=True)
class Series:
    """One mode between one network's hosts; ``network`` is None where all ranks lie on one host."""

    mode: str
    network: Network | None
    base: Prediction
    """On the smallest number of ranks that was measured: what efficiency is against."""
    predictions: list[Prediction]
    beyond: list[int]
    """Numbers of ranks for which there are too few shards."""

    def efficiency(self, of: Prediction) -> float:
        """Images a second of each rank, over those of each rank of the base."""
        return (
            of.images_per_second
            / of.place.ranks
            / (self.base.images_per_second / self.base.place.ranks)
        )


@dataclass(frozen=True)
class Compared:
    """A measured point beside what is predicted for it."""

    point: Point
    hosts: int
    calibrated: bool
    """Whether the calibration saw it: then it proves nothing."""
    measured_seconds: float
    predicted: Prediction

    @property
    def error(self) -> float:
        """The prediction's, as a fraction of what was measured."""
        return self.predicted.step_seconds / self.measured_seconds - 1


@dataclass(frozen=True)
class Projection:
    """Everything. ``ranks_of_host`` is how many ranks fill a host."""

    calibration: Calibration
    ranks_of_host: int
    series: list[Series]
    compared: list[Compared]


def project(
    calibration: Calibration, points: Sequence[Point], wanted: Wanted, networks: Sequence[Network]
) -> Projection:
    """Predict. ``InputError`` where a network or a calibration is missing."""
    calibration = replace(calibration, train_examples=wanted.examples or calibration.train_examples)
    of_host = wanted.ranks_per_host or max(calibration.shards)
    known: list[Network | None] = [*networks] or [calibration.between]
    smallest = [
        next(each for each in points if each.mode == mode)
        for mode in dict.fromkeys(each.mode for each in points)
    ]
    series = [
        _series(calibration, first, wanted, of_host, network)
        for first in smallest
        for network in known
    ]
    if all(not each.predictions for each in series):
        raise InputError(
            f"--predict {wanted.ranks[0]}: strong scaling has {series[0].base.place.num_shards}"
            f" shards, and each rank needs at least one: say --predict-shards {wanted.ranks[-1]} (a"
            " larger batch, so another training), or measure with --mode weak"
        )
    return Projection(calibration, of_host, series, [])


def _series(
    calibration: Calibration, first: Point, wanted: Wanted, of_host: int, network: Network | None
) -> Series:
    """``first`` is the smallest point of its mode."""
    strong = first.mode == STRONG
    of_rank = max(1, first.num_shards // first.ranks)

    def place(ranks: int) -> Place:
        return Place(
            ranks, of_host, (wanted.num_shards or first.num_shards) if strong else of_rank * ranks
        )

    fitting = [each for each in map(place, wanted.ranks) if each.num_shards >= each.ranks]
    base = predict(calibration, place(first.ranks), network)
    found = [predict(calibration, each, network) for each in fitting]
    return Series(
        first.mode,
        network,
        base,
        found,
        [each for each in wanted.ranks if place(each).num_shards < each],
    )


def compare(
    calibration: Calibration, records: Sequence[Record], summary: Summary
) -> list[Compared]:
    """All points that have a result, but for those whose network is not known."""
    found = []
    for row in summary.rows:
        results = [
            each
            for each in records
            if each.result
            and (each.measurement.point.mode, each.measurement.point.ranks) == (row.mode, row.ranks)
        ]
        if not results or row.step_seconds is None:
            continue
        point, result = results[0].measurement.point, results[0].result
        assert result is not None
        hosts = len(set(result["hosts"]))
        place = Place(point.ranks, ranks_a_host(result), point.num_shards)
        if hosts > 1 and calibration.between is None:
            continue
        try:
            predicted = predict(calibration, place, calibration.between, result["flags"]["overlap"])
        except InputError:
            continue
        found.append(
            Compared(point, hosts, point.ranks in calibration.ranks, row.step_seconds, predicted)
        )
    return found

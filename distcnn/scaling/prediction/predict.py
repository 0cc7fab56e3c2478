"""All predictions of one command: for each mode and interconnect a table of numbers of ranks, and
the measured points for comparison.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distcnn.errors import InputError
from distcnn.scaling.points import STRONG, Point
from distcnn.scaling.prediction.calibration import Calibration
from distcnn.scaling.prediction.interconnect import Interconnect
from distcnn.scaling.prediction.step_time import Prediction, predict
from distcnn.scaling.result import GROUPS
from distcnn.scaling.summary import Row
from distcnn.system.wording import counted, plural, printable

KIND = "distcnn.scaling.prediction"


@dataclass(frozen=True)
class Series:
    """One mode with one interconnect between the hosts.

    Attributes:
        interconnect: None if no ranks are on different hosts.
        base: on the smallest number of ranks that was measured; efficiency is relative to it.
        predictions: in ascending order of ranks; in strong scaling up to the number of shards.
    """

    mode: str
    interconnect: Interconnect | None
    base: Prediction
    predictions: list[Prediction]

    @property
    def name(self) -> str:
        """Of the interconnect."""
        return printable(self.interconnect.name) if self.interconnect else "one host"

    def efficiency(self, prediction: Prediction) -> float:
        """Images per second and rank, relative to the base."""
        speeds = [one.images_per_second / one.point.ranks for one in (prediction, self.base)]
        return speeds[0] / speeds[1]


@dataclass(frozen=True)
class Compared:
    """A measured point and its prediction.

    Attributes:
        is_calibrated: whether the point is part of the calibration and so proves nothing.
        error: of the prediction, as a fraction of the measured time.
    """

    point: Point
    hosts: int
    is_calibrated: bool
    measured_seconds: float
    predicted_seconds: float
    error: float


@dataclass(frozen=True)
class Projection:
    """Everything that is predicted."""

    calibration: Calibration
    ranks_per_host: int
    series: list[Series]
    compared: list[Compared]

    def to_json(self) -> dict[str, Any]:
        """A table for ``prediction.json``."""
        return {"kind": KIND, **dataclasses.asdict(self)}


def project(
    calibration: Calibration,
    rows: Sequence[Row],
    ranks: Sequence[int],
    ranks_per_host: int,
    interconnects: Sequence[Interconnect],
) -> Projection:
    """Make all predictions.

    Args:
        calibration: of the machine and the model.
        rows: the points of the sweep.
        ranks: numbers of ranks to predict.
        ranks_per_host: 0 for the measured number.
        interconnects: between hosts; if empty, the measured one.

    Raises:
        InputError: an interconnect or a part of the calibration is missing.
    """
    per_host = ranks_per_host or max(calibration.shards)
    between: Sequence[Interconnect | None] = interconnects or [calibration.between]
    smallest: dict[str, Point] = {}
    for row in rows:
        smallest.setdefault(row.point.mode, row.point)
    series = []
    for mode, base in smallest.items():
        of_rank = base.num_shards // base.ranks
        points = [
            Point(
                mode,
                count,
                base.num_shards if mode == STRONG else of_rank * count,
                base.microbatch_size,
            )
            for count in ranks
        ]
        for interconnect in between:
            predicted = [
                predict(calibration, point, per_host, interconnect)
                for point in [base, *points]
                if point.num_shards >= point.ranks
            ]
            series.append(Series(mode, interconnect, predicted[0], predicted[1:]))
    return Projection(calibration, per_host, series, list(_compare(calibration, rows)))


def _compare(calibration: Calibration, rows: Sequence[Row]) -> Iterator[Compared]:
    """Yield the measured points, except on hosts whose interconnect was not measured."""
    for point, measured in ((row.point, row.measured) for row in rows):
        if measured is None:
            continue
        try:
            predicted = predict(
                calibration, point, measured.ranks_per_host, calibration.between
            ).step_seconds
        except InputError:  # these sums were not measured
            continue
        yield Compared(
            point,
            measured.hosts,
            point.ranks in calibration.ranks,
            measured.step_seconds,
            predicted,
            predicted / measured.step_seconds - 1,
        )


def as_text(projection: Projection) -> Iterator[str]:
    """Yield the tables, line by line."""
    calibration = projection.calibration
    yield (
        f"predicted {printable(calibration.model)}, {calibration.reduction} sum,"
        f" {counted(projection.ranks_per_host, 'rank')} per host; calibrated on"
        f" {' and '.join(map(str, calibration.ranks))} {plural(calibration.ranks[-1], 'rank')}"
    )
    for count, interconnect in calibration.on_host.items():
        yield f"one host  {counted(count, 'rank')}: {interconnect.describe()}"
    for name, between in {one.name: one.interconnect for one in projection.series}.items():
        if between:
            yield f"network   {name}: {between.describe()}"
    for series in projection.series:
        base = counted(series.base.point.ranks, "rank")
        yield ""
        yield f"{series.mode} scaling, {series.name}; efficiency relative to {base}"
        yield (
            f"{'ranks':>6}{'hosts':>6}{'shards':>8}{'step ms':>10}{'images/s':>13}"
            f"{'efficiency':>11}{'compute':>9}{calibration.reduction + ' sum':>11}{'comm.':>8}"
            f"{'waiting':>8}{'data':>7}"
        )
        for one in series.predictions:
            shares = (
                f"{100 * one.shares[group]:>{width}.1f}"
                for group, width in zip(GROUPS, (9, 11, 8, 8, 7), strict=True)
            )
            yield (
                f"{one.point.ranks:>6}{one.hosts:>6}{one.point.num_shards:>8}"
                f"{one.step_seconds * 1e3:>10.2f}{one.images_per_second:>13,.0f}"
                f"{series.efficiency(one):>11.1%}{''.join(shares)}"
            )
    yield ""
    yield (
        f"{'mode':<7}{'ranks':>6}{'hosts':>6}{'predicted ms':>14}{'measured ms':>13}{'error':>8}"
    )
    for two in projection.compared:
        yield (
            f"{two.point.mode:<7}{two.point.ranks:>6}{two.hosts:>6}"
            f"{two.predicted_seconds * 1e3:>14.2f}{two.measured_seconds * 1e3:>13.2f}"
            f"{two.error:>+8.1%}{'  (calibrated on it)' if two.is_calibrated else ''}"
        )

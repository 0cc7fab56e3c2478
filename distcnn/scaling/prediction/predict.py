"""All predictions of one command: for each mode and interconnect a table of numbers of ranks, and
the measured points beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distcnn.errors import InputError
from distcnn.scaling.points import WEAK, Point
from distcnn.scaling.prediction.calibration import Calibration
from distcnn.scaling.prediction.interconnect import Interconnect
from distcnn.scaling.prediction.step_time import Place, Prediction, predict
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
        return self.interconnect.name if self.interconnect else "one host"

    def efficiency(self, prediction: Prediction) -> float:
        """Images per second and rank, relative to the base."""
        speeds = [one.images_per_second / one.place.ranks for one in (prediction, self.base)]
        return speeds[0] / speeds[1]


@dataclass(frozen=True)
class Compared:
    """A measured point and what is predicted for it.

    Attributes:
        is_calibrated: whether the point is part of the calibration and so proves nothing.
    """

    point: Point
    hosts: int
    is_calibrated: bool
    measured_seconds: float
    predicted_seconds: float

    @property
    def error(self) -> float:
        """Of the prediction, as a fraction of what was measured."""
        return self.predicted_seconds / self.measured_seconds - 1


@dataclass(frozen=True)
class Projection:
    """Everything that is predicted."""

    calibration: Calibration
    ranks_per_host: int
    series: list[Series]
    compared: list[Compared]

    def to_json(self) -> dict[str, Any]:
        """A table for ``prediction.json``."""
        return {
            "kind": KIND,
            "calibration": dataclasses.asdict(self.calibration),
            "ranks_per_host": self.ranks_per_host,
            "series": [
                {
                    "mode": series.mode,
                    "interconnect": series.interconnect and dataclasses.asdict(series.interconnect),
                    "predictions": [
                        {
                            **dataclasses.asdict(prediction),
                            "images_per_second": prediction.images_per_second,
                            "efficiency": series.efficiency(prediction),
                            "bottleneck": prediction.bottleneck,
                        }
                        for prediction in series.predictions
                    ],
                }
                for series in self.series
            ],
            "compared": [
                {**dataclasses.asdict(compared), "error": compared.error}
                for compared in self.compared
            ],
        }


def project(
    calibration: Calibration,
    rows: Sequence[Row],
    ranks: Sequence[int],
    ranks_per_host: int,
    interconnects: Sequence[Interconnect],
) -> Projection:
    """Predict all that is wanted.

    Args:
        calibration: of the machine and the model.
        rows: the points of the sweep.
        ranks: numbers of ranks to predict.
        ranks_per_host: 0 for as many as were measured.
        interconnects: between hosts; if empty, the measured one.

    Raises:
        InputError: an interconnect or a part of the calibration is missing.
    """
    per_host = ranks_per_host or max(calibration.shards)
    smallest: dict[str, Point] = {}
    for row in rows:
        smallest.setdefault(row.point.mode, row.point)
    between: Sequence[Interconnect | None] = interconnects or [calibration.between]
    series = [
        _series(calibration, point, ranks, per_host, interconnect)
        for point in smallest.values()
        for interconnect in between
    ]
    return Projection(calibration, per_host, series, list(_compare(calibration, rows)))


def _series(
    calibration: Calibration,
    smallest: Point,
    ranks: Sequence[int],
    per_host: int,
    interconnect: Interconnect | None,
) -> Series:
    def at(count: int) -> Prediction:
        num_shards = smallest.num_shards
        if smallest.mode == WEAK:
            num_shards = max(1, num_shards // smallest.ranks) * count
        return predict(calibration, Place(count, per_host, num_shards), interconnect)

    predictions = [
        at(count) for count in ranks if smallest.mode == WEAK or count <= smallest.num_shards
    ]
    return Series(smallest.mode, interconnect, at(smallest.ranks), predictions)


def _compare(calibration: Calibration, rows: Sequence[Row]) -> Iterator[Compared]:
    """Yield the measured points, except on hosts whose interconnect was not measured."""
    for row in rows:
        if row.measured and (row.measured.hosts == 1 or calibration.between):
            place = Place(row.point.ranks, row.measured.ranks_per_host, row.point.num_shards)
            try:
                predicted = predict(calibration, place, calibration.between)
            except InputError:  # sums on one host were not measured
                continue
            yield Compared(
                row.point,
                row.measured.hosts,
                row.point.ranks in calibration.ranks,
                row.measured.step_seconds,
                predicted.step_seconds,
            )


def as_text(projection: Projection) -> str:
    """Return the tables for the screen."""
    calibration = projection.calibration
    ranks = " and ".join(map(str, calibration.ranks))
    lines = [
        f"predicted {printable(calibration.model)}, {calibration.reduction} sum, microbatches of"
        f" {calibration.microbatch_size}, {counted(projection.ranks_per_host, 'rank')} per host;"
        f" calibrated on {ranks} {plural(calibration.ranks[-1], 'rank')}"
    ]
    for count, interconnect in calibration.on_host.items():
        lines.append(f"one host  {counted(count, 'rank')}: {interconnect.describe()}")
    described = {series.name: series.interconnect for series in projection.series}
    for name, between in described.items():
        if between:
            lines.append(f"network   {printable(name)}: {between.describe()}")
    for series in projection.series:
        lines += ["", *_table(series, calibration.reduction)]
    if projection.compared:
        lines += ["", *_comparison(projection.compared)]
    return "\n".join(lines)


def _table(series: Series, reduction: str) -> Iterator[str]:
    base = counted(series.base.place.ranks, "rank")
    yield f"{series.mode} scaling, {printable(series.name)}; efficiency relative to {base}"
    yield (
        f"{'ranks':>6}{'hosts':>6}{'shards':>8}{'step ms':>10}{'images/s':>13}{'efficiency':>11}"
        f"{'compute':>9}{reduction + ' sum':>11}{'comm.':>8}{'waiting':>8}{'data':>7}  bottleneck"
    )
    for prediction in series.predictions:
        place, step = prediction.place, prediction.step_seconds
        shares = (
            f"{100 * prediction.shares[group] / step:>{width}.1f}"
            for group, width in zip(GROUPS, (9, 11, 8, 8, 7), strict=True)
        )
        yield (
            f"{place.ranks:>6}{place.hosts:>6}{place.num_shards:>8}{step * 1e3:>10.2f}"
            f"{prediction.images_per_second:>13,.0f}{series.efficiency(prediction):>11.1%}"
            f"{''.join(shares)}  {prediction.bottleneck}"
        )


def _comparison(compared: Sequence[Compared]) -> Iterator[str]:
    yield f"{'mode':<7}{'ranks':>6}{'hosts':>6}{'predicted ms':>14}{'measured ms':>13}{'error':>8}"
    for one in compared:
        yield (
            f"{one.point.mode:<7}{one.point.ranks:>6}{one.hosts:>6}"
            f"{one.predicted_seconds * 1e3:>14.2f}{one.measured_seconds * 1e3:>13.2f}"
            f"{one.error:>+8.1%}{'  (calibrated on it)' if one.is_calibrated else ''}"
        )

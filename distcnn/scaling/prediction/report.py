"""A prediction in words and numbers, on a screen and for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from distcnn.scaling.prediction.advice import advise
from distcnn.scaling.prediction.predict import Compared, Projection, Series
from distcnn.scaling.prediction.step_time import Prediction
from distcnn.system.wording import counted, plural, printable

KIND = "distcnn.scaling.prediction"
ASSUMPTIONS = (
    (
        "every rank computes as fast as those that were measured, with as many ranks beside it on"
        " its host as were measured"
    ),
    (
        "both directions of an exchange go at once, no two pairs of hosts share a link, all ranks"
        " reach a sum at the same time"
    ),
    (
        "sums over many hosts are made as MPICH makes them: on each host, then between hosts"
        " (algorithm above)"
    ),
    (
        "left out: file systems, starting ranks, checks and checkpoints at an epoch's end, and the"
        " lateness of the slowest rank: the column 'late' is what it would add, did all ranks vary"
        " independently as the measured one did"
    ),
)


def as_text(projection: Projection) -> str:
    """All of it, in lines."""
    calibration = projection.calibration
    reduction = calibration.reduction
    lines = [
        f"predicted {printable(calibration.model)}, {reduction} sum, microbatches of"
        f" {calibration.microbatch_size}, {counted(projection.ranks_of_host, 'rank')} on a host;"
        f" calibrated on {' and '.join(map(str, calibration.ranks))}"
        f" {plural(calibration.ranks[-1], 'rank')}"
    ]
    for ranks, each in calibration.on_host.items():
        lines.append(f"one host  {counted(ranks, 'rank')}: {each.describe()}")
    for name, network in {
        each.network.name: each.network for each in projection.series if each.network
    }.items():
        lines.append(f"network   {name}: {network.describe()}")
    for series in projection.series:
        lines += ["", *_table(series, reduction)]
    if projection.compared:
        lines += ["", *_comparison(projection.compared)]
    lines += ["", *(f"advice    {line}" for line in advise(projection))]
    lines += ["", *(f"assumed   {line}" for line in ASSUMPTIONS)]
    return "\n".join(lines)


def _table(series: Series, reduction: str) -> Iterator[str]:
    where = f"between hosts {series.network.name}" if series.network else "one host"
    base = series.base.place.ranks
    yield f"{series.mode} scaling, {where}; efficiency against {counted(base, 'rank')}"
    yield (
        f"{'ranks':>6}{'hosts':>6}{'shards':>8}{'step ms':>10}{'images/s':>13}{'efficiency':>11}{'compute':>9}{reduction + ' sum':>11}{'comm.':>8}{'waiting':>8}{'data':>7}{'late ms':>9}"  # noqa: E501
        "  bottleneck"
    )
    for each in series.predictions:
        place = each.place
        yield (
            f"{place.ranks:>6}{place.hosts:>6}{place.num_shards:>8}{each.step_seconds * 1e3:>10.2f}{each.images_per_second:>13,.0f}{series.efficiency(each):>11.1%}{_percent(each, each.compute):>9}{_percent(each, each.local_sum):>11}{_percent(each, each.communication):>8}{_percent(each, each.waiting):>8}{_percent(each, each.data):>7}{each.late * 1e3:>9.1f}"  # noqa: E501
            f"  {each.bottleneck}"
        )
    if series.beyond:
        yield f"{'more':>6}  ranks than shards"


def _percent(prediction: Prediction, seconds: float) -> str:
    return f"{100 * seconds / prediction.step_seconds:.1f}"


def _comparison(compared: list[Compared]) -> Iterator[str]:
    yield f"{'mode':<7}{'ranks':>6}{'hosts':>6}{'predicted ms':>14}{'measured ms':>13}{'error':>8}"
    for each in compared:
        note = "  (calibrated on it)" if each.calibrated else ""
        yield (
            f"{each.point.mode:<7}{each.point.ranks:>6}{each.hosts:>6}{each.predicted.step_seconds * 1e3:>14.2f}"  # noqa: E501
            f"{each.measured_seconds * 1e3:>13.2f}{each.error:>+8.1%}{note}"
        )


def as_table(projection: Projection) -> dict[str, Any]:
    """For JSON."""
    return {
        "kind": KIND,
        "calibration": dataclasses.asdict(projection.calibration),
        "ranks_per_host": projection.ranks_of_host,
        "series": [
            {
                "mode": series.mode,
                "network": series.network.name if series.network else None,
                "network_fit": dataclasses.asdict(series.network) if series.network else None,
                "base": _prediction(series, series.base),
                "predictions": [_prediction(series, each) for each in series.predictions],
                "more_ranks_than_shards": series.beyond,
            }
            for series in projection.series
        ],
        "compared": [
            {
                **{name: getattr(each.point, name) for name in ("mode", "ranks", "num_shards")},
                **{"hosts": each.hosts, "calibrated": each.calibrated, "error": each.error},
                **{
                    "measured_seconds": each.measured_seconds,
                    "predicted_seconds": each.predicted.step_seconds,
                },
            }
            for each in projection.compared
        ],
        "advice": advise(projection),
        "assumptions": list(ASSUMPTIONS),
    }


def _prediction(series: Series, each: Prediction) -> dict[str, Any]:
    return {
        "ranks": each.place.ranks,
        "hosts": each.place.hosts,
        "num_shards": each.place.num_shards,
        **{
            field.name: getattr(each, field.name)
            for field in dataclasses.fields(each)
            if field.name != "place"
        },
        "images_per_second": each.images_per_second,
        "efficiency": series.efficiency(each),
        "bottleneck": each.bottleneck,
    }

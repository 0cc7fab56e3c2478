"""The picture of a prediction: the sweep's, with a curve for each network beside what was
measured.
"""

from __future__ import annotations

from distcnn.scaling.plot import Bar, Content, Curve
from distcnn.scaling.prediction.predict import Projection
from distcnn.scaling.prediction.step_time import Prediction
from distcnn.scaling.summary import Summary

COLOURS = ("#1f5fa8", "#c25a11", "#3a7d44", "#7b4b94", "#8a8f98", "#d4a017", "#2a9d9d", "#c44e7b")
MEASURED, MARKERS = "#222222", ("o", "s")
MOST_BARS = 4
"""Panels of bars: the first networks'."""


def content_of(projection: Projection, summary: Summary) -> Content:
    """Speed and efficiency of all that is predicted and measured; where the time goes, for the
    first networks.
    """
    calibration = projection.calibration
    content = Content(
        f"{calibration.model}, {calibration.reduction} sum: predicted (lines) from"
        f" {' and '.join(map(str, calibration.ranks))} ranks; measured (marks)",
        calibration.reduction,
    )
    several_modes = len({each.mode for each in projection.series}) > 1
    for number, series in enumerate(each for each in projection.series if each.predictions):
        colour, ranks = (
            COLOURS[number % len(COLOURS)],
            [each.place.ranks for each in series.predictions],
        )
        network = series.network.name if series.network else "one host"
        label = f"{series.mode}, {network}" if several_modes else network
        content.speed.append(
            Curve(
                label,
                colour,
                ranks,
                [each.images_per_second for each in series.predictions],
                line="--",
            )
        )
        content.efficiency.append(
            Curve(
                label,
                colour,
                ranks,
                [series.efficiency(each) for each in series.predictions],
                line="--",
            )
        )
        if len(content.bars) < MOST_BARS:
            content.bars[label] = [_bar(each) for each in series.predictions]
    for mode, marker in zip(dict.fromkeys(row.mode for row in summary.rows), MARKERS, strict=False):
        rows = [
            row
            for row in summary.rows
            if row.mode == mode and row.images_per_second and row.efficiency
        ]
        if rows:
            ranks = [row.ranks for row in rows]
            content.speed.append(
                Curve(
                    f"{mode}, measured",
                    MEASURED,
                    ranks,
                    [row.images_per_second or 0.0 for row in rows],
                    line=marker,
                )
            )
            content.efficiency.append(
                Curve(
                    f"{mode}, measured",
                    MEASURED,
                    ranks,
                    [row.efficiency or 0.0 for row in rows],
                    line=marker,
                )
            )
    return content


def _bar(prediction: Prediction) -> Bar:
    parts = ("compute", "local_sum", "communication", "waiting", "data")
    return Bar(
        prediction.place.ranks,
        {part: getattr(prediction, part) / prediction.step_seconds for part in parts},
        prediction.step_seconds,
    )

"""From a finished sweep to its prediction: calibrate, predict, write ``prediction.json`` and the
picture.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from distcnn.config import Config
from distcnn.datasets import read_info
from distcnn.models import build_model
from distcnn.plotting import has_matplotlib
from distcnn.scaling.options import Settings
from distcnn.scaling.plot import draw
from distcnn.scaling.prediction.calibration import Calibration, calibrate
from distcnn.scaling.prediction.interconnect import parse_network
from distcnn.scaling.prediction.options import Wanted
from distcnn.scaling.prediction.plot import content_of
from distcnn.scaling.prediction.predict import Projection, compare, project
from distcnn.scaling.prediction.report import as_table, as_text
from distcnn.scaling.summary import Summary
from distcnn.scaling.sweep_directory import Record, Records


def predict_all(records: Records, found: Sequence[Record], summary: Summary, wanted: Wanted) -> str:
    """Everything, in lines; the files are written. ``InputError`` says what is missing."""
    calibration = calibrated(records.settings, found)
    networks = [parse_network(each, calibration.add_seconds_per_byte) for each in wanted.networks]
    projection = project(calibration, records.settings.points, wanted, networks)
    projection.compared.extend(compare(calibration, found, summary))
    return "\n".join([as_text(projection), "", *write(records, projection, summary)])


def calibrated(settings: Settings, found: Sequence[Record]) -> Calibration:
    """From the records; the network's layers are looked up anew, nothing of it is computed."""
    config = Config(**settings.flags)
    dataset = read_info(config.data)
    plan = build_model(config.model, dataset.image_shape, dataset.classes, 1)
    return calibrate(
        found,
        list(zip(plan.model.names, plan.parameters.layer_starts, strict=True)),
        plan.parameters.values.size,
    )


def write(records: Records, projection: Projection, summary: Summary) -> list[str]:
    """A line on each file, or on why there is none."""
    written = records.write("prediction.json", json.dumps(as_table(projection), indent=1) + "\n")
    if not has_matplotlib():
        return [
            f"results   {written}",
            (
                "picture   none without matplotlib: pip install matplotlib, then run the same"
                " command again"
            ),
        ]
    picture = records.write("prediction.png", draw(content_of(projection, summary)))
    return [f"results   {written}", f"picture   {picture}"]

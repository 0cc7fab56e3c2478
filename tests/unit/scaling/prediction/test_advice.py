"""What is advised, and the report around it."""

from __future__ import annotations

from distcnn.scaling.prediction.advice import advise
from distcnn.scaling.prediction.interconnect import Line, Network
from distcnn.scaling.prediction.options import Wanted
from distcnn.scaling.prediction.predict import Projection, project
from distcnn.scaling.prediction.report import as_table, as_text
from distcnn.scaling.prediction.step_time import Place, predict
from tests.support.prediction_cases import calibration, network_of
from tests.support.sweep_cases import strong, weak


def projected(network: Network, *ranks: int, shards: int = 0) -> Projection:
    return project(
        calibration(),
        [weak(1) if shards == 0 else strong(1, shards)],
        Wanted(ranks, ranks_per_host=1),
        [network],
    )


def test_a_good_network_is_praised() -> None:
    first, second = advise(projected(network_of(Line(1e-6, 1e-11)), 2, 4, 8))
    assert first == "weak, ours: efficiency stays above 80% up to 8 ranks"
    assert "on 8 ranks the bottleneck is computing itself" in second


def test_a_slow_network_needs_more_shards_on_each_rank() -> None:
    projection = projected(network_of(Line(0.05, 1e-12)), 2, 4, 8)
    lines = advise(projection)
    assert lines[0].startswith("weak, ours: efficiency is nowhere above 80%, nowhere above 50%")
    assert "the bottleneck is latency" in lines[1]
    [needs] = [each for each in lines if "would need" in each]
    count = int(needs.split("would need ")[1].split()[0])
    for shards, enough in ((count, True), (count // 2, False)):
        there = predict(
            projection.calibration, Place(8, 1, 8 * shards), projection.series[0].network
        )
        alone = predict(projection.calibration, Place(1, 1, shards), None)
        assert (alone.step_seconds >= 0.8 * there.step_seconds) == enough


def test_uneven_shards_and_too_few() -> None:
    lines = advise(projected(network_of(Line(1e-6, 1e-11)), 3, 16, shards=8))
    assert any("8 shards do not divide by 3 ranks: --num-shards 9" in each for each in lines)
    assert any("16 ranks need as many shards, and there are 8" in each for each in lines)


def test_overlap_where_it_helps() -> None:
    machine = calibration(overlap="off")
    lines = advise(
        project(machine, [weak(1)], Wanted((4,), ranks_per_host=1), [network_of(Line(1e-3, 2e-8))])
    )
    assert any("--overlap on would make a step on 4 ranks" in each for each in lines)


def test_the_report_has_it_all() -> None:
    projection = projected(network_of(Line(1e-3, 8e-9)), 2, 4)
    text, table = as_text(projection), as_table(projection)
    assert "calibrated on 1 and 2 ranks" in text
    assert (
        "network   ours: waiting 1.000 ms, 1,000 Mbit/s, recursive doubling up to 2,048 bytes, then"
        " Rabenseifner; beside" in text
    )
    assert "assumed   " in text
    assert [each["ranks"] for each in table["series"][0]["predictions"]] == [2, 4]
    assert table["series"][0]["predictions"][1]["bottleneck"] in text

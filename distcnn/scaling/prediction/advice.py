"""What a prediction advises: how many ranks are worth it, what holds back, and which flags would
help. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from distcnn.scaling.points import STRONG
from distcnn.scaling.prediction.calibration import Calibration
from distcnn.scaling.prediction.predict import Projection, Series
from distcnn.scaling.prediction.step_time import Place, predict
from distcnn.system.wording import counted

GOOD, HALF = 0.8, 0.5
"""Efficiencies up to which ranks are worth it: at little loss, or at all."""
MOST_SHARDS_A_RANK = 1024
GAIN = 0.02
"""A smaller one is not worth a line."""
REMEDIES = {
    "latency": (
        "latency: each sum waits for its messages, of which there are about 2 log2(hosts): a larger"
        " batch has fewer steps"
    ),
    "bandwidth": (
        "bandwidth: the bytes of the gradient's sum: a larger batch has fewer steps, --reduction"
        " fast half the bytes (other bits)"
    ),
    "imbalance": "imbalance: some ranks have more shards than others, and all wait for them",
    "local sum": "adding up gradients on each rank: a larger --microbatch-size makes fewer of them",
    "training set": (
        "the training set: a step has room for more than twice as many examples as there are, the"
        " rest is padding"
    ),
    "computing": "computing itself: nothing stands in the way of more ranks yet",
}


def advise(projection: Projection) -> list[str]:
    """Lines, for each mode and network."""
    return [line for each in projection.series for line in _of_series(projection.calibration, each)]


def _of_series(calibration: Calibration, series: Series) -> Iterator[str]:
    if not series.predictions:
        return
    start = f"{series.mode}, {series.network.name if series.network else 'one host'}: "
    good, half = (_most_ranks(series, least) for least in (GOOD, HALF))
    last = series.predictions[-1]
    if good == last.place.ranks:
        yield f"{start}efficiency stays above {GOOD:.0%} up to {counted(good, 'rank')}"
    else:
        yield f"{start}efficiency is {_up_to(GOOD, good)}, {_up_to(HALF, half)}"
    yield (
        f"{start}on {counted(last.place.ranks, 'rank')} the bottleneck is"
        f" {REMEDIES[last.bottleneck]}"
    )
    fastest = max(series.predictions, key=lambda each: each.images_per_second)
    if fastest is not last:
        yield (
            f"{start}fastest on {counted(fastest.place.ranks, 'rank')}: more make each step slower"
        )
    yield from (
        start + line for line in (*_shards(calibration, series), *_overlap(calibration, series))
    )
    if series.beyond:
        yield (
            f"{start}{_ranks(series.beyond)} ranks need as many shards, and there are"
            f" {last.place.num_shards:,}: --num-shards (here --predict-shards) makes more, and so a"
            " larger batch: another training, other bits"
        )


def _ranks(numbers: list[int]) -> str:
    return f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,} and more"


def _up_to(least: float, ranks: int) -> str:
    return (
        f"above {least:.0%} up to {counted(ranks, 'rank')}"
        if ranks
        else f"nowhere above {least:.0%}"
    )


def _most_ranks(series: Series, least: float) -> int:
    return max(
        (each.place.ranks for each in series.predictions if series.efficiency(each) >= least),
        default=0,
    )


def _shards(calibration: Calibration, series: Series) -> Iterator[str]:
    """A number of shards that divides evenly, or makes the largest number of ranks efficient."""
    uneven = [each.place for each in series.predictions if each.place.num_shards % each.place.ranks]
    if uneven and series.mode == STRONG:
        place = uneven[-1]
        yield (
            f"{place.num_shards:,} shards do not divide by {place.ranks:,} ranks: --num-shards"
            f" {place.most_shards * place.ranks:,} would add to the batch without making a step"
            " longer (another batch: another training, other bits)"
        )
    last = series.predictions[-1]
    if series.efficiency(last) < GOOD:
        count = shards_for(calibration, series, last.place, GOOD)
        if count:
            batch = count * last.place.ranks * calibration.microbatch_size
            more = (
                f", more than the {calibration.train_examples:,} training examples"
                if batch > calibration.train_examples
                else ""
            )
            yield (
                f"{GOOD:.0%} on {last.place.ranks:,} ranks would need {count} shards on each, or as"
                f" much larger a microbatch: a batch of {batch:,}{more} (another training, other"
                " bits)"
            )


def shards_for(calibration: Calibration, series: Series, place: Place, least: float) -> int:
    """The fewest shards a rank with which ``place`` computes at such an efficiency against one rank
    with as many; 0: none that is sensible.

    By shards a second, for the training set may have too few examples.
    """
    count = 1
    while count <= MOST_SHARDS_A_RANK:
        there = predict(calibration, replace(place, num_shards=count * place.ranks), series.network)
        alone = predict(calibration, replace(place, ranks=1, num_shards=count), series.network)
        if alone.step_seconds >= least * there.step_seconds:
            return count
        count *= 2
    return 0


def _overlap(calibration: Calibration, series: Series) -> Iterator[str]:
    """Where the flag would help; it changes no bit."""
    last = series.predictions[-1]
    seconds = {
        flag: predict(calibration, last.place, series.network, flag).step_seconds
        for flag in ("on", "off")
    }
    best = min(seconds, key=lambda flag: seconds[flag])
    gain = 1 - seconds[best] / last.step_seconds
    if gain > GAIN:
        yield (
            f"--overlap {best} would make a step on {counted(last.place.ranks, 'rank')} {gain:.0%}"
            " shorter, and change no bit"
        )

"""The flags of a prediction."""

from __future__ import annotations

import pytest

from distcnn.errors import InputError
from distcnn.scaling.prediction.options import Wanted, parse_ranks, take_flags


@pytest.mark.parametrize(
    ("text", "ranks"),
    [
        ("4", (4,)),
        ("8,4,4", (4, 8)),
        ("1,2,...,16", (1, 2, 4, 8, 16)),
        ("4,8,...,100", (4, 8, 16, 32, 64, 100)),
        ("10,15,...,30,64", (10, 15, 20, 25, 30, 64)),
    ],
)
def test_numbers_of_ranks(text: str, ranks: tuple[int, ...]) -> None:
    assert parse_ranks(text) == ranks


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "a",
        "...",
        "4,...,8",
        "8,4,...,64",
        "1,2,...",
        "4,8,...,x",
        "9999999",
        "1,2,...,...,4",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(InputError, match=r"--predict is .* such as 4,16,64 or 4,8,...,4096"):
        parse_ranks(text)


def test_flags_are_taken_out() -> None:
    wanted, others = take_flags(
        [
            "--ranks",
            "1,2",
            "--predict",
            "4,8",
            "--network",
            "a=1",
            "--network=b=2",
            "--model",
            "wide",
            "--predict-shards=8",
        ]
    )
    assert wanted == Wanted((4, 8), ("a=1", "b=2"), 0, 8)
    assert others == ["--ranks", "1,2", "--model", "wide"]
    assert take_flags(["--ranks", "1,2"]) == (None, ["--ranks", "1,2"])


def test_without_predict_they_mean_nothing() -> None:
    with pytest.raises(InputError, match=r"--network is about a prediction: say .* --predict 4,8"):
        take_flags(["--network", "latency=1ms,bandwidth=1Gbit"])
    with pytest.raises(InputError, match=r"--ranks-per-host is 0: it must be at least 1"):
        take_flags(["--predict", "4", "--ranks-per-host", "0"])
    with pytest.raises(InputError, match=r"--predict: expected one argument"):
        take_flags(["--predict"])

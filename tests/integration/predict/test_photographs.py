"""A network really trained on MNIST reads photographs of drawn digits."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import distcnn as dc
from tests.conftest import ROOT
from tests.support.photographs import STROKES, drawing, photograph

MNIST = ROOT / "data/mnist.h5"
pytestmark = pytest.mark.skipif(not MNIST.exists(), reason="data/mnist.h5 is not prepared")


@pytest.fixture(scope="module")
def network() -> dc.Network:
    result = dc.Trainer("lenet", num_shards=2, microbatch_size=32).fit(MNIST, max_steps=500)
    assert result.network is not None
    return result.network


PLACES = {
    "large": {"size": 400, "width": 30, "at": (200, 40)},
    "small, in a corner": {"size": 110, "width": 7, "at": (500, 30)},
    "thin pen": {"size": 250, "width": 5, "at": (150, 150)},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("paper", [{}, {"shadow": 0.4}, {"table": 60, "specks": 12}], ids=str)
def test_drawn_digits_are_read(
    place: str, paper: dict[str, float], network: dc.Network, tmp_path: Path
) -> None:
    for digit in STROKES:
        gray = photograph(drawing(digit, **PLACES[place]), seed=digit, **paper)  # type: ignore[arg-type]
        Image.fromarray(gray).convert("RGB").save(tmp_path / f"{digit}.jpg")
        Image.fromarray(255 - gray).save(tmp_path / f"{digit}-light.png")
    found = network.predict_files(tmp_path)
    pairs = zip(found.names, found.classes, strict=True)
    wrong = [f"{name} is {put}" for name, put in pairs if Path(name).name[0] != put]
    assert len(wrong) <= 2, wrong  # of 20
    assert any("strokes were cut out" in notice for notice in found.notices)
    assert any(notice.startswith("10 pictures inverted") for notice in found.notices)

"""The report on runs of the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcnn.report.__main__ import main
from tests.conftest import Launcher, MakeImageSet, as_flags


def test_it_reports_on_runs(
    serial: Launcher, image_set: MakeImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        serial.train(1, tmp_path / name, *as_flags(data=image_set(), model="mlp", epochs=2))
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "same weights" in (tmp_path / "a" / "report.html").read_text()
    assert "test accuracy" in capsys.readouterr().out

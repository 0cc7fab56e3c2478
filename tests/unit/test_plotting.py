"""Writing pictures: all or nothing, and without a display."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcnn import plotting
from distcnn.errors import InputError
from tests.support.limits import limited_file_size


def a_figure() -> plotting.Figure:
    figure = plotting.new_figure(2, 2)
    plotting.panels(figure, 1)[0].plot([1, 2])
    return figure


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
def test_a_full_disk_leaves_the_older_picture(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    plotting.save(a_figure(), path)
    older = path.read_bytes()
    with limited_file_size(1000), pytest.raises(InputError, match="cannot be written"):
        plotting.save(a_figure(), path)
    assert path.read_bytes() == older
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("mine")
    (tmp_path / "a.png").symlink_to(tmp_path / "text")
    plotting.save(a_figure(), tmp_path / "a.png")
    assert (tmp_path / "text").read_text() == "mine"

"""Each warning is printed once, whichever ranks it came from, and none is lost at a failure."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from distcnn.cli import rank_warnings
from distcnn.cli.rank_warnings import RankWarnings
from distcnn.distributed import Communicator
from distcnn.errors import TrainingError
from distcnn.spans import WRITE_METRICS, Span, listening


class FourRanks(Communicator):
    """Rank 0 of four, which gathers what a test says the others have."""

    def __init__(self) -> None:
        super().__init__()
        self.world_size, self.hosts = 4, ["node1", "node1", "node2", "node2"]
        self.others: list[list[str]] = [[], [], []]

    def gather(self, item: list[str]) -> list[list[str]]:  # type: ignore[override]
        others, self.others = self.others, [[], [], []]
        return [item, *others]


@pytest.fixture(autouse=True)
def shown_always() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


def lines_of(communicator: Communicator) -> tuple[RankWarnings, list[str]]:
    lines: list[str] = []
    return RankWarnings(communicator, lines.append), lines


def fail(found: RankWarnings, error: Exception) -> None:
    with found:
        warnings.warn("before the end", stacklevel=1)
        raise error


def test_one_process_prints_each_text_once_in_order() -> None:
    found, lines = lines_of(Communicator())
    with found:
        for text in ("first\n  and more", "second", "first and more"):
            warnings.warn(text, RuntimeWarning, stacklevel=1)
        assert not lines
    assert [line.partition(" (")[0] for line in lines] == [
        "warning: first and more",
        "warning: second",
    ]
    assert "(RuntimeWarning, tests/unit/cli/test_rank_warnings.py, line " in lines[0]


def test_ranks_and_hosts_are_named() -> None:
    world = FourRanks()
    found, lines = lines_of(world)
    with found:
        world.others = [["one"], ["one", "two"], ["one"]]
        found.show()
        world.others = [["two"], [], []]
        found.show()
        world.others = [[], [], ["three"]]
    assert lines == [
        "warning (rank 1 on node1, and 2 other ranks): one",
        "warning (rank 2 on node2): two",
        "warning (rank 3 on node2): three",
    ]


def test_they_come_at_the_next_line_of_metrics() -> None:
    found, lines = lines_of(Communicator())
    with found, listening(found, {WRITE_METRICS}):
        warnings.warn("early", stacklevel=1)
        with Span("step"):
            pass
        assert not lines
        with Span(WRITE_METRICS):
            pass
        assert len(lines) == 1


def test_all_ranks_that_fail_together_show_them_and_python_has_its_own_back() -> None:
    found, lines = lines_of(Communicator())
    before = warnings.showwarning
    with pytest.raises(TrainingError):
        fail(found, TrainingError("diverged"))
    assert len(lines) == 1
    assert warnings.showwarning is before


def test_a_rank_that_fails_alone_prints_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    world = FourRanks()
    world.others = [["must not be waited for"], [], []]
    found, lines = lines_of(world)
    with pytest.raises(KeyError):
        fail(found, KeyError())
    assert not lines
    assert "warning (rank 0 on node1): before the end (UserWarning" in capsys.readouterr().err


def test_texts_without_end_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_warnings, "MOST_TEXTS", 3)
    found, lines = lines_of(Communicator())
    with found:
        for step in range(10):
            warnings.warn(f"step {step}", stacklevel=1)
            found.show()
    assert len(lines) == 3

"""When overlap is on."""

from __future__ import annotations

import pytest

from distcnn.distributed import ForegroundSums, SerialCommunicator, Sums
from distcnn.training.overlap import open_sums


class Cluster(SerialCommunicator):
    """Claims some hosts, and a way to sum in the background."""

    def __init__(self, *hosts: str) -> None:
        super().__init__()
        self.hosts = list(hosts)

    def background_sums(self) -> Sums | None:
        return ForegroundSums(self.allreduce_sum)


@pytest.mark.parametrize(
    ("wanted", "reduction", "hosts", "on"),
    [
        ("auto", "exact", "ab", True),
        ("auto", "fast", "ab", False),
        ("auto", "exact", "aa", False),
        ("on", "fast", "aa", True),
        ("off", "exact", "ab", False),
    ],
)
def test_auto_is_on_only_where_it_measured_faster(
    wanted: str, reduction: str, hosts: str, on: bool
) -> None:
    assert (open_sums(wanted, reduction, Cluster(*hosts)) is not None) == on


def test_where_there_is_no_background_it_is_off() -> None:
    assert open_sums("on", "exact", SerialCommunicator()) is None

"""What the ranks of a point measure: the same steps on any number of ranks, with time assigned to
where it was spent.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distcnn.errors import InputError
from distcnn.scaling.points import Point
from distcnn.scaling.records import GROUPS, Result, read_result
from distcnn.scaling.worker import write_result
from tests.conftest import SERIAL, Launcher, MakeImageSet
from tests.support.sweep_cases import result_of, strong

FLAGS = ["--model=lenet", "--num-shards=3", "--microbatch-size=4", "--steps=5"]


def measured(
    launcher: Launcher, point: Point, file: Path, *flags: str, **environment: str
) -> Result:
    done = launcher.run(
        point.ranks, "-m", "distcnn.scaling.worker", f"--result={file}", *flags, **environment
    )
    assert done.returncode == 0, done.stderr
    result = read_result(json.loads(file.read_text()), point)
    assert set(result.shares) == set(GROUPS)
    assert sum(result.shares.values()) == pytest.approx(1)
    assert min(result.shares.values()) >= 0
    shard = result.shard
    of_step = point.most_shards * (shard.data + shard.compute + (shard.shared_memory or 0.0))
    assert 0 < of_step + shard.update <= result.step_seconds * 1.001
    assert len(shard.backward) == len(result.bucket_bytes)
    return result


def test_any_ranks_under_any_mpi_end_with_the_bits_of_one(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    data = f"--data={image_set()}"
    alone = measured(SERIAL, Point("strong", 1, 3, 4), tmp_path / "1.json", data, *FLAGS)
    assert alone.shares["waiting"] == 0
    assert alone.images_per_second == pytest.approx(12 / alone.step_seconds)
    for ranks, overlap in ((2, "on"), (3, "off")):
        file, point = tmp_path / f"{ranks}-{overlap}.json", Point("strong", ranks, 3, 4)
        result = measured(any_mpi, point, file, data, *FLAGS, f"--overlap={overlap}")
        assert result.params_sha256 == alone.params_sha256
        assert (result.shard.shared_memory is not None) == (overlap == "off")


@pytest.mark.slow
@pytest.mark.parametrize("overlap", ["off", "on"])
def test_others_wait_for_a_slow_rank(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path, overlap: str
) -> None:
    nap = 0.1  # for each of two shards
    flags = [
        *(f"--data={image_set()}", "--model=tests.support.staged:network", "--num-shards=4"),
        *("--microbatch-size=4", "--steps=3", f"--overlap={overlap}"),
    ]
    staged = {"STAGED_PACE": str(nap), "STAGED_PACE_RANKS": "1"}
    point = Point("strong", 2, 4, 4)
    result = measured(any_mpi, point, tmp_path / "r.json", *flags, **staged)
    assert result.shard.compute >= nap * 0.9
    assert result.shares["waiting"] * result.step_seconds * 2 > nap


def test_a_result_is_never_overwritten(tmp_path: Path) -> None:
    write_result(tmp_path / "r.json", result_of(strong(1)))
    with pytest.raises(InputError, match="do not form one MPI world"):
        write_result(tmp_path / "r.json", result_of(strong(2)))
    assert json.loads((tmp_path / "r.json").read_text())["world_size"] == 1
    with pytest.raises(InputError, match="cannot be written"):
        write_result(tmp_path / "nowhere" / "r.json", result_of(strong(1)))

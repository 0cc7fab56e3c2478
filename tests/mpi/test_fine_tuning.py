"""Fine-tuning gives the same bits on any number of ranks, with and without overlap."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Launcher, MakeImageSet, as_flags

pytestmark = pytest.mark.mpi


def test_the_bits_do_not_depend_on_the_ranks(
    mpirun: Launcher, serial: Launcher, short_run: Path, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = as_flags(
        data=image_set(train=101, classes=5),
        model="tutorial",
        microbatch_size=4,
        epochs=2,
        optimizer="adamw",
        learning_rate=0.001,
        weight_decay=0.1,
        initial_weights=short_run,
        normalisation="weights",
        freeze="conv1",
    )
    ways = {
        "one": (serial, 1, "off"),
        "two": (mpirun, 2, "off"),
        "three": (mpirun, 3, "off"),
        "overlap": (mpirun, 3, "on"),
    }
    hashes = {
        launcher.train(ranks, tmp_path / name, *flags, *as_flags(overlap=overlap))["params_sha256"]
        for name, (launcher, ranks, overlap) in ways.items()
    }
    assert len(hashes) == 1
    done = mpirun.run(2, "-m", "distcnn.verify", str(tmp_path / "one"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"model": "mlp"}, "do not fit"),
        ({"freeze": "conv9"}, "--freeze conv9"),
        ({"normalisation": "0,0/1,1"}, "2 channels"),
    ],
)
def test_what_does_not_fit_ends_all_ranks_with_one_line(
    wrong: dict[str, str],
    says: str,
    mpirun: Launcher,
    short_run: Path,
    image_set: MakeImageSet,
    tmp_path: Path,
) -> None:
    flags = {"model": "tutorial", "num_shards": 4, "output": tmp_path / "run"} | wrong
    given = as_flags(data=image_set(), initial_weights=short_run, **flags)
    done = mpirun.run(3, "-m", "distcnn.train", *given)
    assert done.returncode == 2
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if "distcnn" in line]
    assert line.startswith("distcnn.train: error")
    assert says in line
    assert "notice" not in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()

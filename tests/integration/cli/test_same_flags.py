"""Ranks that were started with different command lines are refused on all ranks; the message names
rank and flag.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from distcnn.cli.parser import difference, flags_of
from tests.conftest import ROOT, MakeImageSet, as_flags, clean_environment, mpi_launcher

SEEDS = ["--epochs", "2", "--seed", "1"]


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        (["--epochs", "2", "--seed", "4"], ["rank 1", "--seed '4'", "--seed '1'"]),
        (["--epochs", "2"], ["no --seed", "--seed '1'"]),
        ([*SEEDS, "--trace"], ["with --trace,", "no --trace"]),
        ([*SEEDS, "--seed", "2"], ["--seed '2'"]),
        (["--epochs=3", "--seed=2"], ["--epochs '3', --seed '2'"]),
        (["run", *SEEDS], ["arguments 'run'"]),
        (["--epochs", "2", "--seed", "1\n\x1b[2J"], [r"--seed '1\n\x1b[2J'"]),
    ],
)
def test_what_differs_is_named(mine: list[str], words: list[str]) -> None:
    problem = difference([flags_of("train", SEEDS), flags_of("train", mine)])
    assert problem is not None
    assert all(word in problem for word in words), problem


@pytest.mark.parametrize(
    "mine",
    [SEEDS, ["--seed", "1", "--epochs", "2"], ["--seed=1", "--epochs=2"], ["--seed", "3", *SEEDS]],
)
def test_other_words_for_the_same_are_the_same(mine: list[str]) -> None:
    assert difference([flags_of("train", SEEDS), flags_of("train", mine)]) is None


def test_repeated_flags_that_add_up_count_each_time() -> None:
    def flags(*words: str) -> dict[str, str]:
        return flags_of("train", words)

    two = flags("--freeze", "a", "--freeze=b")
    assert difference([two, flags("--freeze=a", "--freeze", "b")]) is None
    problem = difference([two, flags("--freeze", "c", "--freeze", "b")])
    assert problem is not None
    assert "--freeze 'c and b'" in problem
    assert "--freeze 'a and b'" in problem


def test_another_command_is_named_alone() -> None:
    assert (
        difference([flags_of("train", SEEDS), flags_of("verify", ["x"])])
        == "rank 1 was started with the command 'verify', but rank 0 with the command 'train'"
    )


def apart(
    first: list[str], second: list[str], cwd: tuple[Path, Path] = (ROOT, ROOT)
) -> subprocess.CompletedProcess[str]:
    """Two ranks of one world, each with its own command line and folder."""
    words = [
        ["-n", "1", "-wdir", str(folder), sys.executable, "-m", *each]
        for folder, each in zip(cwd, (first, second), strict=True)
    ]
    return subprocess.run(
        [str(mpi_launcher().mpirun), *words[0], ":", *words[1]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )


@pytest.mark.mpi
@pytest.mark.parametrize(
    "other",
    [
        ["distcnn.train", "--seed", "1"],
        ["distcnn.train", "--help"],
        ["distcnn.verify", "run"],
        ["distcnn.doctor"],
    ],
)
def test_ranks_with_other_flags_are_refused(
    other: list[str], image_set: MakeImageSet, tmp_path: Path
) -> None:
    run = ["distcnn.train", "--data", str(image_set()), "--output", str(tmp_path / "run")]
    done = apart(run, [*run, *other[1:]] if other[0] == run[0] else other)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "rank 1 was started with " in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.mpi
def test_help_on_all_ranks_is_printed_once() -> None:
    done = apart(["distcnn.train", "--help"], ["distcnn.train", "--help"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("usage: ") == 1


@pytest.mark.mpi
def test_ranks_that_import_different_models_are_refused(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    """Each rank in a folder of its own, with a module of the same name."""
    for name, layer in (("a", "ReLU"), ("b", "Tanh")):
        (tmp_path / name).mkdir()
        text = (
            "from distcnn import nn\n\ndef network(s, n):\n    return nn.Sequential([nn.Flatten(),"
            f" nn.{layer}(), nn.Dense(n)])\n"
        )
        (tmp_path / name / "own_apart.py").write_text(text)
    run = [
        "distcnn.train",
        *as_flags(data=image_set(), output=tmp_path / "run", model="own_apart:network"),
    ]
    done = apart(run, run, (tmp_path / "a", tmp_path / "b"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "rank 1" in done.stderr
    assert "module own_apart, line 4" in done.stderr


@pytest.mark.mpi
def test_ranks_with_other_variables_for_kernels_are_reported(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    run = [
        "-m",
        "distcnn.train",
        *as_flags(data=image_set(), output=tmp_path / "run", model="mlp", max_steps=1),
    ]
    shell = (
        'test "${PMI_RANK:-$OMPI_COMM_WORLD_RANK}" = 0 || export MKL_CBWR=COMPATIBLE; exec'
        f" {shlex.join([sys.executable, *run])}"
    )
    done = subprocess.run(
        [str(mpi_launcher().mpirun), "-n", "2", "sh", "-c", shell],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr
    (warning,) = (line for line in done.stdout.splitlines() if line.startswith("warning: rank 1 "))
    assert "MKL_CBWR=COMPATIBLE" in warning

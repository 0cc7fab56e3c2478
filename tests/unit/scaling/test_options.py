"""The flags of a sweep."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from distcnn.errors import InputError
from distcnn.scaling.options import Settings, default_ranks, launcher_command, parse, ranks_from
from distcnn.scaling.records import read_settings, require_same

MPIRUN = "mpirun -n {ranks}"


def test_what_is_given_and_what_is_not(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('model = "mlp"\nseed = 3\n')
    request = parse(
        [
            "--ranks",
            "4, 1,2,1",
            "--config",
            str(tmp_path / "run.toml"),
            "--seed",
            "4",
            "--output",
            "x",
            "--launcher",
            MPIRUN,
        ]
    )
    assert request.settings == Settings((1, 2, 4), MPIRUN, flags={"model": "mlp", "seed": 4})
    assert (request.output, request.timeout) == ("x", 600)
    point = request.settings.points[1]
    assert request.settings.flags_of(point) == {
        "model": "mlp",
        "seed": 4,
        "num_shards": 4,
        "microbatch_size": 64,
        "expect_ranks": 2,
    }


def test_a_prediction_is_part_of_the_request() -> None:
    numbers, former = "latency=1ms,bandwidth=1Gbit", "latency=2ms,bandwidth=1Gbit"
    flags = ["--ranks", "1,2", "--mode", "weak", "--predict", "4,8", "--interconnect", numbers]
    request = parse([*flags, f"--network={former}", "--ranks-per-host", "2"])
    assert (request.predict, request.ranks_per_host) == ((4, 8), 2)
    assert [one.name for one in request.interconnect] == ["1ms, 1Gbit", "2ms, 1Gbit"]
    assert parse(["--ranks", "1"]).predict == ()


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
def test_numbers_of_ranks_to_predict(text: str, ranks: tuple[int, ...]) -> None:
    assert ranks_from(text) == ranks


@pytest.mark.parametrize(
    "text", ["", "0", "a", "...", "4,...,8", "8,4,...,64", "1,2,...", "4,8,...,x", "9999999"]
)
def test_what_cannot_be_predicted(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="such as 1,2,4"):
        ranks_from(text)


@pytest.mark.parametrize(
    ("tasks", "ranks"), [("1", (1,)), ("8", (1, 2, 4, 8)), ("12", (1, 2, 4, 8))]
)
def test_without_ranks_the_allocation_decides(
    tasks: str, ranks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", tasks)
    assert default_ranks() == ranks
    monkeypatch.delenv("SLURM_NTASKS")
    assert default_ranks()[0] == 1


def test_a_launcher_is_taken_apart_as_a_shell_does() -> None:
    assert launcher_command("srun -n{ranks} --mpi=pmi2 'a b'", 16) == [
        "srun",
        "-n16",
        "--mpi=pmi2",
        "a b",
    ]


REFUSED = {
    "--ranks 0": "--ranks: '0' is not",
    "--ranks 1,,2": "--ranks: '1,,2' is not",
    "--ranks two": "--ranks: 'two' is not",
    "--ranks 1,16 --num-shards 8": "16 ranks cannot share 8 shards",
    "--mode sideways": "invalid choice: 'sideways'",
    "--repeats 0": "--repeats: '0' is not",
    "--steps -3": "--steps: '-3' is not",
    "--timeout nan": "--timeout: 'nan' is not",
    "--launcher mpirun": ("without {ranks}"),
    "--launcher '{ranks}": "No closing quotation",
    "--expect-ranks 2": "use --ranks",
    "--max-steps 2": "use --steps",
    "--resume runs/x": "run the same command with the same --output",
    "--shards-per-rank 2": "give --num-shards, for the smallest point of --mode weak",
    "--predict-shards 64": "give --num-shards",
    "--predict-examples 5000": "give --num-shards",
    "--turns 2": "unknown flag --turns",
    "--microbatch-size 0": "--microbatch-size is 0",
    "--config no.toml": "no.toml cannot be read",
    "--network latency=1ms,bandwidth=1Gbit": "add --predict",
    "--predict 4 --ranks-per-host 0": "--ranks-per-host: '0' is not",
    "--predict 4 --interconnect latency=1": "is not a latency and a bandwidth",
    "--predict 4 --interconnect no.json": "cannot be read",
    "--predict 64 --ranks 1,2": "add --num-shards 64",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_what_is_refused(flags: str) -> None:
    with pytest.raises(InputError) as raised:
        parse(flags.split(" "))
    assert REFUSED[flags] in str(raised.value)


CHANGED = {
    "ranks": (Settings((1, 4), MPIRUN), "--ranks (1, 2), not (1, 4)"),
    "mode": (Settings((1, 2), MPIRUN, mode="weak"), "--mode strong, not weak"),
    "steps": (Settings((1, 2), MPIRUN, steps=7), "--steps 30, not 7"),
    "launcher": (
        Settings((1, 2), "srun -n {ranks}"),
        "--launcher mpirun -n {ranks}, not srun -n {ranks}",
    ),
    "model": (Settings((1, 2), MPIRUN, flags={"model": "mlp"}), "--model lenet, not mlp"),
    "num_shards": (Settings((1, 2), MPIRUN, flags={"num_shards": 6}), "--num-shards 4, not 6"),
}


@pytest.mark.parametrize("flag", CHANGED)
def test_another_sweep_is_refused_by_the_flag_that_differs(flag: str) -> None:
    now, text = CHANGED[flag]
    with pytest.raises(InputError) as raised:
        require_same(Settings((1, 2), MPIRUN), now, Path("runs/s"))
    assert f"runs/s holds a sweep with {text}" in str(raised.value)


def test_an_explicit_default_is_not_a_difference() -> None:
    require_same(
        Settings((1, 2), MPIRUN),
        Settings((1, 2), MPIRUN, flags={"seed": 0, "model": "lenet"}),
        Path(),
    )


def test_damaged_settings_give_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"ranks": [1, 2')
    with pytest.raises(InputError, match=r"sweep\.json is damaged .* name another --output"):
        read_settings(tmp_path)

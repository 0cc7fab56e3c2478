"""The whole command: everything it writes, points that fail, interrupted sweeps that continue, bits
that differ, what is refused.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from distcnn.scaling.__main__ import main
from tests.conftest import SERIAL, Launcher, MakeImageSet, clean_environment
from tests.support.running import running
from tests.support.scaling_fixtures import MakeLauncher, alone, of

COMMAND = ["-m", "distcnn.scaling"]
SHORT = ["--model", "mlp", "--microbatch-size", "4", "--steps", "2"]
NO_MATPLOTLIB = (
    "import sys; sys.modules['matplotlib'] = None; from distcnn.scaling.__main__ import main;"
    " sys.exit(main(sys.argv[1:]))"
)


def everything(folder: Path) -> dict[str, Any]:
    """``scaling.json``."""
    table: dict[str, Any] = json.loads((folder / "scaling.json").read_text())
    return table


def done_at(folder: Path) -> dict[str, int]:
    """When each record was written."""
    return {each.name: each.stat().st_mtime_ns for each in (folder / "measurements").glob("*.json")}


def test_strong_and_weak(any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path) -> None:
    flags = ["--data", str(image_set()), *SHORT, "--ranks", "1,2", "--mode", "both"]
    flags += ["--num-shards", "6", "--repeats", "1", "--launcher", of(any_mpi)]
    done = alone(any_mpi).run(1, *COMMAND, *flags, "--output", str(tmp_path / "s"))
    assert done.returncode == 0, done.stdout + done.stderr
    table = everything(tmp_path / "s")
    assert [(row["mode"], row["ranks"], row["num_shards"]) for row in table["rows"]] == [
        *(("strong", ranks, 6) for ranks in (1, 2)),
        *(("weak", ranks, 6 * ranks) for ranks in (1, 2)),
    ]
    # One rank of weak scaling computes what strong scaling does.
    assert [row["bits"] for row in table["rows"]] == ["same", "same", "same", "alone"]
    results = [one["result"] for one in table["measurements"]]
    assert len({result["params_sha256"] for result in results[:3]}) == 1
    assert [result["world_size"] for result in results] == [1, 2, 1, 2]
    assert "effi-" in done.stdout
    if any_mpi.python == SERIAL.python:  # the other environment has no matplotlib
        assert (tmp_path / "s" / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.mpi
def test_failing_points_are_survived_and_tried_again(
    mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path, make_launcher: MakeLauncher
) -> None:
    broken = f"""
[ -e {tmp_path}/mended ] && exec {mpirun.mpirun} -n $n "$@"
case $n in
2) echo "mpirun: error: no such host"; exit 9;;
3) exec sleep 600;;
4) exit 0;;
5) "$@" & exec "$@";;
esac
exec {mpirun.mpirun} -n $n "$@"
"""
    flags = [
        "--data",
        str(image_set()),
        *SHORT,
        "--ranks",
        "1,2,3,4,5",
        "--repeats",
        "1",
        "--launcher",
        make_launcher(broken),
    ]
    flags += ["--output", str(tmp_path / "s")]
    done = SERIAL.run(1, *COMMAND, *flags, "--timeout", "12")
    assert done.returncode == 1, done.stderr
    table = everything(tmp_path / "s")
    reasons = {one["ranks"]: one["reason"] for one in table["measurements"] if one["reason"]}
    assert reasons[2] == "exit code 9; output: mpirun: error: no such host"
    assert "longer than 12 s (--timeout)" in reasons[3]
    assert reasons[4].startswith("exit code 0, but no result")
    assert "expected 5 ranks" in reasons[5]
    for ranks, reason in reasons.items():
        assert (
            f"strong, {ranks} ranks, repeat 1: {reason} (log:"
            f" {tmp_path}/s/measurements/strong-{ranks}-ranks-repeat-1.log)" in done.stdout
        )
    assert ["step_seconds" in row for row in table["rows"]] == [True, *[False] * 4]
    first = done_at(tmp_path / "s")

    (tmp_path / "mended").touch()
    done = SERIAL.run(1, *COMMAND, *flags)  # another --timeout does not make another sweep
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 5 measurements already done" in done.stdout
    again = done_at(tmp_path / "s")
    assert {name for name in first if first[name] == again[name]} == {
        "strong-1-ranks-repeat-1.json"
    }
    assert everything(tmp_path / "s")["is_good"]


@pytest.mark.slow
def test_an_interrupted_sweep_continues(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    number = signal.SIGTERM if any_mpi.python == SERIAL.python else signal.SIGINT
    flags = [
        "--data",
        str(image_set()),
        "--model",
        "tests.support.staged:network",
        "--microbatch-size",
        "4",
        "--steps",
        "2",
    ]
    flags += [
        "--ranks",
        "1,2",
        "--repeats",
        "1",
        "--launcher",
        of(any_mpi),
        "--output",
        str(tmp_path / "s"),
    ]
    slow = {"STAGED_PACE": "60", "STAGED_PACE_RANKS": "1"}  # two ranks never come to an end
    with running(alone(any_mpi), 1, *COMMAND, *flags, **slow) as run:
        run.wait_for_text("[1/2]")
        run.wait_for(lambda: len(run.processes()) > 3, "the ranks of the second measurement")
        run.process.send_signal(number)
        ended = run.end()  # fails when a process is left
    assert ended.code == 85
    (line,) = ended.lines("stopped")
    assert f"stopped by {number.name}" in line
    assert f"--output {tmp_path / 's'}" in line
    before = done_at(tmp_path / "s")
    assert list(before) == ["strong-1-ranks-repeat-1.json"]
    first = json.loads(
        (tmp_path / "s" / "measurements" / "strong-1-ranks-repeat-1.json").read_text()
    )
    assert first["result"], (first["reason"], (tmp_path / "s" / first["log"]).read_text())
    assert not (tmp_path / "s" / "scaling.json").exists()

    done = alone(any_mpi).run(1, *COMMAND, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 2 measurements already done" in done.stdout
    assert (
        done_at(tmp_path / "s")["strong-1-ranks-repeat-1.json"]
        == before["strong-1-ranks-repeat-1.json"]
    )
    assert [row["succeeded"] for row in everything(tmp_path / "s")["rows"]] == [1, 1]

    done = alone(any_mpi).run(1, *COMMAND, *flags, "--seed", "1")
    assert done.returncode == 2
    assert "holds a sweep with --seed 0, not 1" in done.stderr


@pytest.mark.mpi
def test_a_killed_sweep_leaves_no_ranks(
    mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = ["--data", str(image_set()), "--model", "tests.support.staged:network"]
    flags += ["--microbatch-size", "4", "--ranks", "2", "--launcher", of(mpirun)]
    flags += ["--output", str(tmp_path / "s")]
    with running(SERIAL, 1, *COMMAND, *flags, STAGED_PACE="60") as run:
        run.wait_for(lambda: len(run.processes()) > 3, "the ranks")
        run.process.kill()
        run.process.wait()
        run.wait_for_none_left(10)


@pytest.mark.slow
@pytest.mark.mpi
def test_other_bits_on_one_point_are_noticed(
    mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path, make_launcher: MakeLauncher
) -> None:
    other = f"""[ $n = 2 ] && [ ! -e {tmp_path}/once ] && touch {tmp_path}/once && set -- "$@" --seed=7\nexec {mpirun.mpirun} -n $n "$@" """  # noqa: E501
    flags = [
        "--data",
        str(image_set()),
        *SHORT,
        "--ranks",
        "1,2",
        "--repeats",
        "2",
        "--launcher",
        make_launcher(other),
    ]
    done = SERIAL.run(1, *COMMAND, *flags, "--output", str(tmp_path / "s"))
    assert done.returncode == 1, done.stderr
    table = everything(tmp_path / "s")
    assert [row["bits"] for row in table["rows"]] == ["same", "DIFFERENT"]
    assert [row["failed"] for row in table["rows"]] == [0, 0]
    assert "bits differ at 4 shards of 4: strong-2-ranks-repeat-1" in done.stdout


@pytest.mark.slow
@pytest.mark.mpi
def test_without_matplotlib_all_else_is_there_and_the_picture_can_follow(
    mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = [
        "--data",
        str(image_set()),
        *SHORT,
        "--ranks",
        "1",
        "--repeats",
        "1",
        "--launcher",
        of(mpirun),
        "--output",
        str(tmp_path / "s"),
    ]
    done = SERIAL.run(1, "-c", NO_MATPLOTLIB, *flags)
    assert done.returncode == 0, done.stderr
    assert "pip install matplotlib, then run the same command" in done.stdout
    assert everything(tmp_path / "s")["is_good"]
    assert not (tmp_path / "s" / "scaling.png").exists()
    before = done_at(tmp_path / "s")
    assert SERIAL.run(1, *COMMAND, *flags).returncode == 0
    assert (tmp_path / "s" / "scaling.png").exists()
    assert done_at(tmp_path / "s") == before


REFUSED = {
    "--launcher '/nowhere/mpirun -n {ranks}'": ("program '/nowhere/mpirun' not found"),
    "--launcher 'mpirun -n 2'": "without {ranks}",
    "--data no.h5": "no such file: no.h5",
    "--model none": "unknown model 'none'",
    "--ranks 1,9 --num-shards 8": "9 ranks cannot share 8 shards",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_bad_input_is_one_line_and_nothing_is_made(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    image_set: MakeImageSet,
    flags: str,
) -> None:
    for key in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(key)
    usual = [] if "--data" in flags else ["--data", str(image_set())]
    usual += (
        [] if "--launcher" in flags else ["--launcher", f"{shutil.which('env')} RANKS={{ranks}}"]
    )
    assert main([*usual, *shlex.split(flags), "--output", str(tmp_path / "s")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("distcnn.scaling: error: ")
    assert REFUSED[flags] in line
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_sweep_under_a_launcher_is_refused_once(any_mpi: Launcher, tmp_path: Path) -> None:
    done = any_mpi.run(2, *COMMAND, "--output", str(tmp_path / "s"))
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "distcnn" in line]
    assert "do not start distcnn.scaling under mpirun" in line
    assert not (tmp_path / "s").exists()


def test_help_names_its_flags() -> None:
    done = SERIAL.run(1, *COMMAND, "--help")
    assert done.returncode == 0
    own = (
        "--ranks",
        "--mode",
        "--repeats",
        "--steps",
        "--launcher",
        "--output",
        "--timeout",
        "--predict",
        "--interconnect",
        "--num-shards",
    )
    assert all(flag in done.stdout for flag in own)
    assert "--network" not in done.stdout  # a hidden alias

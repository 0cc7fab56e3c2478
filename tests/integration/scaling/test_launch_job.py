"""One measurement: processes that fail, hang or do not end, and records; all without MPI."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distcnn.errors import InputError, Stopped
from distcnn.scaling import launch_job
from distcnn.scaling.launch_job import command_of, last_words, measure, stopped_by_signals
from distcnn.scaling.options import Settings
from distcnn.scaling.points import Job
from distcnn.scaling.records import Record, Sweep
from distcnn.system.json_values import to_json
from tests.support.scaling_fixtures import MakeLauncher
from tests.support.sweep_cases import record, result_of

Try = Callable[..., Record]
RESULT = 'for word in "$@"; do case $word in --result=*) result=${word#--result=};; esac; done\n'
POINT = Settings((2,), "x {ranks}").points[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sweep" / "measurements").mkdir(parents=True)
    return tmp_path / "sweep"


@pytest.fixture
def try_launcher(folder: Path, make_launcher: MakeLauncher) -> Try:
    """Measure two ranks with a launcher of these lines, which must leave no process."""

    def try_it(lines: str, timeout: float = 60.0) -> Record:
        sweep = Sweep(folder, Settings((2,), make_launcher(lines)))
        done = measure(Job(POINT, 1), sweep, timeout)
        assert not list((folder / "measurements").glob(".*"))
        return done

    return try_it


def good(**changes: Any) -> str:
    """Lines that write a result of two ranks."""
    table = {**to_json(result_of(POINT, 1000.0)), **changes}
    return f"{RESULT}cat > $result <<'END'\n{json.dumps(table)}\nEND"


FAILING = {
    "exit 7": "exit code 7",
    "echo; echo fine; echo last; exit 1": "exit code 1; output: last",
    "echo 'distcnn.scaling.worker: error: no such file'; echo Bye; exit 2": "error: no such file",
    "kill -9 $$": "ended by SIGKILL",
    "exit 0": "exit code 0, but no result",
    f"{RESULT}echo '{{\"kind\"' > $result": "its result is incomplete",
    f"{RESULT}echo '[]' > $result": "its result is not a measurement",
    good(world_size=1): "started 2 ranks, but 1 reported",
    good(num_shards=5): "its result has 5 shards of 64 examples, not 4 of 64",
    good(images_per_second=float("nan")): "its result is incomplete",
    good(shares={}): "its result is incomplete",
    f"{good()}\nexit 3": "exit code 3",
}


@pytest.mark.parametrize("lines", FAILING, ids=FAILING.values())
def test_a_failure_has_a_reason(
    try_launcher: Try, monkeypatch: pytest.MonkeyPatch, lines: str
) -> None:
    monkeypatch.setattr(launch_job, "SECONDS_TO_APPEAR", 0.1)
    done = try_launcher(lines)
    assert done.result is None
    assert FAILING[lines] in done.reason


def test_a_result_is_taken_and_the_log_keeps_what_was_said(try_launcher: Try, folder: Path) -> None:
    done = try_launcher(f"echo hello; echo there >&2; sleep 0.3\n{good()}")
    assert (done.result, done.reason) == (result_of(POINT, 1000.0), "")
    first, *said = (folder / done.log).read_text().splitlines()
    assert first.startswith("$ ")
    assert "--expect-ranks=2" in first
    assert said == ["hello", "there"]


def test_a_hanging_one_is_ended_with_all_its_children(try_launcher: Try) -> None:
    start = time.monotonic()
    done = try_launcher("sleep 301 & echo $! waiting; wait", timeout=1.0)
    assert "--timeout" in done.reason
    assert done.reason.endswith(" waiting")
    assert time.monotonic() - start < 30
    child = Path("/proc") / done.reason.split()[-2] / "cmdline"
    while child.exists() and child.read_bytes():  # neither gone nor a zombie: SIGKILL takes effect
        assert time.monotonic() - start < 30  # when the process is next scheduled
        time.sleep(0.02)


def test_one_that_ignores_sigterm_is_ended_too(
    try_launcher: Try, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_job, "SECONDS_TO_END", 0.5)
    done = try_launcher("trap '' TERM; while :; do sleep 0.2; done", timeout=0.5)
    assert "--timeout" in done.reason


def test_a_launcher_that_cannot_be_started(folder: Path) -> None:
    sweep = Sweep(folder, Settings((2,), "/nowhere/mpirun -n {ranks}"))
    done = measure(Job(POINT, 1), sweep, 5.0)
    assert "'/nowhere/mpirun' cannot be started" in done.reason


def test_a_signal_ends_it(try_launcher: Try) -> None:
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Stopped, match="SIGTERM"), stopped_by_signals():
        try_launcher("sleep 300")
    timer.join()


def test_the_command_has_every_flag_that_was_given() -> None:
    flags = {"model": "mlp", "learning_rate": 1e-05, "data": "my set.h5"}
    settings = Settings((2,), "srun -n {ranks}", steps=5, flags=flags)
    command = command_of(Job(settings.points[0], 1), settings, Path("/r.json"))
    assert command[:3] == ["srun", "-n", "2"]
    assert set(command[6:]) == {
        *("--result=/r.json", "--steps=5", "--data=my set.h5", "--model=mlp", "--num-shards=4"),
        *("--microbatch-size=64", "--learning-rate=1e-05", "--expect-ranks=2"),
    }


def test_the_most_telling_line_is_found() -> None:
    trace = "$ c\nsomething\nrank 1 failed\nTraceback:\n  File\nValueError: bad\nFAQ"
    assert last_words(trace) == "ValueError: bad"
    assert last_words("$ error here\nall is well\n\n") == "all is well"
    assert last_words("$ c\n=  BAD\nKilled (signal 9)\nSee the FAQ") == "Killed (signal 9)"
    assert len(last_words("$ c\nerror: " + "x" * 1000)) == 500
    assert last_words("$ c\n") == ""


def test_records_come_back_as_they_were_and_damaged_ones_do_not(folder: Path) -> None:
    sweep = Sweep(folder, Settings((1, 2), "x {ranks}"))
    good_one, failed = record(POINT, 1), record(POINT, 2, reason="no")
    for one in (good_one, failed):
        sweep.add(one)
        assert sweep.find(one.job) == one
    file = folder / "measurements" / "strong-2-ranks-repeat-1.json"
    whole = file.read_text()
    for damaged in (whole[:-100], "", "[]", whole.replace('"params_sha256"', '"other"')):
        file.write_text(damaged)
        assert sweep.find(good_one.job) is None


def test_links_in_the_folder_are_not_followed(try_launcher: Try, folder: Path) -> None:
    victim = folder.parent / "victim"
    victim.mkdir()
    (victim / ".profile").write_text("precious")
    log = folder / "measurements" / "strong-2-ranks-repeat-1.log"
    log.symlink_to(victim / ".profile")
    assert try_launcher("exit 7").result is None
    assert not log.is_symlink()
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "measurements").symlink_to(victim)
    with pytest.raises(InputError, match="symbolic link"):
        Sweep(folder.parent / "other", Settings((2,), "x {ranks}"))
    assert (victim / ".profile").read_text() == "precious"

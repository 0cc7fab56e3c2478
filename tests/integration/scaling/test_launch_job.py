"""One measurement: what became of processes that fail, hang, lie or stay; records; all
without MPI.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distcnn.errors import InputError
from distcnn.scaling.launch_job import (
    Ended,
    command_of,
    exit_text,
    last_words,
    measure,
    result_of_ended,
)
from distcnn.scaling.options import Settings
from distcnn.scaling.points import Measurement
from distcnn.scaling.processes import marked
from distcnn.scaling.stop_requests import StopRequests
from distcnn.scaling.sweep_directory import Record, Records
from tests.support.scaling_fixtures import MakeLauncher
from tests.support.sweep_cases import record, result_of

Try = Callable[..., Record | None]
RESULT = 'for each in "$@"; do case $each in --result=*) result=${each#--result=};; esac; done\n'


@pytest.fixture
def try_launcher(tmp_path: Path, make_launcher: MakeLauncher) -> Try:
    """Measures two ranks with a launcher of these lines; none of its processes may be left."""

    def try_it(
        lines: str, timeout: float = 60.0, stop: StopRequests | None = None
    ) -> Record | None:
        (tmp_path / "sweep").mkdir(exist_ok=True)
        records = Records(tmp_path / "sweep", Settings((2,), make_launcher(lines)))
        done = measure(
            Measurement(records.settings.points[0], 1), records, timeout, stop or StopRequests()
        )
        assert marked(str((tmp_path / "sweep").resolve())) == []
        assert not list((tmp_path / "sweep" / "measurements").glob(".*"))
        return done

    return try_it


def good(**more: Any) -> str:
    """Lines that write a result of two ranks."""
    point = Settings((2,), "x {ranks}").points[0]
    return f"{RESULT}cat > $result <<'END'\n{json.dumps(result_of(point, 1000.0, **more))}\nEND"


FAILING = {
    "exit 7": "exit code 7",
    "echo; echo fine; echo last; exit 1": "exit code 1; it said: last",
    "echo 'distcnn.scaling.worker: error: no such file'; echo Bye; exit 2": (
        "exit code 2; it said: distcnn.scaling.worker: error: no such file"
    ),
    "kill -9 $$": "ended by SIGKILL",
    "exit 0": "exit code 0, but no result: does the launcher start what stands behind it",
    f"{RESULT}echo '{{\"kind\"' > $result": "its result is no JSON",
    f"{RESULT}echo '[]' > $result": "its result is no measurement of distcnn",
    good(world_size=1): (
        "asked for 2 ranks, but its result is of 1: does the launcher start as many ranks as"
        " {ranks} says?"
    ),
    good(num_shards=5): "asked for num_shards 4, but its result is of 5",
    good(images_per_second=float("nan")): "its result is not whole",
    good(split={}): "its result is not whole (KeyError: 'mean')",
    f"{good()}\nexit 3": "exit code 3",
}


@pytest.mark.parametrize("lines", FAILING, ids=FAILING.values())
def test_what_fails_is_said(try_launcher: Try, monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    monkeypatch.setattr("distcnn.scaling.launch_job.SECONDS_TO_APPEAR", 0.1)
    done = try_launcher(lines)
    assert done is not None
    assert not done.ok
    assert done.reason.startswith(FAILING[lines])
    assert done.exit_code is not None


def test_a_result_is_taken_and_the_log_keeps_what_was_said(
    try_launcher: Try, tmp_path: Path
) -> None:
    done = try_launcher(f"echo hello; echo there >&2\n{good()}")
    assert done is not None
    assert done.result is not None
    assert (done.result["images_per_second"], done.reason) == (1000.0, "")
    first, *said = (tmp_path / "sweep" / done.log).read_text().splitlines()
    assert first.startswith("$ ")
    assert "--expect-ranks=2" in first
    assert said == ["hello", "there"]


def test_a_result_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    point, log = Settings((2,), "x {ranks}").points[0], tmp_path / "log"
    log.touch()
    writing = threading.Timer(
        0.3, lambda: (tmp_path / "r.json").write_text(json.dumps(result_of(point, 5.0)))
    )
    writing.start()
    result = result_of_ended(Ended(0), tmp_path / "r.json", log, Measurement(point, 1))
    writing.join()
    assert isinstance(result, dict)


def test_a_hanging_one_is_ended_with_all_its_children(try_launcher: Try) -> None:
    start = time.monotonic()
    done = try_launcher("(setsid sleep 300 &) ; sleep 300 & echo waiting; wait", timeout=1.0)
    assert done is not None
    assert done.reason == "not over after 1 s (--timeout), so it was ended; it said: waiting"
    assert done.exit_code is None
    assert time.monotonic() - start < 30


def test_one_that_ignores_sigterm_is_ended_too(
    try_launcher: Try, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distcnn.scaling.processes.SECONDS_TO_END", 0.5)
    done = try_launcher("trap '' TERM; while :; do sleep 0.2; done", timeout=0.5)
    assert done is not None
    assert "--timeout" in done.reason


def test_children_that_outlive_the_launcher_are_ended(try_launcher: Try) -> None:
    done = try_launcher(f"setsid sleep 300 & {good()}")
    assert done is not None
    assert done.ok


def test_a_launcher_that_cannot_be_started(try_launcher: Try, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    records = Records(tmp_path / "sweep", Settings((2,), "/nowhere/mpirun -n {ranks}"))
    done = measure(Measurement(records.settings.points[0], 1), records, 5.0, StopRequests())
    assert done is not None
    assert (
        done.reason
        == "the launcher '/nowhere/mpirun' cannot be started (No such file or directory)"
    )


def test_a_signal_ends_it_and_nothing_is_kept(try_launcher: Try) -> None:
    stop = StopRequests()
    stop.received = signal.SIGTERM
    assert try_launcher("sleep 300", stop=stop) is None


def test_the_command_spells_out_every_flag() -> None:
    settings = Settings(
        (2,),
        "srun -n {ranks}",
        steps=5,
        flags={"model": "mlp", "learning_rate": 1e-05, "data": "my set.h5"},
    )
    command = command_of(Measurement(settings.points[0], 1), settings, Path("/r.json"))
    assert command[:3] == ["srun", "-n", "2"]
    assert command[4:] == [
        *(
            "-m",
            "distcnn.scaling.worker",
            "--result=/r.json",
            "--steps=5",
            "--data=my set.h5",
            "--model=mlp",
            "--num-shards=4",
        ),
        *("--microbatch-size=64", "--learning-rate=1e-05", "--expect-ranks=2"),
    ]


def test_the_most_telling_line_is_found() -> None:
    trace = (
        "$ c\nsomething\ndistcnn.scaling.worker: rank 1 of 2 failed\nTraceback (most recent call"
        " last):\n  File x\nValueError: bad\nFAQ"
    )
    assert last_words(trace) == "ValueError: bad"
    assert last_words("$ error here\nall is well\n\n") == "all is well"
    assert (
        last_words("$ c\n=  BAD\nTERMINATED WITH THE EXIT STRING: Killed (signal 9)\nSee the FAQ")
        == "TERMINATED WITH THE EXIT STRING: Killed (signal 9)"
    )
    assert last_words("$ c\nerror: " + "x" * 1000).endswith("...")
    assert last_words("$ c\n") == ""
    assert (exit_text(-15), exit_text(3)) == ("ended by SIGTERM", "exit code 3")


def test_records_come_back_as_they_were_and_damaged_ones_do_not(tmp_path: Path) -> None:
    records = Records(tmp_path, Settings((1, 2), "x {ranks}"))
    point = records.settings.points[1]
    good_one, failed = record(point, 1), record(point, 2, reason="no")
    for each in (good_one, failed):
        records.add(each)
        assert records.find(each.measurement) == each
    file = tmp_path / "measurements" / "strong-2-ranks-repeat-1.json"
    whole = file.read_text()
    for damaged in (
        whole[:-100],
        "",
        "[]",
        whole.replace('"params_sha256"', '"other"'),
        whole.replace('"ok": true', '"ok": false'),
    ):
        file.write_text(damaged)
        assert records.find(good_one.measurement) is None
    (tmp_path / "measurements" / ".strong-2-ranks-repeat-1-0123.json").touch()
    records.remove_unfinished()
    assert not list((tmp_path / "measurements").glob(".*"))


def test_links_in_the_folder_are_not_followed(try_launcher: Try, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / ".profile").write_text("precious")
    (tmp_path / "sweep" / "measurements").mkdir(parents=True)
    log = tmp_path / "sweep" / "measurements" / "strong-2-ranks-repeat-1.log"
    log.symlink_to(victim / ".profile")
    assert try_launcher("exit 7") is not None
    assert not log.is_symlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "measurements").symlink_to(victim)
    with pytest.raises(InputError, match="symbolic link"):
        Records(tmp_path / "other", Settings((2,), "x {ranks}"))
    assert (victim / ".profile").read_text() == "precious"

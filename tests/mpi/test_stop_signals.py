"""Signals that ask a run to stop: a checkpoint at a step that all ranks share, exit code 85, and a
resume to the bits of an uninterrupted run.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from distcnn.checkpoints import CheckpointStore
from distcnn.cli.command import EXIT_STOPPED
from distcnn.fault_tolerance.signals import EXIT_INTERRUPTED, STOP_SIGNALS
from tests.conftest import SERIAL, Launcher, MakeImageSet, as_flags, slow
from tests.support.running import (
    STAGED,
    STAGED_STEPS,
    Ended,
    Running,
    reference_hash,
    resume,
    running,
    staged,
)

# Makes the terminal on its standard input that of its session, as a shell's is.
IN_TERMINAL = [
    sys.executable,
    "-c",
    (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        " os.execvp(sys.argv[1], sys.argv[1:])"
    ),
]
Where = list[int] | str
QUICK_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# distcnn.train, but one function that it calls says that it is there, waits so long, and only then
# does its work.
SLOW = """
import sys, time
from distcnn import train
from distcnn.fault_tolerance import signals
from distcnn.training import session

name, seconds, signals.SECONDS_TO_MAKE_RUN = sys.argv[1], float(sys.argv[2]), 2.0
work = getattr(session, name)

def slow(*arguments):
    print("waiting in", name, flush=True)
    time.sleep(seconds)
    return work(*arguments)

setattr(session, name, slow)
sys.exit(train.main(sys.argv[3:]))
"""


def send(run: Running, number: signal.Signals, where: Where) -> None:
    if isinstance(where, str):
        run.process.send_signal(number)
    else:
        run.send(number, *where)


def check_stopped(
    ended: Ended, number: signal.Signals, ranks: list[int], path: Path, start: str = "mpirun -n 3 "
) -> None:
    """It ended at the step of the message and of the only checkpoint."""
    assert ended.code == EXIT_STOPPED, ended.stderr
    (step,) = CheckpointStore(path / "checkpoints").steps()
    assert CheckpointStore(path / "checkpoints").load(step).attributes["step"] == step
    who = "Ctrl-C" if number == signal.SIGINT else number.name
    where = "" if 0 in ranks else f" on rank {', '.join(map(str, ranks))}"
    assert (
        f"distcnn.train: stopped by {who}{where} after step {step} of {STAGED_STEPS};"
        " checkpoint saved\n" in ended.stderr
    )
    assert f"continue with: {start}python -m distcnn.train --resume {path}" in ended.stderr


# Open MPI's mpirun kills its ranks a quarter of a second after SIGTERM and SIGINT: see the test
# below.
@pytest.mark.parametrize(
    ("number", "where"),
    [
        (signal.SIGTERM, [1]),
        (signal.SIGUSR1, "mpirun"),
        *slow(
            (signal.SIGINT, [0]),
            (signal.SIGUSR1, [0, 1, 2]),
            (signal.SIGHUP, [2]),
            (signal.SIGUSR2, [0, 2]),
            (signal.SIGXCPU, [1]),
        ),
    ],
)
def test_a_signal_gives_a_checkpoint_and_85(
    number: signal.Signals, where: Where, any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    with running(
        any_mpi, 3, *STAGED, *as_flags(data=image_set(), output=tmp_path / "run"), STAGED_PACE="0.1"
    ) as run:
        run.wait_for_step(2)
        start = time.monotonic()
        send(run, number, where)
        ended = run.end(20)
    print(f"measured: {any_mpi.name}, {number.name} to {where}: {time.monotonic() - start:.1f} s")
    check_stopped(ended, number, [0, 1, 2] if isinstance(where, str) else where, tmp_path / "run")
    launcher, ranks = (any_mpi, 2) if isinstance(where, str) else (SERIAL, 1)
    result = resume(launcher, ranks, tmp_path / "run")
    assert (result["params_sha256"], result["world_size"]) == (reference_hash(image_set()), 3)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_mpirun_leaves_a_run_that_can_be_resumed(
    number: signal.Signals, any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = ["--data", str(image_set()), "--output", str(tmp_path / "run")]
    with running(any_mpi, 3, *STAGED, *flags, STAGED_PACE="0.2") as run:
        run.wait_for_step(2)
        start = time.monotonic()
        send(run, number, "mpirun")
        ended = run.end(20)
    print(
        f"measured: {any_mpi.name}, {number.name} to mpirun: {time.monotonic() - start:.1f} s, exit"
        f" code {ended.code}"
    )
    if any_mpi.name == "openmpi":
        assert ended.code != 0
    else:
        check_stopped(ended, number, [0, 1, 2], tmp_path / "run")
    assert resume(SERIAL, 1, tmp_path / "run")["params_sha256"] == reference_hash(image_set())


@pytest.mark.parametrize(
    "number", [*QUICK_SIGNALS, *slow(*(each for each in STOP_SIGNALS if each not in QUICK_SIGNALS))]
)
def test_one_process_without_a_launcher(
    number: signal.Signals, image_set: MakeImageSet, tmp_path: Path
) -> None:
    with running(
        SERIAL, 1, *STAGED, *as_flags(data=image_set(), output=tmp_path / "run"), STAGED_PACE="0.05"
    ) as run:
        run.wait_for_text(
            "results "
        )  # from the headline on it must be 85, also before the first step
        send(run, number, [0])
        check_stopped(run.end(10), number, [0], tmp_path / "run", start="")
    assert resume(SERIAL, 1, tmp_path / "run")["params_sha256"] == reference_hash(image_set())


def test_a_signal_while_it_starts_leaves_no_obstacle(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    for number, milliseconds in enumerate((50, 250)):
        path = tmp_path / str(number)
        with running(SERIAL, 1, *STAGED, "--data", str(image_set()), "--output", str(path)) as run:
            time.sleep(milliseconds / 1000)
            send(run, signal.SIGTERM, [0])
            ended = run.end(10)
        assert ended.code in (-signal.SIGTERM, EXIT_STOPPED, 0), ended.stderr
        assert "Traceback" not in ended.stderr
        if not path.exists():
            assert ended.code == -signal.SIGTERM
            result = SERIAL.train(1, path, *STAGED[2:], "--data", str(image_set()))
            assert result["params_sha256"] == reference_hash(image_set())
            continue
        assert resume(SERIAL, 1, path)["params_sha256"] == reference_hash(image_set())


ENDED = "distcnn.train: ended by SIGTERM before the first step: nothing to save\n"


def end_while_slow(
    launcher: Launcher, ranks: int, where: list[int], name: str, seconds: float, *flags: str
) -> Ended:
    """How a run ends if it receives SIGTERM while in the function ``name``."""
    with running(launcher, ranks, "-c", SLOW, name, str(seconds), *STAGED[2:], *flags) as run:
        run.wait_for_text(f"waiting in {name}")
        send(run, signal.SIGTERM, where)
        ended = run.end(10)
    assert "Traceback" not in ended.stderr
    return ended


def test_a_signal_before_there_is_a_run_ends_by_it(image_set: MakeImageSet, tmp_path: Path) -> None:
    path = tmp_path / "run"
    for name in ("prepare_run", "open_directory"):
        ended = end_while_slow(SERIAL, 1, [0], name, 60, *as_flags(data=image_set(), output=path))
        assert (ended.code, path.exists()) == (-signal.SIGTERM, False)
        assert ended.stderr == ENDED


@pytest.mark.parametrize("where", [[0], [1]])
def test_a_signal_before_there_is_a_run_under_mpirun(
    where: list[int], any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    ended = end_while_slow(
        any_mpi, 2, where, "prepare_run", 60, *as_flags(data=image_set(), output=path)
    )
    print(
        f"measured: {any_mpi.name}, SIGTERM to rank {where[0]} before there is a run: exit code"
        f" {ended.code}"
    )
    assert ended.code not in (0, EXIT_STOPPED)
    assert ENDED in ended.stderr
    assert not path.exists()


def test_a_signal_while_the_run_is_made_waits_until_it_can_be_resumed(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    ended = end_while_slow(
        SERIAL, 1, [0], "open_directory", 0.5, *as_flags(data=image_set(), output=path)
    )
    assert ended.code == EXIT_STOPPED  # at once, or after the first step, if that came before
    ended = end_while_slow(
        SERIAL, 1, [0], "prepare_run", 60, *as_flags(resume=path, trust_model=True)
    )
    assert (ended.code, ended.stderr) == (
        EXIT_STOPPED,
        ENDED,
    )  # also before the first step of a resumed run
    assert resume(SERIAL, 1, path)["params_sha256"] == reference_hash(image_set())


@pytest.mark.slow
@pytest.mark.parametrize("where", [[1], "mpirun"])
def test_a_second_interrupt_ends_a_long_step_at_once(
    where: Where, any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = ["--data", str(image_set()), "--output", str(tmp_path / "run")]
    with running(any_mpi, 3, *STAGED, *flags, **staged("hang", [2], 2)) as run:
        run.wait_for_step(2, 2)
        run.wait_for(lambda: (beat := run.beat(1)) and beat.waiting, "rank 1 waiting in MPI")
        send(run, signal.SIGINT, where)
        time.sleep(1)
        if (
            any_mpi.name != "openmpi" or where != "mpirun"
        ):  # Open MPI's mpirun takes the first one for the second
            assert run.process.poll() is None, run.stderr
            send(run, signal.SIGINT, where)
        start = time.monotonic()
        ended = run.end(10)
        seconds = time.monotonic() - start
    print(
        f"measured: {any_mpi.name}, second SIGINT to {where}: {seconds:.1f} s, exit code"
        f" {ended.code}"
    )
    assert seconds < 2
    # MPICH's mpirun may tell the 9 by which it ended the other ranks.
    if (
        where != "mpirun"
        # Hydra's mpirun, which aborts by itself on a second one, was seen to end with 255 and with
        # 0
    ):
        assert ended.code in (EXIT_INTERRUPTED, signal.SIGKILL)
    assert not (tmp_path / "run" / "result.json").exists()


def test_one_process_ends_at_once_at_the_second_interrupt(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    with running(
        SERIAL,
        1,
        *STAGED,
        *as_flags(data=image_set(), output=tmp_path / "run"),
        **staged("hang", [0], 2),
    ) as run:
        run.wait_for_step(2)
        send(run, signal.SIGINT, [0])
        time.sleep(1)
        assert run.process.poll() is None
        send(run, signal.SIGINT, [0])
        start = time.monotonic()
        assert run.end(10).code == EXIT_INTERRUPTED
        assert time.monotonic() - start < 2


def typed_in_a_terminal(
    launcher: Launcher, ranks: int, path: Path, data: Path
) -> tuple[Ended, float, str]:
    """Type Ctrl-C once in a run's terminal; return the seconds until its end, and the terminal's
    text.
    """
    mine, terminal = os.openpty()
    arguments = [*STAGED, "--data", str(data), "--output", str(path)]
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    try:
        with running(
            launcher, ranks, *arguments, prefix=IN_TERMINAL, STAGED_PACE="0.1", **streams
        ) as run:
            run.wait_for_step(2)
            os.write(mine, b"\x03")
            start = time.monotonic()
            ended = run.end(20)
            seconds = time.monotonic() - start
            return ended, seconds, os.read(mine, 1 << 16).decode()
    finally:
        os.close(mine)
        os.close(terminal)


def test_ctrl_c_in_a_terminal_of_one_process(image_set: MakeImageSet, tmp_path: Path) -> None:
    ended, _, text = typed_in_a_terminal(SERIAL, 1, tmp_path / "run", image_set())
    assert ended.code == EXIT_STOPPED
    assert "SIGINT: saving a checkpoint, then stopping; Ctrl-C again ends at once" in text
    assert "stopped by Ctrl-C after step " in text
    assert f"with: python -m distcnn.train --resume {tmp_path / 'run'}" in text


def test_ctrl_c_in_a_terminal_under_mpirun(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    ended, seconds, text = typed_in_a_terminal(any_mpi, 3, tmp_path / "run", image_set())
    print(
        f"measured: {any_mpi.name}, Ctrl-C in a terminal: {seconds:.1f} s, exit code {ended.code}"
    )
    if any_mpi.name == "mpirun":
        assert ended.code == EXIT_STOPPED
        assert "stopped by Ctrl-C after step " in text
        assert f"mpirun -n 3 python -m distcnn.train --resume {tmp_path / 'run'}" in text
    assert ended.code != 0
    assert resume(SERIAL, 1, tmp_path / "run")["params_sha256"] == reference_hash(image_set())


def test_a_terminal_that_is_closed_leaves_a_checkpoint(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    mine, terminal = os.openpty()
    arguments = [*STAGED, "--data", str(image_set()), "--output", str(tmp_path / "run")]
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    with running(SERIAL, 1, *arguments, prefix=IN_TERMINAL, STAGED_PACE="0.1", **streams) as run:
        os.close(terminal)
        run.wait_for_step(2)
        os.close(mine)
        assert run.end(20).code == EXIT_STOPPED
    assert resume(SERIAL, 1, tmp_path / "run")["params_sha256"] == reference_hash(image_set())

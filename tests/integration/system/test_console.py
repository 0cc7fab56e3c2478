"""Printing: whatever stream there is, closed, full, blocked, replaced or with little encoding, it
ends no command and holds none up.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distcnn.system import console
from distcnn.system.console import Output, guarded, say, tell
from distcnn.training.progress import Progress
from tests.conftest import ROOT, SERIAL, MakeImageSet, clean_environment

MODULES = ["train", "verify", "report", "benchmark", "scaling", "network", "doctor"]
SCRIPTS = ["data/mnist.py", "data/from_idx.py", "data/from_images.py"]
COMMANDS = [*(["-m", f"distcnn.{name}"] for name in MODULES), *([script] for script in SCRIPTS)]
QUICK = ["--model", "tutorial", "--epochs", "1"]


def shell(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell's line, in which "$@" is Python with ``arguments``."""
    words = ["sh", "-c", script, "sh", sys.executable, *arguments]
    return subprocess.run(
        words,
        capture_output=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env=clean_environment() | environment,
    )


# -- replaced streams


class Bare:
    """The least that ``print`` needs."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


class Broken(Bare):
    """One that raises what it likes."""

    def write(self, text: str) -> None:
        raise ZeroDivisionError("broken")


def test_streams_without_a_descriptor_or_an_encoding_are_written_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for stream in (io.StringIO(), Bare()):
        monkeypatch.setattr(sys, "stdout", stream)
        with guarded():
            say("wörld", "\N{SNOWMAN}")
            progress = Progress()
            progress.start(2)
            progress.say("more")
            progress.close()
        assert (
            stream.getvalue() if isinstance(stream, io.StringIO) else stream.text
        ) == "wörld\n\N{SNOWMAN}\nmore\n"
        assert sys.stdout is stream


def test_streams_that_raise_or_are_closed_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (Broken(), closed, None):
        errors = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", errors)
        with guarded():
            say("a")
            print("b", flush=True)
        assert errors.getvalue().count("cannot be written") == (stream is not None)
        monkeypatch.setattr(sys, "stderr", stream)
        tell("c")
        with guarded():
            tell("d")


def test_what_an_encoding_lacks_is_printed_as_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", errors="strict"))
    with guarded():
        print("é", flush=True)  # a user's own module
        say("é \N{SNOWMAN} caf\udce9")
    assert raw.getvalue() == b"\\xe9\n\\xe9 \\u2603 caf\\xe9\n"


def test_tell_needs_no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii", errors="strict"))
    tell("two\nlines \x1b[2J é")
    assert raw.getvalue() == b"two\nlines \\x1b[2J \\xe9\n"


def test_an_escape_sequence_or_a_line_feed_in_a_line_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say("name \x1b]0;title\x07 \x9b2J", "forged\nresult \r\u202e")
    assert (
        capsys.readouterr().out == "name \\x1b]0;title\\x07 \\x9b2J\nforged\\nresult \\r\\u202e\n"
    )


# -- a stream that blocks


@contextlib.contextmanager
def full_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Standard output is a pipe that takes nothing more; gives its reading end."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 512)
    os.set_blocking(writer, True)
    stream = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "__stdout__", stream)
    monkeypatch.setattr(sys, "stdout", stream)
    try:
        yield reader
    finally:
        monkeypatch.undo()
        os.close(reader)  # whoever is writing gets an error
        stream.close()


def read_all(reader: int, end: bytes) -> bytes:
    content = b""
    while not content.endswith(end):
        content += os.read(reader, 1 << 16)
    return content.lstrip(b"x")


def test_a_stream_that_blocks_holds_up_nobody_and_loses_nothing_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with full_pipe(monkeypatch) as reader, guarded():
        start = time.monotonic()
        for number in range(1000):
            say(f"line {number}")
        assert time.monotonic() - start < 3
        content = read_all(reader, b"line 999\n")
    assert content.decode() == "".join(f"line {number}\n" for number in range(1000))


def test_lines_beyond_the_bound_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "MOST_WAITING", 1000)
    with full_pipe(monkeypatch) as reader, guarded():
        for number in range(1000):
            say(f"line {number}")
        lines = read_all(reader, b"line 999\n").decode().splitlines()
    gaps = [line for line in lines if "left out" in line]
    assert len(gaps) == 1
    assert len(lines) - 1 + int("".join(filter(str.isdigit, gaps[0]))) == 1000
    assert lines[0] == "line 0"


def test_the_end_waits_for_a_reader_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "SECONDS_TO_DRAIN", 1.0)
    with full_pipe(monkeypatch) as reader:
        start = time.monotonic()
        with guarded():
            say("last")
        assert 0.9 < time.monotonic() - start < 5
        late = threading.Thread(target=lambda: (time.sleep(0.3), read_all(reader, b"later\n")))
        with guarded():
            late.start()
            say("later")
            late.join(10)
            assert not late.is_alive()


def test_a_progress_bar_that_blocks_waits_as_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTCNN_PROGRESS", "bar")
    with full_pipe(monkeypatch) as reader, guarded():
        progress = Progress()
        progress.start(5000)
        for _ in range(5000):
            progress.step(1.0, 1.0)
            progress._bar.refresh()
        progress.say("a line")
        progress.close()
        content = read_all(reader, b"\n")
        while b"a line\n" not in content:
            content += read_all(reader, b"\n")
    assert b"5000/5000" in content
    assert len(content) < 5000


def test_where_no_thread_can_be_started_the_caller_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream, os.fdopen(reader) as lines:
        monkeypatch.setattr(sys, "__stdout__", stream)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(threading.Thread, "start", forbidden)
        with guarded():
            say("line")
        assert lines.readline() == "line\n"
        monkeypatch.undo()


# -- whole commands


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[-1])
def test_help_that_nobody_reads_is_no_failure(command: list[str]) -> None:
    done = shell('{ "$@"; echo "code $?" >&2; } | true', *command, "--help")
    assert done.stderr == b"code 0\n"


@pytest.mark.parametrize(
    "closed", [">&-", "2>&-", ">&- 2>&- <&-", ">/dev/full", "| true", "| head -1"]
)
def test_a_run_outlives_its_streams(closed: str, image_set: MakeImageSet, tmp_path: Path) -> None:
    flags = ["--data", str(image_set()), *QUICK, "--output", str(tmp_path / "run")]
    done = shell(f'{{ "$@"; echo $? >{tmp_path}/code; }} {closed}', "-m", "distcnn.train", *flags)
    assert (tmp_path / "code").read_text() == "0\n", done.stderr
    assert (tmp_path / "run" / "result.json").exists()
    assert b"Traceback" not in done.stderr


@pytest.mark.mpi
def test_ranks_outlive_their_streams(mpirun: Any, image_set: MakeImageSet, tmp_path: Path) -> None:
    flags = ["--data", str(image_set()), *QUICK, "--output", str(tmp_path / "run")]
    words = [
        mpirun.mpirun,
        "-n",
        "2",
        "sh",
        "-c",
        'exec "$@" >&- 2>&-',
        "sh",
        mpirun.python,
        "-m",
        "distcnn.train",
        *flags,
    ]
    done = subprocess.run(
        words, capture_output=True, timeout=120, check=False, cwd=ROOT, env=clean_environment()
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1", "no-such-encoding"])
def test_names_that_the_terminal_cannot_show(
    encoding: str, image_set: MakeImageSet, tmp_path: Path
) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9 \xe2\x98\x83 \x1b[2J\nforged"
    flags: list[Any] = ["--data", str(image_set()), *QUICK, "--output", path]
    if encoding == "no-such-encoding":
        encoding = "utf-8"
    done = shell('"$@"', "-m", "distcnn.train", *flags, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout
    assert b"\nforged" not in done.stdout
    assert b"caf\\xe9 " in done.stdout
    again = shell('"$@"', "-m", "distcnn.train", "--resume", path, PYTHONIOENCODING=encoding)  # type: ignore[arg-type]
    assert (again.returncode, again.stderr) == (0, b"")
    checked = shell('"$@"', "-m", "distcnn.verify", path, PYTHONIOENCODING=encoding)  # type: ignore[arg-type]
    assert (checked.returncode, checked.stderr) == (0, b"")
    drawn = shell('"$@"', "-m", "distcnn.report", path, PYTHONIOENCODING=encoding)  # type: ignore[arg-type]
    assert (drawn.returncode, drawn.stderr) == (0, b"")


def test_a_broken_flag_of_a_strange_name_is_one_line(tmp_path: Path) -> None:
    done = shell(
        '"$@"', "-m", "distcnn.train", "--data", "no\nsuch\x1b[31m.h5", PYTHONIOENCODING="ascii"
    )
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"\x1b" not in done.stderr


def test_a_run_whose_output_blocks_trains_to_its_end(
    image_set: MakeImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [
        "--data",
        str(image_set()),
        "--model",
        "tutorial",
        "--epochs",
        "30",
        "--log-every",
        "1",
        "--stall-timeout",
        "1",
    ]
    with full_pipe(monkeypatch):
        words = [SERIAL.python, "-m", "distcnn.train", *flags, "--output", str(tmp_path / "run")]
        start = time.monotonic()
        done = subprocess.run(
            words,
            stdout=sys.stdout.fileno(),
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
            cwd=ROOT,
        )
        assert time.monotonic() - start < 30
    assert (done.returncode, done.stderr) == (0, b"")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) >= 60


# What a notebook, a test or a service may have in the streams' places: each runs a whole training.
REPLACED = {
    "texts in memory": "sys.stdout, sys.stderr = io.StringIO(), io.StringIO()",
    "objects that only write": (
        "sys.stdout = sys.stderr = type('Bare', (), {'write': lambda self, text: None})()"
    ),
    "objects that raise": (
        "sys.stdout = sys.stderr = type('Bad', (), {'write': lambda self, text: 1 / 0})()"
    ),
    "nothing": "sys.stdout = sys.stderr = None",
    "closed": "sys.stdout.close(); sys.stderr.close()",
    "bytes": "sys.stdout = io.BytesIO()",
}


@pytest.mark.parametrize("what", REPLACED)
def test_a_run_with_replaced_streams(what: str, image_set: MakeImageSet, tmp_path: Path) -> None:
    program = (
        f"import io, os, sys\nfrom distcnn import train\n{REPLACED[what]}\ncode ="
        " train.main(sys.argv[1:])\nos._exit(code)"
    )
    done = SERIAL.run(
        1, "-c", program, "--data", str(image_set()), *QUICK, "--output", str(tmp_path / "run")
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").exists()


def test_an_interrupt_while_a_replaced_stream_is_written_does_not_silence_it() -> None:
    class Interrupted(io.StringIO):
        interrupts = 1

        def write(self, text: str) -> int:
            if self.interrupts:
                self.interrupts -= 1
                raise KeyboardInterrupt
            return super().write(text)

    stream = Interrupted()
    output = Output(stream, lambda error: None)
    with pytest.raises(KeyboardInterrupt):
        output.write("lost\n")
    output.write("shown\n")
    assert "shown\n" in stream.getvalue()

"""Output that blocks, breaks or lacks an encoding ends nothing and loses no short text."""

from __future__ import annotations

import io
import os
import sys
import threading
import time

import pytest

from distcnn.system import console
from distcnn.system.console import OutputStream, guarded, say, tell
from distcnn.training.progress import Progress
from tests.support.full_pipe import full_pipe


class Bare:
    """The minimum that ``print`` needs."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


class Broken(Bare):
    """A stream that raises an unusual exception."""

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


def test_an_interrupt_while_a_replaced_stream_is_written_does_not_silence_it() -> None:
    class Interrupted(io.StringIO):
        interrupts = 1

        def write(self, text: str) -> int:
            if self.interrupts:
                self.interrupts -= 1
                raise KeyboardInterrupt
            return super().write(text)

    stream = Interrupted()
    output = OutputStream(stream)
    with pytest.raises(KeyboardInterrupt):
        output.write("lost\n")
    output.write("shown\n")
    assert "shown\n" in stream.getvalue()

"""Spans: listeners receive every one, in order, and none after they have left."""

from __future__ import annotations

import threading

import pytest

from distcnn.spans import Span, listening


class Recorder:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def begin(self, span: Span) -> None:
        self.heard.append(f"begin {span!r}")

    def end(self, span: Span) -> None:
        self.heard.append(f"end {span!r}")


def test_spans_nest_and_carry_labels() -> None:
    recorder = Recorder()
    step = Span("step")
    with listening(recorder), step, Span("forward", layer="conv1"):
        pass
    with step:
        pass
    assert recorder.heard == [
        *("begin step", "begin forward layer=conv1"),
        *("end forward layer=conv1", "end step"),
    ]


def test_an_exception_ends_its_spans() -> None:
    recorder = Recorder()
    with pytest.raises(ValueError, match="on purpose"), listening(recorder), Span("step"):
        raise ValueError("on purpose")
    assert recorder.heard == ["begin step", "end step"]


def test_several_listeners_hear_all_threads() -> None:
    one, other = Recorder(), Recorder()

    def work() -> None:
        with Span("sum"):
            pass

    with listening(one), listening(other):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert one.heard == other.heard == ["begin sum", "end sum"]

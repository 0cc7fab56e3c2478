"""Signals that ask a sweep to stop: noted by a handler, asked for between naps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from distcnn.fault_tolerance.signals import stop_signals_here


class StopRequests:
    """While it is entered, ``received`` is the first stop signal, if any, and ``again`` whether
    another came.

    Outside the main thread it does nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.again = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequests:
        if (
            threading.current_thread() is not threading.main_thread()
        ):  # elsewhere Python sets no handlers
            return self
        for each in stop_signals_here():
            self._before[each] = signal.signal(each, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.again = self.received is not None
        self.received = self.received or signal.Signals(number)

"""Python warnings of all ranks (of NumPy, h5py, the user's layers): each text is printed once."""

from __future__ import annotations

import hashlib
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from distcnn.distributed import Communicator
from distcnn.distributed.communicator import JointError
from distcnn.errors import Stopped, TrainingError
from distcnn.fault_tolerance.failure import relative
from distcnn.fault_tolerance.host_election import claim
from distcnn.spans import Span
from distcnn.system.console import tell
from distcnn.system.wording import plural

MOST_TEXTS = 50
"""Different texts that one rank reports; a text with a number that changes would never end."""


class RankWarnings:
    """Collects this process's warnings within its context, instead of printing each on each rank.

    ``show`` prints what is new, through ``report`` on rank 0, and so does the end of the context.
    It is also a listener: it shows them when a span ends that all ranks enter together. If one rank
    fails alone, it prints its own.
    """

    def __init__(self, communicator: Communicator, report: Callable[[str], None] = tell) -> None:
        self._communicator, self._report = communicator, report
        self._found: set[str] = set()
        self._new: deque[str] = deque()
        self._shown: set[str] = set()

    def __enter__(self) -> Self:
        self._before = warnings.showwarning
        warnings.showwarning = self._note
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        warnings.showwarning = self._before
        if kind is None or issubclass(kind, JointError | TrainingError | Stopped):
            self.show()
            return
        for text in self._take():  # the other ranks do not come to a collective call
            digest = hashlib.sha256(text.encode()).hexdigest()[:16]
            if claim(f"warning-{self._communicator.job}-{digest}"):
                tell(self._line(text, [self._communicator.rank]))

    def show(self) -> None:
        """Print what is new on any rank. Collective."""
        ranks: dict[str, list[int]] = {}
        for rank, texts in enumerate(self._communicator.gather(self._take()) or []):
            for text in texts:
                ranks.setdefault(text, []).append(rank)
        for text, found in ranks.items():
            if text not in self._shown:
                self._shown.add(text)
                self._report(self._line(text, found))

    def begin(self, span: Span) -> None:
        """As a listener."""

    def end(self, span: Span) -> None:
        self.show()

    def _note(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        """In place of ``warnings.showwarning``; in any thread."""
        words = " ".join(str(message).split())
        text = f"{words} ({category.__name__}, {relative(filename)}, line {lineno})"
        if text not in self._found and len(self._found) < MOST_TEXTS:
            self._found.add(text)
            self._new.append(text)

    def _take(self) -> list[str]:
        return [self._new.popleft() for _ in range(len(self._new))]

    def _line(self, text: str, ranks: list[int]) -> str:
        world, others = self._communicator, len(ranks) - 1
        if world.world_size == 1:
            return f"warning: {text}"
        more = f", and {others} other {plural(others, 'rank')}" if others else ""
        return f"warning (rank {ranks[0]} on {world.hosts[ranks[0]]}{more}): {text}"

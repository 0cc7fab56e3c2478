"""A subject of the examination: every rank looks, one judges what all saw.

Nothing that goes wrong in it hides the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from distcnn.doctor.finding import BAD, Finding, Places, gathered

T = TypeVar("T")

Facts = dict[str, Any]
"""What one rank saw: only what JSON can hold."""
Everyone = Mapping[int, Facts]
"""What each rank saw, by rank."""
FAILED = "failed"


@dataclass(frozen=True)
class Section:
    """``look`` runs on every rank; ``judge``, on one of them, gets what all saw that could look."""

    name: str
    look: Callable[..., Facts]
    judge: Callable[[Places, Everyone], list[Finding]]

    def seen(self, *arguments: Any) -> Facts:
        """What this rank sees; where looking itself fails, why."""
        try:
            return self.look(*arguments)
        except Exception as error:
            return {FAILED: root_cause(error)}

    def judged(self, places: Places, everyone: Everyone) -> list[Finding]:
        """The findings. A look or a judgement that failed is one too."""
        failed = {
            rank: [self._failure(facts[FAILED])]
            for rank, facts in everyone.items()
            if FAILED in facts
        }
        whole = {rank: facts for rank, facts in sorted(everyone.items()) if rank not in failed}
        try:
            found = self.judge(places, whole) if whole else []
        except Exception as error:
            found = [self._failure(root_cause(error))]
        return [*found, *gathered(places, failed)]

    def _failure(self, problem: str) -> Finding:
        remedy = (
            "something here is as nobody foresaw: look at what the error names; please report it,"
            " with this text"
        )
        return Finding(self.name, BAD, f"the check itself failed: {problem}", remedy)


def tried(work: Callable[[], Facts]) -> Facts:
    """What ``work`` finds; where it cannot, the ``problem``.

    For looks that other ranks wait for.
    """
    try:
        return work()
    except Exception as error:
        return {"problem": root_cause(error)}


def root_cause(error: BaseException) -> str:
    """What began it, in one line: libraries wrap the reason of a failed import in advice."""
    while (
        cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    ) is not None:
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {'; '.join(lines[:2])}" if lines else type(error).__name__


def bounded(seconds: float, what: str, work: Callable[[], T]) -> T:
    """``work``'s result.

    ``TimeoutError`` when it takes longer than ``seconds``: then it goes on in a thread that nobody
    waits for.
    """
    outcome: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not outcome:
        raise TimeoutError(f"{what} took more than {seconds:g} s")
    return outcome[0]

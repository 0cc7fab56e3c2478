"""Stopwatches around what a run does between its steps: there they stand from its first step to its
end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from distcnn.checkpoints import CheckpointStore
from distcnn.profiling.recorder import Parts, Recorder, clock
from distcnn.training import loop
from distcnn.training.checkpointing import Saving
from distcnn.training.loop import Records
from distcnn.training.parts import Work, replaced
from distcnn.training.setup import Run


@contextmanager
def between_steps(
    run: Run,
    records: Records,
    saving: Saving,
    before_test: Callable[[], None],
    parts: Parts,
    main: Recorder,
    writer: Recorder,
) -> Iterator[None]:
    """While it is entered, record it in ``main``; what the thread does that writes checkpoints, in
    ``writer``.
    """

    def timed(name: str, recorder: Recorder = main) -> Callable[[Work], Work]:
        part = parts.number_of(name)

        def around(work: Work) -> Work:
            def call(*arguments: Any, **keywords: Any) -> Any:
                begin = clock()
                result = work(*arguments, **keywords)
                if recorder.takes():
                    recorder.add(part, 0, begin, clock())
                return result

            return call

        return around

    def test(evaluation: Work) -> Work:
        def call() -> Any:
            before_test()  # it goes through the layers as often as many steps do
            return evaluation()

        return timed("evaluation")(call)

    with ExitStack() as held:
        for owner, name, make in (
            (run.evaluation, "take", test),
            (loop, "close_epoch", timed("ledger")),
            (loop, "compare_replicas", timed("replicas")),
            (records, "add_metrics", timed("metrics")),
            (records, "add_receipt", timed("receipt")),
            (records, "finish", timed("results")),
            (saving, "save", timed("checkpoint")),
            (saving, "wait", timed("wait for checkpoint")),
            (CheckpointStore, "save", timed("write checkpoint", writer)),
        ):
            held.enter_context(replaced(owner, name, make))
        yield

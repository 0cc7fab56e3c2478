"""A run from its beginning or last checkpoint to its end, for ``Trainer.fit`` and the command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from distcnn.checkpoints import CheckpointStore
from distcnn.config import Config
from distcnn.config_parsing import Request
from distcnn.datasets import Dataset
from distcnn.distributed import Communicator, on_root, together
from distcnn.fault_tolerance.signals import StopSignals
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.spans import CREATE_RUN, READ_RUN, RESTORE, Span
from distcnn.system.files import remove_temporary_files
from distcnn.training import resume
from distcnn.training.advice import warnings_of
from distcnn.training.callbacks import Callback, Callbacks
from distcnn.training.checkpointing import RunRecorder, check_dataset, restore_checkpoint
from distcnn.training.loop import Loop
from distcnn.training.progress import Progress
from distcnn.training.results import RunResult
from distcnn.training.resume import ResumePoint, open_directory
from distcnn.training.run_directory import CHECKPOINTS
from distcnn.training.run_files import locked, require_owner
from distcnn.training.selection import best_weights
from distcnn.training.setup import Components, Run, prepare_run
from distcnn.training.starts import begin_recording
from distcnn.training.state import State
from distcnn.training.tensorboard import TensorBoard, require_tensorboardx
from distcnn.training.time_left import time_left
from distcnn.user_code import require_outside

Announce = Callable[[Run, Path | None, State, ResumePoint | None], None]
Trace = Callable[[Run, State, Callable[[], str | Path]], AbstractContextManager[object]]
"""Called with the run, its state and a function that returns where the run directory is now, which
may be renamed; returns a context that is entered around the steps."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run; ``run`` is None when it was finished already, in ``point``."""

    result: RunResult
    run: Run | None
    point: ResumePoint | None
    state: State
    location: str
    """The run directory on root; empty elsewhere, and where nothing is written."""


@dataclass(frozen=True)
class Session:
    """What to train, where to record it, and who is informed."""

    request: Request
    communicator: Communicator
    progress: Progress
    components: Components | None = None
    """The objects in place of those that the configuration names."""
    images: Dataset | None = None
    """The image set in place of the one that the configuration names."""
    callbacks: Sequence[Callback] = ()
    writes: bool = True
    """Whether there is a run directory."""
    signals: StopSignals | None = None
    watchdog: Watchdog | None = None
    announce: Announce = lambda run, path, state, point: None
    """Called before the first step."""
    trace: Trace = lambda run, state, location: nullcontext()
    """Called for a run with ``--trace``."""

    def train(self) -> Outcome:
        """Find where to begin, and train to the end. Collective.

        All ranks raise ``InputError``; ``TrainingError`` or ``Stopped`` after saving the state.
        """
        with ExitStack() as held:  # the lock of the run directory
            return self._train(held)

    def _train(self, held: ExitStack) -> Outcome:
        request, communicator, progress = self.request, self.communicator, self.progress
        point = None
        if request.resume:
            with Span(READ_RUN):
                on_root(communicator, lambda: resume.existing_run(request.resume))
                if self.signals:
                    self.signals.can_resume = True
                point = on_root(communicator, lambda: self._resume_point(held))
        if point and point.result and "data" not in request.given:
            return _finished(point, point.result)
        config = point.config if point else on_root(communicator, lambda: request.config)
        if not self.writes:
            config = replace(config, checkpoint_every=0)
        if self.watchdog:
            self.watchdog.timeout_seconds = config.stall_timeout
        if self.components is None:
            output = request.given.get("output", "")
            own = config.own_code.values()
            together(communicator, lambda: require_outside(own, request.resume, output))
        callbacks, signals = Callbacks(self._all_callbacks(config), communicator), self.signals

        def stop_request() -> str | None:
            return (signals.requested if signals else None) or callbacks.problem

        run = prepare_run(
            config,
            communicator,
            progress.say,
            self.components,
            self.images,
            stop_request,
            Path(request.resume) if request.resume else None,
        )
        if point and (result := point.result):
            together(communicator, lambda: check_dataset(result.dataset, run))
            return _finished(point, result)
        for line in () if point else warnings_of(run.schedule):
            progress.say(f"warning: {line}")
        if request.debug:
            from distcnn.training.debug import check_network  # brings pdb and the replay

            check_network(run, progress.say)
        if point:
            sources, accepted = run.model_sources, request.accept_changed_model
            on_root(
                communicator, lambda: resume.check_model(point, sources, accepted, progress.say)
            )
            on_root(communicator, lambda: resume.check_initial_weights(point, run.initial))
        return self._take_steps(run, point, callbacks, held)

    def _all_callbacks(self, config: Config) -> list[Callback]:
        """The given ones, and that of ``--tensorboard``. Collective."""
        given = list(self.callbacks)
        if config.tensorboard and not any(isinstance(each, TensorBoard) for each in given):
            on_root(self.communicator, require_tensorboardx)
            report = self.progress.say
            given.append(together(self.communicator, lambda: TensorBoard(report=report)))
        return given

    def _resume_point(self, held: ExitStack) -> ResumePoint:
        """On root: the run to continue, locked if it is written there."""
        request = self.request
        if resume.is_in_place(request):
            directory = resume.existing_run(request.resume)
            if not request.allow_other_owner:
                require_owner(directory, CHECKPOINTS)
            held.enter_context(locked(directory))
            remove_temporary_files(directory)
            CheckpointStore(directory / CHECKPOINTS).remove_temporary_files()
        return resume.find_resume_point(request, self.progress.say)

    def _take_steps(
        self, run: Run, point: ResumePoint | None, callbacks: Callbacks, held: ExitStack
    ) -> Outcome:
        communicator, progress = run.communicator, self.progress
        checkpoint = point.checkpoint if point else None
        state, best = State(world_size=communicator.world_size), None
        if point and checkpoint:
            with Span(RESTORE):
                state = together(communicator, lambda: restore_checkpoint(run, checkpoint))
                best = best_weights(run, state, CheckpointStore(point.directory / CHECKPOINTS))
        path, recorder = None, RunRecorder()
        if self.writes:
            making = self.signals.making_run() if self.signals else nullcontext()
            with making, Span(CREATE_RUN):
                path = on_root(
                    communicator,
                    lambda: open_directory(run.config, point, held, self.request.allow_other_owner),
                )
            if communicator.rank == 0:
                recorder = begin_recording(run, path, point, progress.say, held)
        if self.signals:
            self.signals.steps_are_taken = True
        self.announce(run, path, state, point)
        progress.start(run.schedule.total_steps, state.step, time_left(run, state))
        callbacks.call("on_prepare", communicator.rank, path)
        callbacks.call("on_start", run.schedule.total_steps, state.step)
        callbacks.raise_together("before its first step")
        traced: AbstractContextManager[object] = nullcontext()
        if run.config.trace and path:
            traced = self.trace(run, state, lambda: recorder.location or path)
        try:
            with traced:
                result = Loop(run, state, recorder, progress, callbacks, best).train()
        finally:
            progress.close()
        callbacks.call("on_end", result)
        callbacks.raise_together("after its last step")
        return Outcome(result, run, point, state, str(recorder.location or ""))


def _finished(point: ResumePoint, result: RunResult) -> Outcome:
    return Outcome(result, None, point, State(step=result.steps), str(point.directory))

"""``Trainer``: training from Python, in one process or on the ranks of an MPI launcher."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from distcnn.config import Config
from distcnn.config_parsing import Request
from distcnn.datasets import Dataset
from distcnn.distributed import Communicator, on_root, open_communicator, together
from distcnn.distributed.blas_threads import restored_blas_threads
from distcnn.distributed.communicator import JointError
from distcnn.errors import Stopped, TrainingError, arguments_named
from distcnn.fault_tolerance.failure import report_failure
from distcnn.fault_tolerance.signals import StopSignals
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.loading import load
from distcnn.models import Model, find_model, model_name
from distcnn.network import Network
from distcnn.nn import LOSSES, Sequential
from distcnn.nn.losses import Loss
from distcnn.optim import SGD, Cosine, Optimizer, OwnSchedule, Schedule
from distcnn.registry import OPTIMIZER_SETTINGS, find_loss, name_of, optimizer_name, schedule_name
from distcnn.training import arguments
from distcnn.training.callbacks import Callback
from distcnn.training.progress import LoggedProgress, NoProgress, Progress
from distcnn.training.results import RunResult
from distcnn.training.session import Outcome, Session
from distcnn.training.setup import Components

NAME = "distcnn.Trainer"


class Trainer:
    """Trains a network, to the same bits on any number of ranks.

    Args:
        model: a ``Sequential``, a function ``(input_shape, classes) -> Sequential``, or the name of
            one of distcnn's networks (``"lenet"``, ``"wide"`` ...).
        optimizer: the update rule with its peak learning rate.
        schedule: scales the learning rate from step to step: a ``Schedule``, which has a warm-up,
            or a function of the progress from 0 to 1. The warm-up is limited to a quarter of the
            run.
        loss: ``"cross-entropy"``, ``"squared-error"``, or a function ``(outputs, labels, weights)
            -> (loss_sum, grad_outputs)`` of arrays (classes, N), (N,) and (N,).
        num_shards: fixed slices of the training set, the upper limit for ranks. Results depend
            on it, not on the number of ranks.
        microbatch_size: examples that a shard contributes to a step; the global batch is
            ``num_shards`` times this.
        seed: of the first weights and of the order of examples.
        arithmetic: ``"native"``, the fastest, whose bits depend on processor, BLAS and NumPy; or
            ``"portable"``, the same bits on every machine.
        reduction: the sum of gradients: ``"exact"`` (same bits on any number of ranks) or
            ``"fast"`` (plain float32).
        overlap: ``"on"`` sums gradients during the backward pass, to the same bits; ``"auto"`` does
            across hosts.
        gradient_limit: largest gradient of one shard that the exact sum accepts, a power of two.
        threads_per_rank: threads while ``fit`` runs; ``"auto"`` shares the cores among the ranks.
            In native arithmetic they are BLAS's, and bits depend on them (default 1). In portable
            arithmetic, the number of shards a rank computes at a time (default ``"auto"``).
        cycle_epochs: length of one learning-rate cycle (warm restarts); 0 for one cycle.
        initial_weights: what to start from: a run directory, or a file of weights (.h5 of distcnn
            or Keras, .safetensors, .npz, .onnx, .pt with a PyTorch state dict).
        map: which of them to load, as "ours=theirs,...", names of parameters or layers; by default
            all, by name or in the order of the layers.
        normalisation: of the inputs: that of the image set ("data"), that recorded with the initial
            weights ("weights"), or numbers, "0.1307/0.3081".
        freeze: names or patterns of parameters or layers that are not trained.
        communicator: an mpi4py communicator. By default all ranks where a launcher started several,
            else this process alone, without MPI.

    Raises:
        InputError: names the argument that is impossible, its value and what it must be.

    Example:
        >>> model = nn.Sequential([nn.Flatten(), nn.Dense(100), nn.ReLU(), nn.Dense(10)])
        >>> trainer = Trainer(model, optimizer=optim.SGD(learning_rate=0.03, momentum=0.9))
        >>> run = trainer.fit("data/mnist.h5", epochs=1, output="runs/first")
        >>> run.test_accuracy
        0.9511
    """

    def __init__(
        self,
        model: Sequential | Model | str = "lenet",
        *,
        optimizer: Optimizer | None = None,
        schedule: Schedule | Callable[[float], float] | None = None,
        loss: Loss | str = "cross-entropy",
        num_shards: int = 8,
        microbatch_size: int = 16,
        seed: int = 0,
        arithmetic: Literal["native", "portable"] = "native",
        reduction: str = "exact",
        overlap: Literal["auto", "on", "off"] = "auto",
        gradient_limit: float = 65536.0,
        threads_per_rank: int | Literal["auto"] | None = None,
        cycle_epochs: int = 0,
        initial_weights: str | Path = "",
        map: str = "",
        normalisation: str = "data",
        freeze: str | Sequence[str] = (),
        communicator: Any = None,
    ) -> None:
        self.optimizer = optimizer or SGD(learning_rate=0.03, momentum=0.9, nesterov=True)
        given = Cosine(warmup_steps=100) if schedule is None else schedule
        arguments.check_objects(model, loss, self.optimizer, given, communicator)
        self.schedule = given if isinstance(given, Schedule) else OwnSchedule(function=given)
        self._communicator = communicator
        with arguments_named():
            names = {
                "model": model_name(model),
                "loss": loss if isinstance(loss, str) else name_of(loss, LOSSES),
                "optimizer": optimizer_name(self.optimizer),
                "schedule": schedule_name(self.schedule),
            }
            rates = {
                name: getattr(self.optimizer, name, getattr(Config, name))
                for name in OPTIMIZER_SETTINGS
            }
            steps = {"warmup_steps": self.schedule.warmup_steps, "cycle_epochs": cycle_epochs}
            sizes = {"num_shards": num_shards, "microbatch_size": microbatch_size, "seed": seed}
            sums = {"reduction": reduction, "overlap": overlap, "gradient_limit": gradient_limit}
            sums |= {"arithmetic": arithmetic}
            start = {"initial_weights": str(initial_weights), "map": map}
            start |= {"normalisation": normalisation}
            start |= {"freeze": freeze if isinstance(freeze, str) else ",".join(freeze)}
            self._settings: dict[str, Any] = {**names, **rates, **steps, **sizes, **sums, **start}
            self._settings["threads_per_rank"] = str(threads_per_rank or "")
            config = Config(**self._settings)  # refuses what is impossible
            self._settings["threads_per_rank"] = config.threads_per_rank  # perhaps its default
            used = find_loss(loss) if isinstance(loss, str) else loss
            self._components = Components(find_model(model), used, self.optimizer, self.schedule)

    def fit(
        self,
        data: str | Path | Dataset | arguments.Arrays,
        *,
        epochs: int = 3,
        max_steps: int = 0,
        target_accuracy: float = 0.0,
        validation: float = 0.0,
        patience: int = 0,
        output: str | Path | None = None,
        resume: bool | str | Path = False,
        callbacks: Sequence[Callback] = (),
        data_memory: float = 0.0,
        checkpoint_every: int = 500,
        keep: int = 3,
        check_every: int = 100,
        log_every: int = 50,
        eval_every_epochs: int = 1,
        accept_changed_model: bool = False,
        spot_check: float = 0.0,
        stall_timeout: float = 0.0,
        handle_signals: bool = False,
        verbose: bool = False,
    ) -> RunResult:
        """Train, and test. All ranks call it with the same arguments.

        While it runs, BLAS has the threads that ``threads_per_rank`` says; then as many as before.
        On several ranks, any other exception than those below, such as one in a layer of your own,
        is reported and ends all ranks, which would wait for this one.

        Args:
            data: an HDF5 file, an image set of ``distcnn.datasets``, or arrays ``((train_images,
                train_labels), (test_images, test_labels))``: uint8 (N, H, W) or (N, H, W, C), and
                integers (N,).
            epochs: passes over the training set.
            max_steps: stop early after this many steps; the schedule is unchanged. 0: no limit.
            target_accuracy: stop at the first evaluation that reaches this fraction. 0: no target.
            validation: hold out this part of the training set, a fraction below 1 or a number of
                examples. It then chooses the best weights, and ends the run by ``target_accuracy``
                and ``patience``; the test set is used once, at the end. 0: the test set chooses.
            patience: stop after this many evaluations without a better accuracy. 0: never.
            output: the run directory, without a run yet; None to write nothing.
            resume: True to continue the run in ``output`` if there is one; or the directory of a
                run to continue. The trainer must be one of the same arguments.
            callbacks: called for steps and epochs, on every rank.
            data_memory: MiB per rank for a set that does not fit into memory; 0: keep all of it.
            checkpoint_every: steps between checkpoints, in addition to one per epoch; 0: no others.
            keep: number of checkpoints to keep, in addition to the best one.
            check_every: steps between comparisons of the weights over all ranks.
            log_every: steps between lines of metrics.
            eval_every_epochs: epochs between evaluations; 0: at the end only.
            accept_changed_model: resume although the source of your own code has changed.
            spot_check: let another rank, on another host if there is one, repeat this fraction of
                all shards; ``TrainingError`` before the update if a result differs. 0: none.
            stall_timeout: seconds without progress after which **all ranks' processes are ended**
                with a report; 0: never.
            handle_signals: whether SIGTERM, Ctrl-C and schedulers' warnings save a checkpoint and
                raise ``Stopped``. Needs the main thread, and takes over its signal handlers
                meanwhile.
            verbose: whether to print progress; otherwise lines go to the logger "distcnn".

        Returns:
            The summary of the run, the same on all ranks.

        Raises:
            InputError: on all ranks, for bad input.
            TrainingError: on all ranks, when training cannot continue (it has diverged, or a spot
                check has found a fault).
            Stopped: on all ranks, for a signal, with ``handle_signals``.
        """
        end = {"epochs": epochs, "max_steps": max_steps, "target_accuracy": target_accuracy}
        end |= {"validation": validation, "patience": patience}
        kept = {"checkpoint_every": checkpoint_every, "keep": keep, "check_every": check_every}
        logs = {"log_every": log_every, "eval_every_epochs": eval_every_epochs}
        host = {"data_memory": data_memory, "stall_timeout": stall_timeout}
        host |= {"spot_check": spot_check}
        settings = {**self._settings, **end, **kept, **logs, **host}
        communicator = self._open_communicator()
        with arguments_named(), _all_end(communicator), ExitStack() as held:
            name, images = together(communicator, lambda: arguments.image_set_of(data))
            together(communicator, lambda: arguments.check_output_and_callbacks(output, callbacks))
            arguments.require_same_settings(settings, communicator)
            given = {**settings, "data": name, "output": "" if output is None else str(output)}
            on_root(communicator, lambda: Config(**given))
            begun = on_root(communicator, lambda: arguments.run_to_resume(resume, output))
            request = Request(given, begun, accept_changed_model=accept_changed_model)
            signals = StopSignals(
                NAME,
                communicator.rank == 0,
                lambda: communicator.end_by_signal(signals.received or signal.SIGTERM),
            )
            progress = Progress() if verbose else LoggedProgress()
            held.enter_context(restored_blas_threads())
            stops = held.enter_context(signals) if handle_signals else None
            watchdog = held.enter_context(Watchdog(NAME, communicator)) if stall_timeout else None
            outcome = Session(
                request,
                communicator,
                progress if communicator.rank == 0 else NoProgress(),
                self._components,
                images,
                callbacks,
                writes=output is not None or bool(begun),
                signals=stops,
                watchdog=watchdog,
            ).train()
            where = on_root(communicator, lambda: outcome.location)
            network = together(communicator, lambda: self._network(outcome, where))
            return dataclasses.replace(outcome.result, output=where, network=network)

    def _network(self, outcome: Outcome, where: str) -> Network:
        """The trained network: from memory, or from ``where`` if the run was over already."""
        dataset = outcome.result.dataset
        channels, height, width = dataset.image_shape
        shape = channels, height, width
        if outcome.run is None:
            return load(where, model=self._components.model(shape, dataset.classes))
        return Network(
            outcome.run.model,
            outcome.run.parameters.named(),
            image_shape=shape,
            mean=dataset.mean,
            std=dataset.std,
            class_names=dataset.class_names,
            microbatch_size=outcome.result.microbatch_size,
            arithmetic=outcome.run.config.arithmetic,
        )

    @property
    def is_root(self) -> bool:
        """Whether this process is rank 0, the one that should print and write."""
        return self._open_communicator().rank == 0

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self._open_communicator().world_size

    def _open_communicator(self) -> Communicator:
        if self._communicator is None:
            self._communicator = open_communicator()
        elif hasattr(self._communicator, "Get_rank"):  # mpi4py's
            from distcnn.distributed.mpi import MPICommunicator

            self._communicator = MPICommunicator(self._communicator)
        opened: Communicator = self._communicator
        return opened


@contextmanager
def _all_end(communicator: Communicator) -> Iterator[None]:
    """End all ranks when one fails alone: the others would wait for it forever."""
    try:
        yield
    except (JointError, TrainingError, Stopped):
        raise
    except BaseException as error:
        if communicator.world_size > 1:
            report_failure(NAME, communicator, error)
            communicator.abort(1)
        raise

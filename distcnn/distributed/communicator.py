"""The communicator: what training needs of MPI. That of one rank, without MPI, is here; that of
several is in ``distcnn.distributed.mpi``.
"""

import ctypes
import mmap
import os
import secrets
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from distcnn.distributed.allreduce import Allreduce
from distcnn.errors import InputError
from distcnn.system import launcher
from distcnn.system.console import drain

T = TypeVar("T")
SIGNAL_BASE = 128
"""A shell's exit code of a process that a signal ended is this and the signal's number."""
NOTE_VARIABLE = "DISTCNN_EXIT_NOTE"
"""Names a file, not there yet, for the exit code of the first rank that ends: srun changes it."""


class JointError(InputError):
    """An ``InputError`` that all ranks raise at the same point, so they can exit together."""


class NoWorldError(InputError):
    """The launcher started several processes, but each is alone in its MPI_COMM_WORLD."""


class Mailbox:
    """Messages between threads of the ranks; dropped here, without other ranks or threads."""

    def post(self, rank: int, item: Any) -> None:
        """Send the picklable ``item`` to ``rank``."""

    def take(self) -> list[tuple[int, Any]]:
        """The messages that have arrived: (sender, item)."""
        return []


class Communicator:
    """A single rank, without MPI; ``MPICommunicator`` overrides all methods. They are collective,
    but for ``abort`` and ``end_by_signal``.
    """

    rank, world_size, description = 0, 1, "no MPI"
    has_threads = True
    """Whether several threads may communicate."""

    def __init__(self) -> None:
        self.hosts = [socket.gethostname()]
        """Each rank's host."""
        self.job = secrets.token_hex(8)
        """A random name, the same on all ranks of this job."""

    def allreduce_sum(self, values: NDArray[Any]) -> None:
        """Replace ``values`` by their elementwise sum over all ranks."""

    def shared_floats(self, count: int) -> list[NDArray[np.float32]] | None:
        """Shared memory: zeros (count,) of every rank, in rank order, that all ranks read and
        write, each beginning on a cache line; None where some rank cannot see another's.

        What a rank has written before a sum over all ranks, all see after it.
        """
        return [np.frombuffer(mmap.mmap(-1, max(1, 4 * count)), np.float32, count)]

    def allgather(self, item: T) -> list[T]:
        """The picklable ``item`` of every rank, in rank order."""
        return [item]

    def gather(self, item: T) -> list[T] | None:
        """Like ``allgather`` on root; None elsewhere."""
        return [item]

    def broadcast(self, item: T) -> T:
        """Root's picklable ``item``."""
        return item

    def exchange(self, items: Sequence[T]) -> list[T]:
        """Send the picklable ``items[rank]`` to each rank; what each rank has sent to this one."""
        return list(items)

    def barrier(self) -> None:
        """Wait until all ranks are here."""

    def mailbox(self) -> Mailbox:
        """Open a mailbox on every rank."""
        return Mailbox()

    def background_allreduce(self) -> Allreduce | None:
        """An allreduce on a thread of its own; None where MPI allows no second thread."""
        return None

    def abort(self, exit_code: int) -> NoReturn:
        """End all ranks at once with ``exit_code``."""
        note_exit(exit_code)
        drain()
        os._exit(exit_code)

    def end_by_signal(self, number: signal.Signals) -> NoReturn:
        """End all ranks as the signal would without a handler, or with code 128 plus its number."""
        drain()
        # the default action; Python's own ``signal.signal`` is for the main thread only
        ctypes.CDLL(None).signal(int(number), None)
        os.kill(os.getpid(), number)
        os._exit(SIGNAL_BASE + number)  # where the signal is blocked


def open_communicator(environment: Mapping[str, str] = os.environ) -> Communicator:
    """MPI's communicator where a launcher started several processes, else that of one rank, without
    importing MPI.

    ``InputError`` when mpi4py or its MPI library is missing, or the launcher belongs to another
    MPI; ``NoWorldError`` when MPI started with one rank in each process.
    """
    if not launcher.needs_mpi(environment):
        return Communicator()
    try:
        from distcnn.distributed.mpi import MPICommunicator, library_name
    except (ImportError, RuntimeError) as error:
        first_line = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"a launcher started several processes, but mpi4py cannot be used ({first_line}):"
            " install mpi4py and an MPI library (on a laptop: pip install '.[mpi,mpich]' in"
            " distcnn's folder; on a cluster: load the site's MPI module, pip install '.[mpi]')"
        ) from error
    if problem := launcher.foreign_library(library_name(), environment):
        raise InputError(problem)
    communicator = MPICommunicator()
    world_size, library = communicator.world_size, communicator.description
    if problem := launcher.mismatch(world_size, library, environment):
        raise NoWorldError(problem)
    return communicator


def together(communicator: Communicator, work: Callable[[], T]) -> T:
    """Run ``work`` on every rank, and return its result. Collective.

    So a fault that only one rank sees ends all with one message, if it is an ``InputError``. After
    any other exception, the other ranks wait until somebody ends them, as ``run_command`` does.

    Raises:
        JointError: on all ranks, if ``work`` raised ``InputError`` on some; of the lowest of them.
    """
    result, problem = _result_or_problem(work)
    problems = communicator.allgather(problem)
    for rank, text in enumerate(problems):
        if text is not None:
            everywhere = set(problems) == {text}
            raise JointError(text if everywhere else f"{text} (on rank {rank})")
    return result  # type: ignore[return-value]  # work returned it: nothing was raised


def on_root(communicator: Communicator, work: Callable[[], T]) -> T:
    """Run ``work`` on root, and give its picklable result to all ranks. Collective.

    All ranks raise its ``InputError`` as ``JointError``; for other exceptions, see ``together``.
    """
    is_root = communicator.rank == 0
    result, problem = communicator.broadcast(_result_or_problem(work) if is_root else (None, None))
    if problem is not None:
        raise JointError(problem)
    return result  # type: ignore[return-value]


def _result_or_problem(work: Callable[[], T]) -> tuple[T | None, str | None]:
    try:
        return work(), None
    except InputError as error:
        return None, str(error)


def note_exit(code: int) -> None:
    """Note the exit code in the file that ``NOTE_VARIABLE`` names, if it does not exist yet."""
    if name := os.environ.get(NOTE_VARIABLE):
        with suppress(OSError), Path(name).open("x") as file:
            file.write(f"{code}\n")

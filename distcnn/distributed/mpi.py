"""The MPI communicator.

The only file that imports mpi4py, and it is imported only where a launcher started several
processes.
"""

import faulthandler
import os
import secrets
import signal
import socket
import time
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

import mpi4py
import numpy as np
from numpy.typing import NDArray

# The library is asked for its name before MPI_Init: under another MPI's launcher that call may end
# the process.
mpi4py.rc.initialize = False
mpi4py.rc.finalize = True
from mpi4py import MPI  # noqa: E402

from distcnn.distributed import allreduce  # noqa: E402
from distcnn.distributed.communicator import SIGNAL_BASE, Communicator, Mailbox, note_exit  # noqa: E402
from distcnn.distributed.shared_memory_reduction import share_memory  # noqa: E402
from distcnn.spans import COLLECTIVE, Span  # noqa: E402
from distcnn.system.console import drain  # noqa: E402

T = TypeVar("T")
SECONDS_TO_START = 300
"""After this, a rank that waits for the others in MPI_Init prints its stack and exits."""
SECONDS_FOR_LAUNCHER_TO_PRINT = 0.5
"""Before an abort: a launcher may drop output it has not read yet."""
_COLLECTIVE = Span(COLLECTIVE)


def library_name() -> str:
    """Name and version of the MPI library that mpi4py loaded, without starting MPI."""
    first = MPI.Get_library_version().strip("\0 \n").splitlines()[0].split(",")[0]
    return " ".join(first.replace("Version:", "").split())


class MPICommunicator(Communicator):
    """All ranks of ``world`` (an mpi4py communicator, or None for MPI_COMM_WORLD), on a duplicate
    of it, so that no other messages are mixed with ours.
    """

    def __init__(self, world: MPI.Intracomm | None = None) -> None:
        if not MPI.Is_initialized():
            with warnings.catch_warnings():
                # Each rank would warn of another MPI's launcher; ``open_communicator``
                # refuses it, with the remedy.
                warnings.filterwarnings("ignore", "suspicious MPI execution environment")
                # Waiting for a rank that will never come, MPI_Init holds Python's lock: only a
                # thread in C can end it.
                faulthandler.dump_traceback_later(SECONDS_TO_START, exit=True)
                MPI.Init_thread()
                faulthandler.cancel_dump_traceback_later()
        self._world = (world or MPI.COMM_WORLD).Dup()
        self.rank: int = self._world.Get_rank()
        self.world_size: int = self._world.Get_size()
        self.has_threads = MPI.Query_thread() == MPI.THREAD_MULTIPLE
        self.description = library_name()
        self.hosts = self.allgather(socket.gethostname())
        self.job = self.broadcast(secrets.token_hex(8))

    def allreduce_sum(self, values: NDArray[Any]) -> None:
        with _COLLECTIVE:
            self._world.Allreduce(MPI.IN_PLACE, values, op=MPI.SUM)

    def shared_floats(self, count: int) -> list[NDArray[np.float32]] | None:
        counts = self.allgather(count)
        memory = share_memory(self.allgather, 4 * count) if len(set(self.hosts)) == 1 else None
        if memory is None:
            return None
        sized = zip(memory, counts, strict=True)
        return [np.frombuffer(each, np.float32, size) for each, size in sized]

    def allgather(self, item: T) -> list[T]:
        with _COLLECTIVE:
            return self._world.allgather(item)

    def gather(self, item: T) -> list[T] | None:
        with _COLLECTIVE:
            return self._world.gather(item, root=0)

    def broadcast(self, item: T) -> T:
        with _COLLECTIVE:
            root_item: T = self._world.bcast(item, root=0)
        return root_item

    def exchange(self, items: Sequence[T]) -> list[T]:
        with _COLLECTIVE:
            return self._world.alltoall(items)

    def barrier(self) -> None:
        with _COLLECTIVE:
            self._world.Barrier()

    def mailbox(self) -> Mailbox:
        world = self._world.Dup()
        return MPIMailbox(world) if self.has_threads else Mailbox()

    def background_allreduce(self) -> allreduce.Allreduce | None:
        world = self._world.Dup()
        if not self.has_threads:
            return None
        return allreduce.ThreadedAllreduce(lambda values: allreduce_beside(world, values))

    def abort(self, exit_code: int) -> NoReturn:
        note_exit(exit_code)
        self._end_all(exit_code)

    def end_by_signal(self, number: signal.Signals) -> NoReturn:
        self._end_all(SIGNAL_BASE + number)

    def _end_all(self, exit_code: int) -> NoReturn:
        drain()
        time.sleep(SECONDS_FOR_LAUNCHER_TO_PRINT)
        MPI.COMM_WORLD.Abort(exit_code)
        # called by a thread, MPICH's Abort was seen to return before the launcher ended the process
        os._exit(exit_code)


def allreduce_beside(world: MPI.Intracomm, values: NDArray[Any]) -> None:
    """Replace ``values`` by their sum: poll and sleep, while another thread computes."""
    request = world.Iallreduce(MPI.IN_PLACE, values, op=MPI.SUM)
    while not any(request.Test() for _ in range(allreduce.TESTS_PER_POLL)):
        time.sleep(allreduce.SECONDS_BETWEEN_POLLS)


class MPIMailbox(Mailbox):
    """Over a communicator of its own: threads send while the main thread is in a collective."""

    def __init__(self, world: MPI.Intracomm) -> None:
        self._world = world
        self._sent: list[MPI.Request] = []

    def post(self, rank: int, item: Any) -> None:
        self._sent.append(self._world.isend(item, dest=rank))

    def take(self) -> list[tuple[int, Any]]:
        self._sent = [each for each in self._sent if not each.Test()]
        arrived, status = [], MPI.Status()
        while self._world.Iprobe(status=status):
            sender = status.Get_source()
            arrived.append((sender, self._world.recv(source=sender)))
        return arrived

"""The MPI communicator.

The only file that imports mpi4py, and it is imported only where a launcher started several
processes.
"""

from __future__ import annotations

import faulthandler
import os
import secrets
import signal
import socket
import time
import warnings
from typing import Any, NoReturn, TypeVar

import mpi4py
import numpy as np
from numpy.typing import NDArray

# The library is asked for its name before MPI_Init: under another MPI's launcher that call may end
# the process.
mpi4py.rc.initialize = False
mpi4py.rc.finalize = True
from mpi4py import MPI  # noqa: E402

from distcnn.distributed.allreduce import (  # noqa: E402
    SECONDS_BETWEEN_LOOKS,
    TESTS_A_LOOK,
    Allreduce,
    ThreadedAllreduce,
)
from distcnn.distributed.communicator import SIGNAL_BASE, Mailbox, NoMailbox  # noqa: E402
from distcnn.distributed.shared_memory import share_memory  # noqa: E402
from distcnn.system.console import drain  # noqa: E402

T = TypeVar("T")

SECONDS_TO_START = 300
"""After this, a rank that waits for the others in MPI_Init prints its stack and exits."""

SECONDS_FOR_LAUNCHER_TO_PRINT = 0.5
"""Before an abort: a launcher may drop output it has not read yet, such as the report of what
went wrong.
"""


def library_name() -> str:
    """Name and version of the MPI library that mpi4py loaded, without starting MPI."""
    return " ".join(
        MPI.Get_library_version()
        .strip("\0 \n")
        .splitlines()[0]
        .split(",")[0]
        .replace("Version:", "")
        .split()
    )


class MPICommunicator:
    """All ranks of ``world``, on a duplicate of it, so that no other messages are mixed with ours.

    Args:
        world: an mpi4py communicator; by default MPI_COMM_WORLD.
    """

    def __init__(self, world: MPI.Intracomm | None = None) -> None:
        if not MPI.Is_initialized():
            with warnings.catch_warnings():
                # Each rank would warn of another MPI's launcher; ``open_communicator``
                # refuses it, with the remedy.
                warnings.filterwarnings(
                    "ignore", "suspicious MPI execution environment", RuntimeWarning
                )
                # Waiting for a rank that will never come, MPI_Init holds Python's lock: only a
                # thread in C can end it.
                faulthandler.dump_traceback_later(SECONDS_TO_START, exit=True)
                MPI.Init_thread()
                faulthandler.cancel_dump_traceback_later()
        self._world = (world or MPI.COMM_WORLD).Dup()
        self.rank: int = self._world.Get_rank()
        self.world_size: int = self._world.Get_size()
        self.description = library_name()
        self.hosts = self.allgather(socket.gethostname())
        self.job = self.broadcast(secrets.token_hex(8))

    def allreduce_sum(self, values: NDArray[Any]) -> None:
        self._world.Allreduce(MPI.IN_PLACE, values, op=MPI.SUM)

    def shared_floats(self, count: int) -> list[NDArray[np.float32]] | None:
        near = self._world.Split_type(MPI.COMM_TYPE_SHARED)
        one_host = near.Get_size() == self.world_size
        near.Free()
        counts = self.allgather(count)
        memory = share_memory(self.allgather, 4 * count) if all(self.allgather(one_host)) else None
        return (
            None
            if memory is None
            else [
                np.frombuffer(each, np.float32, size)
                for each, size in zip(memory, counts, strict=True)
            ]
        )

    def allgather(self, item: T) -> list[T]:
        return self._world.allgather(item)

    def gather(self, item: T) -> list[T] | None:
        return self._world.gather(item, root=0)

    def broadcast(self, item: T) -> T:
        root_item: T = self._world.bcast(item, root=0)
        return root_item

    def barrier(self) -> None:
        self._world.Barrier()

    def mailbox(self) -> Mailbox:
        world = self._world.Dup()
        return MPIMailbox(world) if MPI.Query_thread() == MPI.THREAD_MULTIPLE else NoMailbox()

    def background_allreduce(self) -> Allreduce | None:
        world = self._world.Dup()
        if MPI.Query_thread() != MPI.THREAD_MULTIPLE:
            return None
        return ThreadedAllreduce(lambda values: allreduce_beside(world, values))

    def abort(self, exit_code: int) -> NoReturn:
        drain()
        time.sleep(SECONDS_FOR_LAUNCHER_TO_PRINT)
        MPI.COMM_WORLD.Abort(exit_code)
        os._exit(
            exit_code
            # called by a thread, MPICH's Abort was seen to return before the launcher ended the
            # process
        )

    def end_by_signal(self, number: signal.Signals) -> NoReturn:
        self.abort(SIGNAL_BASE + number)


def allreduce_beside(world: MPI.Intracomm, values: NDArray[Any]) -> None:
    """Replace ``values`` by their sum while another thread computes: poll, and sleep in between."""
    request = world.Iallreduce(MPI.IN_PLACE, values, op=MPI.SUM)
    while not any(request.Test() for _ in range(TESTS_A_LOOK)):
        time.sleep(SECONDS_BETWEEN_LOOKS)


class MPIMailbox:
    """Messages over a communicator of their own, so that a thread may send them while the main
    thread is in a collective.
    """

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

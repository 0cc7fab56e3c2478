"""The MPI communicator. The only file that imports mpi4py, and it is imported only where a launcher started several processes."""

from __future__ import annotations

import faulthandler
import os
import secrets
import signal
import socket
import sys
import time
import warnings
from typing import Any, NoReturn, TypeVar

import mpi4py
import numpy as np
from numpy.typing import DTypeLike, NDArray

# The library is asked for its name before MPI_Init: under another MPI's launcher that call may end the process.
mpi4py.rc.initialize = False
mpi4py.rc.finalize = True
from mpi4py import MPI  # noqa: E402

from distcnn.parallel.communicator import SIGNAL_BASE, Mailbox, NoMailbox  # noqa: E402
from distcnn.parallel.sums import Sums, ThreadedSums  # noqa: E402

T = TypeVar("T")

SECONDS_TO_START = 300
"""A rank that waits longer for the others in MPI_Init ends, with its stack."""

SECONDS_FOR_LAUNCHER_TO_PRINT = 0.5
"""A launcher that is told to abort may drop what it has not yet read of the ranks' output: the report of what went wrong."""

SECONDS_BETWEEN_TESTS = 1e-4
"""A blocking allreduce spins on the core that computes: 23 ms of processor for 31 ms of sum, this 4 ms (docs/overlap.md)."""

ELEMENTS_AT_A_TIME = 16384
"""Of a shared vector: the sums (128 KiB) stay in the nearest caches until they are written everywhere."""

SPARE = 2
"""A vector is shared only where so many times its bytes are free: MPI needs some too, and beyond the limit there is only a crash."""


def library_name() -> str:
    """Name and version of the MPI library that mpi4py loaded, without starting MPI."""
    return " ".join(MPI.Get_library_version().strip("\0 \n").splitlines()[0].split(",")[0].replace("Version:", "").split())


class MPICommunicator:
    """All ranks of MPI_COMM_WORLD, on a duplicate of it, so that nobody else's messages can be taken for ours."""

    def __init__(self) -> None:
        if not MPI.Is_initialized():
            with warnings.catch_warnings():
                # Each rank would warn of another MPI's launcher; whoever opens the communicator refuses it, with the remedy.
                warnings.filterwarnings("ignore", "suspicious MPI execution environment", RuntimeWarning)
                # Waiting for a rank that will never come, MPI_Init holds Python's lock: only a thread in C can end it.
                faulthandler.dump_traceback_later(SECONDS_TO_START, exit=True)
                MPI.Init_thread()
                faulthandler.cancel_dump_traceback_later()
        self._world = MPI.COMM_WORLD.Dup()
        self.rank: int = self._world.Get_rank()
        self.world_size: int = self._world.Get_size()
        self.description = library_name()
        self._shared: list[SharedVector] = []
        self.hosts = self.allgather(socket.gethostname())
        self.job = self.broadcast(secrets.token_hex(8))

    def allreduce_sum(self, values: NDArray[Any]) -> None:
        for shared in self._shared:
            part = shared.part(values)
            if part is not None:
                shared.sum(part)
                return
        self._world.Allreduce(MPI.IN_PLACE, values, op=MPI.SUM)

    def vector(self, size: int, dtype: DTypeLike) -> NDArray[Any]:
        near = self._world.Split_type(MPI.COMM_TYPE_SHARED)
        one_host = 1 < self.world_size == near.Get_size()
        near.Free()
        needed = size * np.dtype(dtype).itemsize * self.world_size
        if not all(self.allgather(one_host and shared_memory_free() >= SPARE * needed)):
            return np.zeros(size, dtype)
        self._shared.append(SharedVector(self._world, size, np.dtype(dtype)))
        return self._shared[-1].own

    def allgather(self, item: T) -> list[T]:
        return self._world.allgather(item)

    def broadcast(self, item: T) -> T:
        root_item: T = self._world.bcast(item, root=0)
        return root_item

    def barrier(self) -> None:
        self._world.Barrier()

    def mailbox(self) -> Mailbox:
        world = self._world.Dup()
        return MPIMailbox(world) if MPI.Query_thread() == MPI.THREAD_MULTIPLE else NoMailbox()

    def background_sums(self) -> Sums | None:
        world = self._world.Dup()
        if MPI.Query_thread() != MPI.THREAD_MULTIPLE:
            return None
        return ThreadedSums(lambda values: allreduce_beside(world, values))

    def abort(self, exit_code: int) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(SECONDS_FOR_LAUNCHER_TO_PRINT)
        MPI.COMM_WORLD.Abort(exit_code)
        os._exit(exit_code)  # called by a thread, MPICH's Abort was seen to return before the launcher ended the process

    def end_by_signal(self, number: signal.Signals) -> NoReturn:
        self.abort(SIGNAL_BASE + number)


class SharedVector:
    """A vector for each rank of one host, in memory that all of them see, and the sum of these vectors.

    Each rank sums its share of the elements over all vectors, in rank order, and writes the sums into all of them. MPI's own allreduce
    moves every element through buffers more often: two ranks take twice to three times as long for a gradient (docs/speed.md).
    """

    def __init__(self, world: MPI.Intracomm, size: int, dtype: np.dtype[Any]) -> None:
        self._world, self._rank, self._ranks = world, world.Get_rank(), world.Get_size()
        apart = MPI.Info.Create({"alloc_shared_noncontig": "true"})  # each rank's on pages of its own, near its core
        self._window = MPI.Win.Allocate_shared(size * dtype.itemsize, dtype.itemsize, apart, world)
        apart.Free()
        self._window.Lock_all()
        memory: list[Any] = [self._window.Shared_query(rank)[0] for rank in range(self._ranks)]
        self._vectors = [np.frombuffer(each, dtype, size) for each in memory]
        self._sums = np.empty(min(size, ELEMENTS_AT_A_TIME), dtype)
        self.own = self._vectors[self._rank]
        self.own.fill(0)

    def part(self, values: NDArray[Any]) -> slice | None:
        """Which of the vector's elements ``values`` are; None when they are others."""
        start, rest = divmod(values.ctypes.data - self.own.ctypes.data, self.own.itemsize)
        inside = start >= 0 and start + values.size <= self.own.size and not rest
        return slice(start, start + values.size) if inside and values.dtype == self.own.dtype and values.flags.c_contiguous else None

    def sum(self, part: slice) -> None:
        """Replace ``part`` of every rank's vector by its sum over all ranks. Collective."""
        size = part.stop - part.start
        mine = range(part.start + size * self._rank // self._ranks, part.start + size * (self._rank + 1) // self._ranks)
        self._meet()
        for start in mine[::ELEMENTS_AT_A_TIME]:
            few = slice(start, min(start + ELEMENTS_AT_A_TIME, mine.stop))
            first, second, *others = (each[few] for each in self._vectors)
            sums = np.add(first, second, out=self._sums[: first.size])
            for each in others:
                sums += each
            for vector in self._vectors:
                vector[few] = sums
        self._meet()

    def _meet(self) -> None:
        """What each rank wrote before, all see after."""
        self._window.Sync()
        self._world.Barrier()
        self._window.Sync()


def shared_memory_free() -> int:
    """Bytes of memory that can still be shared between processes; 0 where that cannot be told. Containers often allow 64 MB."""
    try:
        status = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


def allreduce_beside(world: MPI.Intracomm, values: NDArray[Any]) -> None:
    """Replace ``values`` by their sum, for a thread beside one that computes: it looks in now and then, and sleeps between."""
    request = world.Iallreduce(MPI.IN_PLACE, values, op=MPI.SUM)
    while not request.Test():
        time.sleep(SECONDS_BETWEEN_TESTS)


class MPIMailbox:
    """Messages over a communicator of their own, so that a thread may send them while the main thread is in a collective."""

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

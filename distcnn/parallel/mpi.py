"""The MPI communicator. The only file that imports mpi4py, and it is imported only where a launcher started several processes."""

from __future__ import annotations

import sys
from typing import Any, NoReturn, TypeVar

from mpi4py import MPI
from numpy.typing import NDArray

T = TypeVar("T")


class MPICommunicator:
    """All ranks of MPI_COMM_WORLD, on a duplicate of it, so that nobody else's messages can be taken for ours."""

    def __init__(self) -> None:
        self._world = MPI.COMM_WORLD.Dup()
        self.rank: int = self._world.Get_rank()
        self.world_size: int = self._world.Get_size()
        self.description = MPI.Get_library_version().strip("\0 \n").splitlines()[0].split(",")[0].replace("\t", " ").strip()

    def allreduce_sum(self, values: NDArray[Any]) -> None:
        self._world.Allreduce(MPI.IN_PLACE, values, op=MPI.SUM)

    def allgather(self, item: T) -> list[T]:
        return self._world.allgather(item)

    def broadcast(self, item: T) -> T:
        return self._world.bcast(item, root=0)

    def barrier(self) -> None:
        self._world.Barrier()

    def abort(self, exit_code: int) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(exit_code)
        raise SystemExit(exit_code)  # Abort does not return

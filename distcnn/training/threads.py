"""How many threads a rank uses, and for what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distcnn.config import Config
from distcnn.distributed import blas_threads
from distcnn.system.host import Cores, oversubscription, threads_for_each
from distcnn.system.wording import counted


@dataclass(frozen=True)
class Threads:
    """The threads of a rank: shards that it computes side by side, and threads of BLAS in each."""

    side_by_side: int
    of_blas: int

    @classmethod
    def settle(cls, config: Config, cores: Sequence[Cores], own_shards: int) -> Threads:
        """What ``--threads-per-rank`` means here. In portable arithmetic bits do not depend on it,
        and each thread computes shards, which gains more than threads of BLAS. If there are more
        threads than shards, the rest goes to BLAS where a number was given; auto leaves it unused.
        """
        wanted = config.threads_per_rank
        is_auto = wanted == blas_threads.AUTO
        threads = threads_for_each(cores) if is_auto else int(wanted)
        if not config.is_portable:
            return cls(1, threads)
        side_by_side = max(1, min(threads, own_shards))
        return cls(side_by_side, 1 if is_auto else threads // side_by_side)

    def lines(self, config: Config, cores: Sequence[Cores]) -> Iterator[str]:
        """What to tell the user: where bits depend on them, and where cores are oversubscribed."""
        wanted, is_one = config.threads_per_rank, self.of_blas == blas_threads.THREADS_PER_RANK
        if not config.is_portable and (wanted == blas_threads.AUTO or not is_one):
            yield (
                f"notice: {counted(self.of_blas, 'BLAS thread')} a rank (--threads-per-rank"
                f" {wanted}): the bits depend on this number; a resumed run keeps it"
            )
        if crowd := oversubscription(cores, self.side_by_side * self.of_blas):
            yield (
                f"warning: oversubscribed: {crowd}; start fewer ranks or threads there, or bind the"
                " ranks to more cores (docs/cluster.md)"
            )

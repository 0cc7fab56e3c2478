"""What an allreduce costs by its algorithm: how often a rank exchanges messages, how many bytes it
sends, how many it adds up.

Closed forms of Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations
in MPICH", 2005 (IJHPCA 19, 49-66). p ranks, of which P is the largest power of two that is at most
p, and n bytes. Where p is no power of two, p - P ranks first send all they have to a neighbour, and
get the result from it at the end: two exchanges and 2n bytes more. They wait; the costs are the
neighbour's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Of one rank, the one that all wait for: exchanges one after the other, bytes sent in them,
    bytes added up.
    """

    exchanges: int
    nbytes: float
    added_bytes: float


def recursive_doubling(ranks: int, nbytes: float) -> Cost:
    """Log2 P exchanges of everything: few, for short messages."""
    power = ranks.bit_length() - 1
    folds = 1 if ranks > 2**power else 0
    return Cost(power + 2 * folds, (power + 2 * folds) * nbytes, (power + folds) * nbytes)


def rabenseifner(ranks: int, nbytes: float) -> Cost:
    """A reduce-scatter by recursive halving, an allgather by recursive doubling: few bytes, for
    long messages.
    """
    power = ranks.bit_length() - 1
    folds = 1 if ranks > 2**power else 0
    part = nbytes * (2**power - 1) / 2**power
    return Cost(2 * power + 2 * folds, 2 * part + 2 * folds * nbytes, part + folds * nbytes)


def ring(ranks: int, nbytes: float) -> Cost:
    """2 (p - 1) exchanges of one part in p with the neighbours: no more bytes than needed on any
    number of ranks, but many exchanges.
    """
    part = nbytes * (ranks - 1) / ranks
    return Cost(2 * (ranks - 1), 2 * part, part)


ALGORITHMS: dict[str, Callable[[int, float], Cost]] = {
    "recursive-doubling": recursive_doubling,
    "rabenseifner": rabenseifner,
    "ring": ring,
}

SHORT_BYTES = 2048
"""MPICH's border (MPIR_CVAR_ALLREDUCE_SHORT_MSG_SIZE): up to it recursive doubling, beyond
Rabenseifner's. Others are fitted.
"""


def algorithm_for(nbytes: float, named: str = "", short_bytes: float = SHORT_BYTES) -> str:
    """The algorithm ``named``, else one by the message's size."""
    return named or ("recursive-doubling" if nbytes <= short_bytes else "rabenseifner")


def cost_of(ranks: int, nbytes: float, named: str = "", short_bytes: float = SHORT_BYTES) -> Cost:
    """Of an allreduce of ``nbytes`` over ``ranks``."""
    return ALGORITHMS[algorithm_for(nbytes, named, short_bytes)](ranks, nbytes)

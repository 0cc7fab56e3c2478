"""Allreduce algorithms simulated rank by rank and message by message, which the closed forms must
match.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class World:
    """``ranks`` ranks, each with a vector of ``size`` numbers and a clock.

    A number counts as one byte: m of them take alpha + m beta to send, and adding is free.
    """

    def __init__(self, ranks: int, size: int, alpha: float, beta: float) -> None:
        rng = np.random.default_rng(ranks)
        self.values = [rng.integers(0, 100, size).astype(float) for _ in range(ranks)]
        self.expected = sum(self.values)
        self.clock = [0.0] * ranks
        self._alpha, self._beta = alpha, beta

    def send(self, sends: list[tuple[int, int, slice]], add: bool) -> None:
        """Send (from, to, which part) at once; it is added to the receiver's part or replaces it.

        An exchange takes until both messages have arrived.
        """
        arrivals = []
        for sender, receiver, part in sends:
            begin = max(self.clock[sender], self.clock[receiver])
            count = part.stop - part.start
            arrivals.append(
                (
                    receiver,
                    part,
                    self.values[sender][part].copy(),
                    begin + self._alpha + count * self._beta,
                )
            )
        busy = dict(enumerate(self.clock))
        for (sender, _, _), (_, _, _, end) in zip(sends, arrivals, strict=True):
            busy[sender] = max(busy[sender], end)
        for receiver, part, numbers, end in arrivals:
            self.values[receiver][part] = self.values[receiver][part] + numbers if add else numbers
            busy[receiver] = max(busy[receiver], end)
        self.clock = [busy[rank] for rank in range(len(self.clock))]


def _fold(world: World, between: Callable[[list[int]], None]) -> None:
    """Ranks beyond a power of two give their vector to a neighbour and receive its result."""
    ranks, whole = len(world.values), slice(0, len(world.values[0]))
    rest = ranks - 2 ** (ranks.bit_length() - 1)
    world.send([(2 * each, 2 * each + 1, whole) for each in range(rest)], add=True)
    between([2 * each + 1 for each in range(rest)] + list(range(2 * rest, ranks)))
    world.send([(2 * each + 1, 2 * each, whole) for each in range(rest)], add=False)


def recursive_doubling(world: World) -> None:
    """In each round, exchange with a partner at twice the distance."""

    def double(members: list[int]) -> None:
        distance = 1
        while distance < len(members):
            whole = slice(0, len(world.values[0]))
            world.send(
                [(members[each], members[each ^ distance], whole) for each in range(len(members))],
                add=True,
            )
            distance *= 2

    _fold(world, double)


def rabenseifner(world: World) -> None:
    """Halve the part that each rank sums, then gather the parts in reverse order."""

    def halve_and_double(members: list[int]) -> None:
        size, count = len(world.values[0]), len(members)
        parts = {each: slice(0, size) for each in range(count)}
        distance, rounds = count // 2, []
        while distance:
            sends, halves = [], {}
            for each, part in parts.items():
                middle = (part.start + part.stop) // 2
                low, high = slice(part.start, middle), slice(middle, part.stop)
                halves[each] = high if each & distance else low
                sends.append(
                    (members[each], members[each ^ distance], low if each & distance else high)
                )
            world.send(sends, add=True)
            rounds.append((distance, parts))
            parts, distance = halves, distance // 2
        for distance, before in reversed(rounds):
            world.send(
                [(members[each], members[each ^ distance], part) for each, part in parts.items()],
                add=False,
            )
            parts = before

    _fold(world, halve_and_double)

"""What was found, and where: said once for all the ranks that it holds for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from distcnn.system.wording import plural

GOOD, WARNING, BAD = "good", "warning", "bad"
MOST_HOSTS_NAMED = 3


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``state`` is good, warning or bad; the last two have a remedy."""

    name: str
    state: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Places:
    """Where the ranks run of which we know: all, or, before MPI is up, those of one host."""

    hosts: Mapping[int, str]
    world_size: int = 0
    """How many ranks there are, where that is more than we know of."""

    @property
    def whole(self) -> int:
        """How many ranks there are."""
        return max(self.world_size, len(self.hosts))

    @property
    def ranks_of_host(self) -> dict[str, list[int]]:
        """The ranks of each host, in the order of their first."""
        found: dict[str, list[int]] = {}
        for rank, host in sorted(self.hosts.items()):
            found.setdefault(host, []).append(rank)
        return found

    def of(self, ranks: Iterable[int]) -> str:
        """These ranks in words: "on ranks 2-3 (host b)"; nothing where there is only one."""
        those = sorted(ranks)
        if self.whole <= 1:
            return ""
        if len(those) == self.whole:
            return "on all ranks"
        hosts = list(dict.fromkeys(self.hosts[rank] for rank in those))
        names = f"host {hosts[0]}" if len(hosts) == 1 else f"hosts {', '.join(hosts)}"
        where = names if len(hosts) <= MOST_HOSTS_NAMED else f"{len(hosts)} hosts"
        return f"on {plural(len(those), 'rank')} {runs(those)} ({where})"

    def of_hosts(self, ranks: Iterable[int]) -> str:
        """The hosts of these ranks in words; nothing where there is only one."""
        hosts, those = self.ranks_of_host, dict.fromkeys(self.hosts[rank] for rank in sorted(ranks))
        if len(hosts) <= 1:
            return ""
        if len(those) == len(hosts):
            return "on all hosts"
        names = ", ".join(list(those)[:MOST_HOSTS_NAMED])
        more = f" and {len(those) - MOST_HOSTS_NAMED} more" if len(those) > MOST_HOSTS_NAMED else ""
        return f"on {plural(len(those), 'host')} {names}{more}"


def count(number: int, what: str) -> str:
    """ "1 rank", "2 ranks"."""
    return f"{number} {plural(number, what)}"


def runs(numbers: Iterable[int]) -> str:
    """Sorted numbers, shortly: "0-3, 7"."""
    pairs: list[list[int]] = []
    for number in sorted(numbers):
        if pairs and number == pairs[-1][1] + 1:
            pairs[-1][1] = number
        else:
            pairs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in pairs)


def gathered(
    places: Places, findings: Mapping[int, Iterable[Finding]], of_hosts: bool = False
) -> list[Finding]:
    """What single ranks found: equal findings become one, which says on which ranks, or hosts, it
    holds.

    In the order in which names come up.
    """
    where = places.of_hosts if of_hosts else places.of
    ranks_of: dict[Finding, list[int]] = {}
    for rank, each in sorted(findings.items()):
        for finding in each:
            ranks_of.setdefault(finding, []).append(rank)
    names = list(dict.fromkeys(finding.name for finding in ranks_of))
    ordered = sorted(ranks_of.items(), key=lambda item: names.index(item[0].name))
    return [
        replace(finding, text=f"{finding.text}, {where(ranks)}".removesuffix(", "))
        for finding, ranks in ordered
    ]


def compared(
    places: Places, name: str, values: Mapping[int, str], why: str, remedy: str, state: str = BAD
) -> Finding:
    """Good where all ranks have the same value; else ``state``, with who has what, and ``why`` it
    matters.
    """
    ranks_of: dict[str, list[int]] = {}
    for rank, value in sorted(values.items()):
        ranks_of.setdefault(value, []).append(rank)
    text = ", ".join(f"{value} {places.of(ranks)}".rstrip() for value, ranks in ranks_of.items())
    return (
        Finding(name, GOOD, text)
        if len(ranks_of) <= 1
        else Finding(name, state, f"{text}: {why}", remedy)
    )


def exit_code(findings: Iterable[Finding]) -> int:
    """1 when something is bad."""
    return int(any(each.state == BAD for each in findings))

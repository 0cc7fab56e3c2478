"""Whether all ranks were started with one command line.

Only rank 0's would count, so a difference is a mistake that must be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

COMMAND, POSITION = "the command", "argument"


def flags_of(command: str, arguments: Sequence[str]) -> dict[str, str]:
    """The command line by names: the command, each flag with its values (the last one wins), each
    argument before the first flag.

    ``--flag value`` and ``--flag=value`` are the same, and so is another order of flags.
    """
    found = {COMMAND: command}
    flag = ""
    for index, each in enumerate(arguments):
        if each.startswith("--"):
            flag, _, value = each.partition("=")
            found[flag] = value
        elif flag:
            found[flag] = f"{found[flag]} {each}".strip()
        else:
            found[f"{POSITION} {index + 1}"] = each
    return found


def difference(everyone: Mapping[int, Mapping[str, str]]) -> str | None:
    """The first rank whose command line is not the lowest rank's, and all that differs, in words;
    None when all are the same.
    """
    first = min(everyone)
    for rank, flags in sorted(everyone.items()):
        names = [
            name
            for name in dict.fromkeys([*everyone[first], *flags])
            if everyone[first].get(name) != flags.get(name)
        ]
        if COMMAND in names:
            names = [COMMAND]
        if names:
            mine, theirs = (
                ", ".join(_shown(each, name) for name in names) for each in (flags, everyone[first])
            )
            return f"rank {rank} was started with {mine}, but rank {first} with {theirs}"
    return None


def _shown(flags: Mapping[str, str], name: str) -> str:
    if name not in flags:
        return f"no {name}"
    return f"{name} {flags[name]!r}" if flags[name] else name

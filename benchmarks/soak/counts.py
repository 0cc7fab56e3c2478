"""What ``benchmarks.soak`` counts, and its table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from benchmarks.soak.ways import MOMENTS, WAYS


@dataclass
class Counts:
    """The numbers in the table at the end."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    too_late: int = 0
    in_checkpoint: int = 0
    in_results: int = 0
    damaged: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    resumes: Counter[str] = field(default_factory=Counter)
    fresh_starts: int = 0
    replays: int = 0
    rounds: int = 0
    equal: int = 0
    longest_seconds: float = 0.0


def table(counts: Counts, seconds: float) -> str:
    """All rounds together."""
    ways = list(dict.fromkeys(f"{number.name} to {target}" for number, target in WAYS))
    lines = [f"{'kills':22}" + "".join(f"{moment:>12}" for moment in (*MOMENTS, "all"))]
    for way in [*ways, "all"]:
        row = [
            sum(
                n
                for (name, at), n in counts.kills.items()
                if way in (name, "all") and moment in (at, "all")
            )
            for moment in (*MOMENTS, "all")
        ]
        lines.append(f"{way:22}" + "".join(f"{number:12}" for number in row))
    facts = {
        "rounds": f"{counts.rounds} in {seconds:.0f} s",
        "equal": counts.equal,
        "signals sent after the end": counts.too_late,
        "kills during a checkpoint's write": counts.in_checkpoint,
        "kills while results were written": counts.in_results,
        "damaged checkpoints": counts.damaged,
        "exit codes after a signal": ", ".join(
            f"{code}: {number}" for code, number in sorted(counts.codes.items())
        ),
        "resumes by ranks": ", ".join(
            f"{place}: {number}" for place, number in sorted(counts.resumes.items())
        ),
        "restarted from the beginning": counts.fresh_starts,
        "replays by distcnn.verify": counts.replays,
        "longest time to end": f"{counts.longest_seconds:.2f} s",
    }
    return "\n".join([*lines, *(f"{name:36}{value}" for name, value in facts.items())])

"""Flags of the doctor, variables of the environment: those that change bits or what is loaded must
be the same on all ranks.
"""

from __future__ import annotations

import dataclasses
import os

from distcnn.cli.same_flags import difference
from distcnn.doctor.check import Everyone, Facts, Section
from distcnn.doctor.finding import BAD, GOOD, WARNING, Finding, Places, compared
from distcnn.doctor.options import Options
from distcnn.system.environment import kernel_variables

OF_LOADING = ("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LD_PRELOAD")
OF_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")

SAME_FOR_ALL = "set them in the job script, before mpirun or srun, so that all ranks get the same"


def look(options: Options) -> Facts:
    """Flags; variables that are set; and how many threads BLAS has after it was told its number,
    where that is known.
    """
    others = {name: os.environ[name] for name in (*OF_LOADING, *OF_THREADS) if name in os.environ}
    flags = {
        "--threads-per-rank" if name == "threads" else f"--{name}": str(value)
        for name, value in dataclasses.asdict(options).items()
    }
    facts: Facts = {"flags": flags, "set": others, "of bits": kernel_variables(os.environ)}
    try:
        from distcnn.distributed.blas_threads import threads_of_libraries
    except Exception:  # said elsewhere: NumPy or threadpoolctl is missing
        return facts
    return facts | {"threads": threads_of_libraries()}


def judge(places: Places, everyone: Everyone) -> list[Finding]:
    """Those of bits are named; those of loading only where ranks differ."""

    def values(name: str, kind: str) -> dict[int, str]:
        return {
            rank: f"{name}={facts[kind][name]}" if name in facts[kind] else f"no {name}"
            for rank, facts in everyone.items()
        }

    def judged(name: str, kind: str, trouble: str) -> Finding:
        return compared(places, "environment", values(name, kind), trouble, SAME_FOR_ALL, WARNING)

    of_bits = sorted({name for facts in everyone.values() for name in facts["of bits"]})
    found = [judged(name, "of bits", "ranks may compute other bits") for name in of_bits]
    found += [
        each
        for name in OF_LOADING
        if (each := judged(name, "set", "ranks may load other software")).state != GOOD
    ]
    problem = difference({rank: facts["flags"] for rank, facts in everyone.items()})
    flags = (
        [
            Finding(
                "flags",
                BAD,
                f"{problem}: training refuses that",
                "start all ranks with the same command",
            )
        ]
        if problem
        else []
    )
    return [*flags, *(found or [_nothing()]), _threads(places, everyone)]


def _nothing() -> Finding:
    return Finding(
        "environment", GOOD, "nothing is set that changes bits, nothing differs between ranks"
    )


def _threads(places: Places, everyone: Everyone) -> Finding:
    """distcnn gives BLAS one thread, whatever the environment says; where it cannot, the
    environment must.
    """
    asked = sorted(
        {
            each
            for facts in everyone.values()
            for name in OF_THREADS
            if (each := facts["set"].get(name, "1")) != "1"
        }
    )
    unlimited = [
        rank
        for rank, facts in everyone.items()
        if "threads" in facts and max(facts["threads"], default=2) > 1
    ]
    if unlimited:
        text = f"distcnn cannot set the number of BLAS threads {places.of(unlimited)}".rstrip()
        remedy = (
            "set OMP_NUM_THREADS=1 and your BLAS's own variable in the job script: more threads"
            " give other bits, and share cores"
        )
        return Finding("threads", WARNING, text, remedy)
    more = (
        f" (the environment asks for {', '.join(asked)}: distcnn sets its own number)"
        if asked
        else ""
    )
    return Finding("threads", GOOD, f"BLAS can be limited to 1 thread a rank{more}")


SECTION = Section("environment", look, judge)

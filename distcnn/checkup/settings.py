"""Variables of the environment that change bits, or what is loaded."""

from __future__ import annotations

import os

from distcnn.checkup.finding import GOOD, WARNING, Finding, Places, compared
from distcnn.checkup.section import Everyone, Facts, Section

OF_BITS = ("OPENBLAS_CORETYPE", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "BLIS_ARCH_TYPE", "NPY_DISABLE_CPU_FEATURES", "GLIBC_TUNABLES")
"""By these BLAS, NumPy and the C library choose their kernels."""
OF_LOADING = ("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LD_PRELOAD")
OF_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")

SAME_FOR_ALL = "set them in the job script, before mpirun or srun, so that all ranks get the same"


def look() -> Facts:
    """Those that are set; and how many threads BLAS has after it was told its number, where that is known."""
    facts: Facts = {"set": {name: os.environ[name] for name in (*OF_BITS, *OF_LOADING, *OF_THREADS) if name in os.environ}}
    try:
        from distcnn.parallel.threads import threads_of_libraries
    except Exception:  # said elsewhere: NumPy or threadpoolctl is missing
        return facts
    return facts | {"threads": threads_of_libraries()}


def judge(places: Places, everyone: Everyone) -> list[Finding]:
    """Those of bits are named; those of loading only where ranks differ."""

    def values(name: str) -> dict[int, str]:
        return {rank: f"{name}={facts['set'][name]}" if name in facts["set"] else f"no {name}" for rank, facts in everyone.items()}

    bits = [compared(places, "environment", values(each), "ranks may compute other bits", SAME_FOR_ALL, WARNING) for each in OF_BITS]
    loading = [compared(places, "environment", values(each), "ranks may load other software", SAME_FOR_ALL, WARNING) for each in OF_LOADING]
    found = [each for each in bits if each.state != GOOD or not each.text.startswith("no ")]
    found += [each for each in loading if each.state != GOOD]
    return [*found, _threads(places, everyone)] if found else [_nothing(), _threads(places, everyone)]


def _nothing() -> Finding:
    return Finding("environment", GOOD, "nothing is set that changes bits, nothing differs between ranks")


def _threads(places: Places, everyone: Everyone) -> Finding:
    """distcnn gives BLAS one thread, whatever the environment says; where it cannot, the environment must."""
    asked = sorted({each for facts in everyone.values() for name in OF_THREADS if (each := facts["set"].get(name, "1")) != "1"})
    unlimited = [rank for rank, facts in everyone.items() if "threads" in facts and max(facts["threads"], default=2) > 1]
    if unlimited:
        text = f"distcnn cannot set the number of BLAS threads {places.of(unlimited)}".rstrip()
        remedy = "set OMP_NUM_THREADS=1 and your BLAS's own variable in the job script: more threads give other bits, and share cores"
        return Finding("threads", WARNING, text, remedy)
    more = f" (the environment asks for {', '.join(asked)}: distcnn sets its own number)" if asked else ""
    return Finding("threads", GOOD, f"BLAS can be limited to 1 thread a rank{more}")


SECTION = Section("environment", look, judge)

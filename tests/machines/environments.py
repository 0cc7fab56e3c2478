"""The environments in which training must give one hash: kernels, threads, SIMD, ranks.

Each says which facts (``measure.Facts``) show that it took effect.
"""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from distcnn.config import Config
from distcnn.system.environment import PREFIXES
from tests.conftest import ROOT, clean_environment, launcher_of
from tests.machines.debian import Unavailable
from tests.machines.emulated import Emulated
from tests.machines.measure import FEW, MODELS, STEPS, Measured
from tests.machines.other_blas import library_of, plain_loops
from tests.machines.starts import Start, kernel, lowest_numpy, newest_numpy, no_simd

SECONDS = 300
OTHERS = ("OMP_NUM_THREADS", "LD_PRELOAD", "OTHER_BLAS")
"""Variables of this process that an environment does not inherit, besides those that select
kernels."""


@dataclass(frozen=True)
class Environment:
    """An environment, and what is trained in it.

    Attributes:
        name: for tests and the table.
        start: finds out how to start Python there; raises ``Unavailable``.
        effect: what some of the facts must be: one of these values.
        models, steps, threads, ranks, overlap: what is trained, and how.
    """

    name: str
    start: Callable[[], Start] = Start
    effect: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    models: tuple[str, ...] = MODELS
    steps: int = STEPS
    threads: int = 1
    ranks: int = 1
    overlap: str = "auto"

    def __str__(self) -> str:
        return self.name

    def measure(self) -> Measured:
        """Train there, in processes of their own.

        Raises:
            Unavailable: if this machine cannot.
        """
        start = self.start()
        try:
            launcher = launcher_of(self.ranks)
        except pytest.skip.Exception as reason:
            raise Unavailable(str(reason)) from None
        mpirun = [launcher.mpirun, "-n", str(self.ranks)] if launcher.mpirun else []
        flags = ["--steps", str(self.steps), "--threads", str(self.threads)]
        flags += ["--overlap", self.overlap, "--model", *self.models]
        done = subprocess.run(
            [*mpirun, *start.command, "-m", "tests.machines.measure", *flags],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            cwd=ROOT,
            env=plain_environment() | start.variables,
        )
        if done.returncode:
            raise AssertionError(f"{self}: exit code {done.returncode}\n{done.stderr}")
        measured = Measured.from_json(done.stdout)
        assert start.numpy in ("", measured.facts.numpy), f"NumPy {measured.facts.numpy} was used"
        return measured

    def problem(self, measured: Measured) -> str:
        """Which fact shows that this environment did not take effect; empty if none does."""
        found = dataclasses.asdict(measured.facts)
        at_a_time = min(self.threads, Config.num_shards)
        effect = {"threads": (self.threads // at_a_time,), "at_a_time": (at_a_time,)}
        effect |= {"ranks": (self.ranks,), **self.effect}
        effect["overlap"] = (self.overlap == "on",)
        wrong = [name for name, allowed in effect.items() if found[name] not in allowed]
        return ", ".join(f"{name} is {found[name]!r}, not {effect[name]}" for name in wrong)


def plain_environment() -> dict[str, str]:
    """The environment without variables that select kernels or threads."""
    left_out = (*PREFIXES, *OTHERS)
    return {
        name: value for name, value in clean_environment().items() if not name.startswith(left_out)
    }


def emulated(name: str, where: Emulated, **effect: object) -> Environment:
    """A machine that is slow, or has only what Debian has for it, and facts that show it."""
    shown = {fact: (value,) for fact, value in effect.items()}
    return Environment(name, where.start, shown, models=("tutorial", "lenet"), steps=FEW)


KERNELS = (
    # The names that OpenBLAS gives them: wheels of NumPy have one kernel for several processors.
    Environment("kernel Prescott", kernel("Prescott", "pni"), {"kernel": ("Katmai", "Prescott")}),
    Environment("kernel Sandybridge", kernel("Sandybridge", "avx"), {"kernel": ("Sandybridge",)}),
    Environment("kernel Haswell", kernel("Haswell", "avx2 fma"), {"kernel": ("Haswell",)}),
    Environment("kernel Zen", kernel("Zen", "avx2 fma"), {"kernel": ("Haswell", "Zen")}),
    Environment(
        "kernel SkylakeX",
        kernel("SkylakeX", "avx512f avx512dq avx512bw avx512vl"),
        {"kernel": ("SkylakeX",)},
    ),
)
ENVIRONMENTS = (
    Environment("as installed"),
    *KERNELS,
    Environment("no SIMD of NumPy", no_simd, {"simd": ((),)}),
    Environment("lowest NumPy", lowest_numpy, {"numpy": ("2.0.0", "2.0.1", "2.0.2")}),
    Environment("newest NumPy", newest_numpy),
    Environment("2 shards at a time", threads=2),
    Environment("2 threads", threads=2 * Config.num_shards),  # each of the BLAS, for each shard
    *(Environment(f"{ranks} ranks", ranks=ranks) for ranks in (2, 3, 5)),
    Environment("3 ranks, overlap", ranks=3, overlap="on"),
    Environment("plain loops for BLAS", plain_loops, {"blas": ("plain loops",)}),
    Environment("reference BLAS", library_of("blas"), {"blas": ("blas/libblas.so.3",)}),
    Environment("BLIS", library_of("blis-serial"), {"blas": ("blis-serial/libblas.so.3",)}),
    emulated("emulated arm64", Emulated("aarch64", "arm64"), machine="aarch64"),
)
TABLE = (
    *ENVIRONMENTS,
    emulated("emulated riscv64", Emulated("riscv64", "riscv64", "trixie"), machine="riscv64"),
    emulated("emulated ppc64le", Emulated("ppc64le", "ppc64el", "forky"), machine="ppc64le"),
    emulated("emulated s390x", Emulated("s390x", "s390x", "forky"), byte_order="big"),
)
"""The environments of the table in docs/machines.md: also some that need a suite of Debian."""

"""The doctor as a user runs it, with its report read from the screen."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import Launcher, write_image_set

DOCTOR = ("-m", "distcnn.doctor")
STATES = ("good", "warning", "bad")
OF_THE_MACHINE = {"cores", "load", "latency", "bandwidth", "speed", "shared"}
"""Warnings that a small or busy machine may deserve, whatever a test does."""


@dataclass(frozen=True)
class Examined:
    """One run: its exit code, and (state, name, text, remedy) of each line."""

    code: int
    lines: list[tuple[str, str, str, str]]
    counts: list[str]
    """The last line, each time that it was printed."""
    output: str

    def of(self, name: str, state: str) -> str:
        """Text and remedy of the finding ``name`` in this state. Fails if it was not reported."""
        found = [
            f"{text}\n{remedy}"
            for what, named, text, remedy in self.lines
            if (what, named) == (state, name)
        ]
        assert found, f"no {state} {name}:\n{self.output}"
        return "\n".join(found)

    def names(self, state: str) -> set[str]:
        return {name for what, name, *_ in self.lines if what == state}

    def only_bad(self, *names: str, any_code: bool = False) -> None:
        """Check that exactly these are bad, that everything was reported once, and that the exit
        code fits; with ``any_code`` any but 0, for a launcher that ends all ranks after one has
        left.
        """
        assert self.names("bad") == set(names), self.output
        assert len(self.counts) == 1, self.output
        assert self.code if any_code else self.code == (1 if names else 0), self.output


def read(done: Any) -> Examined:
    """Read the report of a completed process."""
    lines: list[tuple[str, str, str, str]] = []
    counts = []
    for line in done.stdout.splitlines():
        state, _, rest = line.partition(" ")
        if state in STATES:
            name, text = rest.strip()[:15].strip(), rest.strip()[15:]
            lines.append((state, name, text, ""))
        elif line.strip().startswith("->"):
            lines[-1] = (*lines[-1][:3], line.strip().removeprefix("-> "))
        elif line.endswith(" bad"):
            counts.append(line)
    return Examined(done.returncode, lines, counts, f"{done.stdout}\n{done.stderr}")


@functools.cache
def small_data() -> tuple[str, str]:
    """Flags that name a small image set."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    return ("--data", str(write_image_set(Path(folder) / "set.h5")))


def with_data(flags: Sequence[str]) -> list[str]:
    """``flags``, and a small image set unless they name one."""
    return [*flags] if "--data" in flags else [*small_data(), *flags]


def doctor(launcher: Launcher, ranks: int = 1, *flags: str, **environment: str) -> Examined:
    """Run it."""
    return read(launcher.run(ranks, *DOCTOR, *with_data(flags), **environment))


def doctor_but(launcher: Launcher, ranks: int, rank: int, shell: str, *flags: str) -> Examined:
    """Run it, with a line of shell before it on one ``rank`` (a variable, a limit, another
    ``python``).
    """
    return in_shell(
        launcher,
        ranks,
        f'if [ "${{PMI_RANK:-$OMPI_COMM_WORLD_RANK}}" = {rank} ]; then {shell}; fi',
        *flags,
    )


def in_shell(launcher: Launcher, ranks: int, shell: str, *flags: str) -> Examined:
    """Run it, with a line of shell before it on every rank, which may change $python."""
    script = (
        f"python={launcher.python}; {shell}; exec $python -m distcnn.doctor"
        f" {' '.join(with_data(flags))}"
    )
    return read(Launcher("a shell", "sh", launcher.mpirun).run(ranks, "-c", script))

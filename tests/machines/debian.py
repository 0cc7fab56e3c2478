"""Packages of Debian or Ubuntu, unpacked into a folder: without root, and of any architecture.

apt-get works in a root of its own here, with this machine's list of sources or a suite of
Debian. What was prepared stays in ``CACHE``.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.machines.measure import ROOT

CACHE = ROOT / "build" / "machines"
DEBIAN = (
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    " http://deb.debian.org/debian {} main\n"
)
SECONDS = 120


class Unavailable(Exception):
    """This machine cannot have an environment; says why."""


def prepared(name: str, prepare: Callable[[Path], None]) -> Path:
    """The folder ``name`` of the cache; ``prepare`` fills it, once, also for other processes."""
    folder = CACHE / name
    with _lock(name):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as unfinished:
                prepare(Path(unfinished) / name)
                (Path(unfinished) / name).rename(folder)
    return folder


def unpack(
    packages: Sequence[str], architecture: str, folder: Path, *, needed: bool, suite: str = ""
) -> None:
    """Unpack ``packages``, and with ``needed`` all that they need, into ``folder``: from a suite of
    Debian, by default from this machine's sources.

    Raises:
        Unavailable: if apt-get or dpkg is missing, or fails, as it does without a network.
    """
    with tempfile.TemporaryDirectory() as name:
        apt = _apt_root(Path(name), architecture, suite)
        run("apt-get", *apt, "update")
        get = ["install", "--yes", "--no-install-recommends", "--download-only"]
        run("apt-get", *apt, *(get if needed else ["download"]), *packages, cwd=name)
        for archive in [*Path(name).glob("*.deb"), *Path(name).glob("archives/*.deb")]:
            run("dpkg", "-x", str(archive), str(folder))


def run(*command: str, cwd: str | None = None) -> str:
    """What a command prints; ``Unavailable`` if it is missing or fails."""
    if shutil.which(command[0]) is None:
        raise Unavailable(f"no {command[0]} here")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=cwd
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{command[0]} did not end in {SECONDS} s") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Unavailable(f"{' '.join(command[:2])} failed: {' '.join(last)}")
    return done.stdout


def _apt_root(folder: Path, architecture: str, suite: str) -> list[str]:
    """Options with which apt-get works in ``folder``, where no package is installed."""
    (folder / "archives" / "partial").mkdir(parents=True)
    (folder / "state" / "lists" / "partial").mkdir(parents=True)
    (folder / "status").touch()
    options = {
        "APT::Architecture": architecture,
        "APT::Architectures::": architecture,
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Dir::Cache": str(folder),
        "Dir::State": str(folder / "state"),
        "Dir::State::status": str(folder / "status"),
    }
    if suite:
        (folder / "sources.list").write_text(DEBIAN.format(suite))
        options["Dir::Etc::sourcelist"] = str(folder / "sources.list")
        options["Dir::Etc::sourceparts"] = "/dev/null"
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


@contextmanager
def _lock(name: str) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

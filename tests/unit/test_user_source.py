"""The source of a user's own model: which modules belong to it, and which of them changed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from distcnn.errors import InputError
from distcnn.models import find_model
from distcnn.training.consistency import same_model
from distcnn.user_code import compare_sources, own_sources
from tests.conftest import ROOT

NET = """
from distcnn.nn import Dense, Flatten, Sequential

def network(input_shape, classes):
    return Sequential([Flatten(), Dense(classes)])
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that can be imported until the test ends."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_users_modules_are_followed_wherever_they_are_imported(own: Path) -> None:
    package = own / "own_pkg" / "deep"
    package.mkdir(parents=True)
    (own / "own_pkg" / "__init__.py").write_text("WIDTH = 3\n")
    (package / "__init__.py").write_text("")
    imports = [
        "import json",
        "import numpy",
        "from distcnn import nn",
        "from . import blocks",
        "from .. import WIDTH",
    ]
    (package / "net.py").write_text("\n".join([*imports, "from own_sizes import SIZE", NET]))
    (package / "blocks.py").write_text(
        "def late():\n    import own_late\n    return own_late\n\nlate()\n"
    )
    (own / "own_late.py").write_text("X = 1\n")
    (own / "own_sizes.py").write_text("SIZE = 5\n")
    (own / "own_unused.py").write_text("SIZE = 5\n")
    importlib.import_module("own_unused")
    find_model("own_pkg.deep.net:network")
    sources = own_sources("own_pkg.deep.net:network")
    assert set(sources) == {
        "own_pkg",
        "own_pkg.deep",
        "own_pkg.deep.net",
        "own_pkg.deep.blocks",
        "own_late",
        "own_sizes",
    }
    assert sources["own_sizes"] == "SIZE = 5\n"


def test_an_installed_package_counts_when_the_model_is_in_it(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = own / "lib" / "site-packages"
    site.mkdir(parents=True)
    (site / "own_installed.py").write_text(f"import own_library\n{NET}")
    (site / "own_library.py").write_text("")
    monkeypatch.syspath_prepend(str(site))
    find_model("own_installed:network")
    assert set(own_sources("own_installed:network")) == {"own_installed"}


@pytest.mark.parametrize("model", ["lenet", "distcnn.models:lenet"])
def test_distcnns_own_networks_have_none(model: str) -> None:
    find_model(model)
    assert own_sources(model) == {}


def test_a_module_without_source_counts_by_its_bytes(own: Path) -> None:
    import py_compile

    (own / "own_compiled.py").write_text(NET)
    py_compile.compile(str(own / "own_compiled.py"), cfile=str(own / "own_compiled.pyc"))
    (own / "own_compiled.py").unlink()
    find_model("own_compiled:network")
    assert "SHA-256" in own_sources("own_compiled:network")["own_compiled"]


@pytest.mark.parametrize(
    ("now", "code", "layout"),
    [
        ({"m": "x = 1\ny = 2\n"}, [], []),
        ({"m": "x = 1\ny = 3\n"}, ["module m, line 2: was 'y = 2', is 'y = 3'"], []),
        ({"m": "x = 1\n"}, ["module m, line 2: was 'y = 2', is missing"], []),
        (
            {"m": "x = 1  # one\n\ny = 2\n"},
            [],
            ["module m, line 1: was 'x = 1', is 'x = 1  # one'"],
        ),
        ({"m": "x = 1\ny = (2\n"}, ["module m, line 2: was 'y = 2', is 'y = (2'"], []),
        ({"m": "x = 1\ny = 2\n", "n": ""}, ["module n is new"], []),
        ({}, ["module m is no longer used"], []),
        ({"m": "(" * 100_000}, [f"module m, line 1: was 'x = 1', is '{'(' * 60}'"], []),
    ],
)
def test_code_is_distinguished_from_comments_and_layout(
    now: dict[str, str], code: list[str], layout: list[str]
) -> None:
    changes = compare_sources({"m": "x = 1\ny = 2\n"}, now)
    assert (changes.code, changes.layout) == (code, layout)


class TwoRanks:
    """Rank 0's view of a world whose rank 1 sends ``theirs``."""

    hosts = ("a", "b")

    def __init__(self, *theirs: object) -> None:
        self._theirs = list(theirs)

    def allgather(self, item: object) -> list[object]:
        return [item, self._theirs.pop(0)]


def test_ranks_with_different_models_are_refused() -> None:
    with pytest.raises(InputError, match=r"rank 1 \(host b\).*module m, line 1"):
        same_model({"m": "x = 1"}, TwoRanks("another hash", {"m": "x = 2"}))  # type: ignore[arg-type]


def test_the_sources_of_this_tests_own_helpers_are_found() -> None:
    find_model("tests.support.staged:network")
    assert (
        own_sources("tests.support.staged:network")["tests.support.staged"]
        == (ROOT / "tests/support/staged.py").read_text()
    )

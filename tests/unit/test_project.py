"""The version is written once, and the project's metadata agrees with it."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files

import distcnn
from tests.conftest import ROOT


def test_changelog_and_citation_are_of_this_version() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert newest is not None
    assert cited is not None
    assert newest[1] == cited[1] == distcnn.__version__


def test_type_hints_are_published() -> None:
    assert (files("distcnn") / "py.typed").is_file()


def test_the_lowest_versions_are_those_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lowest = (ROOT / ".ci" / "lowest.txt").read_text()
    for dependency in project["dependencies"]:
        assert dependency.replace(">=", "==") + ".*" in lowest.splitlines()

"""The scripts in ``benchmarks/`` follow the package's API, and their list is complete."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"
SCRIPTS = [path.stem for path in FOLDER.iterdir() if path.suffix == ".py"] + ["soak.__main__"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_can_be_imported_and_is_listed(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")
    assert f"benchmarks.{name.removesuffix('.__main__')}" in (FOLDER / "README.md").read_text()

"""The launch scripts, as far as they go without setting anything up."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=lambda script: script.name)
def test_scripts_are_bash(script: Path) -> None:
    assert subprocess.run([shutil.which("bash") or "bash", "-n", script], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("ranks", ["0", "four", "-1", ""])
def test_a_wrong_number_of_ranks_is_refused_before_anything_is_set_up(ranks: str) -> None:
    done = subprocess.run([LAUNCH / "local.sh", "-n", ranks], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"local.sh: error: -n is '{ranks}'" in done.stderr


def test_the_newest_final_wheel_of_pip_is_taken() -> None:
    spec = importlib.util.spec_from_file_location("get_pip", LAUNCH / "get_pip.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = [
        "pip-9.0-py3-none-any.whl",
        "pip-24.10-py3-none-any.whl",
        "pip-24.2-py3-none-any.whl",
        "pip-99.0b1-py3-none-any.whl",
        "pip-99.tar.gz",
    ]
    files = [{"filename": name} for name in names] + [{"filename": "pip-98.0-py3-none-any.whl", "yanked": "broken"}]
    assert module.newest_wheel(files)["filename"] == "pip-24.10-py3-none-any.whl"

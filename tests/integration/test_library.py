"""The examples, alone and under mpirun; the console command; what importing distcnn does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import SERIAL, MakeImageSet, launcher_of

EXAMPLES = {
    "mnist.py": ["--max-steps", "6", "--data", "DATA", "--output", "OUTPUT"],
    "own_layer.py": ["--max-steps", "6", "--data", "DATA"],
    "own_data.py": ["--epochs", "1"],
    "resume_and_verify.py": ["--max-steps", "6", "--data", "DATA", "--output", "OUTPUT"],
    "plot_runs.py": ["--max-steps", "6", "--data", "DATA", "--output", "OUTPUT"],
}

UNTOUCHED = """
import os, signal, sys
before = dict(os.environ), sys.excepthook, signal.getsignal(signal.SIGTERM)
import distcnn
assert "numpy" not in sys.modules
distcnn.Trainer, distcnn.load, distcnn.datasets, distcnn.nn, distcnn.optim
assert before == (dict(os.environ), sys.excepthook, signal.getsignal(signal.SIGTERM))
assert not {"mpi4py", "matplotlib", "tqdm", "PIL"} & set(sys.modules), sys.modules
"""


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_examples(name: str, ranks: int, image_set: MakeImageSet, tmp_path: Path) -> None:
    places = {"DATA": str(image_set()), "OUTPUT": str(tmp_path / "run")}
    launcher = launcher_of(ranks)
    arguments = [places.get(word, word) for word in EXAMPLES[name]]
    done = launcher.run(ranks, f"examples/{name}", *arguments)
    assert (done.returncode, done.stdout != "") == (0, True), done.stderr
    found = re.search(r"weights (\w+)", done.stdout)
    if ranks > 1 and found and "OUTPUT" not in EXAMPLES[name]:
        assert found.group(1) in SERIAL.run(1, f"examples/{name}", *arguments).stdout


def test_importing_distcnn_changes_nothing() -> None:
    done = SERIAL.run(1, "-c", UNTOUCHED)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 0, "scaling"),
        (["--version"], 0, "distcnn 0"),
        (["trian"], 2, "trian"),
        (["train", "--help"], 0, "--learning-rate"),
        (["train", "--epoch", "1"], 2, "--epochs"),
        (["doctor", "--help"], 0, "usage"),
    ],
)
def test_the_console_command_runs_the_others(arguments: list[str], code: int, text: str) -> None:
    done = SERIAL.run(1, "-m", "distcnn", *arguments)
    assert done.returncode == code, done.stderr
    assert text in done.stdout + done.stderr

"""Mistakes in a user's own module are told by module, line and error, wherever its code runs; so
are limits of the system.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from distcnn import train
from distcnn.errors import InputError
from distcnn.fault_tolerance.error_origin import is_thread_limit, mistake_in, mistake_lines
from distcnn.models import build_model, find_model, initialise_model
from tests.conftest import SERIAL, Launcher, MakeImageSet, clean_environment
from tests.support.training_fixtures import with_path

NETWORK = """from distcnn import nn
import numpy as np

class Mine(nn.Tanh):
    def function(self, x, out):
        super().function(x, out){in_forward}

    def derivative(self, x, y, out):
        super().derivative(x, y, out){in_backward}

def start(rng, shape, fan_in, fan_out):
    return rng.standard_normal(shape){in_initialiser}

def network(input_shape, classes{more}):
    {in_building}
    return nn.Sequential([nn.Flatten(), nn.Dense(3), Mine(), nn.Dense(classes, weight_initialiser=start)]){in_return}
"""  # noqa: E501
PLACES = ("in_forward", "in_backward", "in_initialiser", "more", "in_building", "in_return")
WRONG = "[][3]"


def module(folder: Path, **wrong: str) -> Path:
    """The network, with something added in one of PLACES."""
    file = folder / "mine.py"
    file.write_text(NETWORK.format(**{**dict.fromkeys(PLACES, ""), "in_building": "pass", **wrong}))
    return file


def line_of(file: Path, text: str) -> int:
    return next(
        number for number, line in enumerate(file.read_text().splitlines(), start=1) if text in line
    )


BROKEN = {
    "undefined": ("x = undefined\n", "mine.py, line 1: NameError: name 'undefined' is not defined"),
    "division": ("\n\n1 / 0\n", "mine.py, line 3: ZeroDivisionError"),
    "syntax": ("def network(:\n    pass\n", "mine.py, line 1: SyntaxError"),
    "indentation": ("def network():\npass\n", "mine.py, line 2: IndentationError"),
    "a missing dependency": (
        "import os\nimport no_such_dependency\n",
        "mine.py, line 2: ModuleNotFoundError",
    ),
    "sys.exit": ("import sys\nsys.exit(0)\n", "mine.py, line 2: SystemExit"),
    "a deep one": (
        "def f():\n    return {}['key']\n\nf()\n",
        "mine.py, line 2, in f: KeyError: 'key'",
    ),
    "bytes that are no text": ("x = '\udcff'\n", "SyntaxError"),
}


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, from which ``mine`` can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.mark.parametrize("what", BROKEN)
def test_a_module_that_cannot_be_imported(what: str, importable: Path) -> None:
    source, says = BROKEN[what]
    (importable / "mine.py").write_bytes(source.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"^model 'mine:network' cannot be imported") as caught:
        find_model("mine:network")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"in_building": WRONG}, "line {in_building}, in network: IndexError"),
        ({"in_building": "raise SystemExit('no')"}, "in network: SystemExit: no"),
        ({"in_building": "nn.Conv2d(0, 3)"}, "in network: ValueError: out_channels (=0)"),
        (
            {"more": ", depth"},
            (
                "network() missing 1 required positional argument: 'depth': it must take"
                " (input_shape, classes)"
            ),
        ),
        ({"in_return": ".layers[0]"}, "it must return a distcnn.nn.Sequential"),
        ({"in_building": "return nn.Sequential([nn.ReLU])"}, "mine.py, line 15, in network: "),
        ({"in_building": "return nn.Sequential(['relu'])"}, "mine.py, line 15, in network: "),
    ],
)
def test_a_network_that_cannot_be_built(wrong: dict[str, str], says: str, importable: Path) -> None:
    file = module(importable, **wrong)
    with pytest.raises(InputError, match=r"^model 'mine:network'") as caught:
        build_model("mine:network", (1, 4, 4), 2, 1)
    assert says.format(in_building=line_of(file, WRONG) if WRONG in str(wrong) else "") in str(
        caught.value
    )


def test_an_initialiser_that_fails(importable: Path) -> None:
    file = module(importable, in_initialiser=f" + {WRONG}")
    network = build_model("mine:network", (1, 4, 4), 2, 1)
    with pytest.raises(
        InputError,
        match=rf"model 'mine:network': mine.py, line {line_of(file, WRONG)}, in start: IndexError",
    ):
        initialise_model("mine:network", network, np.random.default_rng(0))


def test_a_defect_of_ours_is_no_mistake_of_the_users() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        exec(compile("1 / 0", train.__file__, "exec"), {"__name__": "distcnn.train"})
    own = caught.value.with_traceback(caught.value.__traceback__.tb_next)  # type: ignore[union-attr]  # without this file
    assert mistake_in(own) is None
    assert mistake_lines(own) == []


@pytest.mark.parametrize("place", ["in_forward", "in_backward"])
def test_code_that_fails_while_training(
    place: str, image_set: MakeImageSet, tmp_path: Path
) -> None:
    file = module(tmp_path, **{place: f"; {WRONG}"})
    flags = [
        "--data",
        str(image_set()),
        "--output",
        str(tmp_path / "run"),
        "--model",
        "mine:network",
    ]
    done = SERIAL.run(1, "-m", "distcnn.train", *flags, PYTHONPATH=with_path(tmp_path))
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert re.match(
        r"distcnn\.train: rank 0 of 1 failed on host .*, step 0, forward and backward of shard 0:$",
        lines[0],
    )
    assert f"mine.py, line {line_of(file, WRONG)}, in " in lines[1]
    assert lines[-1].startswith("IndexError: ")
    assert len(lines) == 3


@pytest.mark.mpi
def test_on_several_ranks_it_is_told_once(
    mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    for place, wrong, code in (
        ("in_initialiser", f" + {WRONG}", 2),
        ("in_building", WRONG, 2),
        ("in_forward", f"; {WRONG}", 1),
    ):
        module(tmp_path, **{place: wrong})
        flags = [
            "--data",
            str(image_set()),
            "--output",
            str(tmp_path / "run"),
            "--model",
            "mine:network",
        ]
        done = mpirun.run(3, "-m", "distcnn.train", *flags, PYTHONPATH=with_path(tmp_path))
        assert done.returncode == code, done.stderr
        assert done.stderr.count("mine.py, line") == 1
        assert "Traceback" not in done.stderr


IN_A_THREAD = """
import sys, threading
from distcnn import train, verify
codes = []
run = threading.Thread(target=lambda: codes.append({command}.main(sys.argv[1:])))
run.start()
run.join()
sys.exit(codes[0])
"""


def test_commands_run_outside_the_main_thread(image_set: MakeImageSet, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    for command, flags in (
        ("train", ["--data", str(image_set()), "--model", "mlp", "--epochs", "1", "--output", run]),
        ("verify", [run]),
    ):
        done = SERIAL.run(1, "-c", IN_A_THREAD.format(command=command), *flags)
        assert (done.returncode, done.stderr) == (0, "")


WITHOUT_THREADS = """
import runpy, sys, threading
def start(thread):
    raise RuntimeError("can't start new thread")
threading.Thread.start = start
sys.argv = sys.argv[1:]
if sys.argv[0].endswith(".py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    "command", ["distcnn.train", "distcnn.benchmark", "distcnn.doctor", "distcnn.report"]
)
def test_where_threads_are_forbidden_there_is_a_line_or_none(
    command: str, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = {"distcnn.doctor": [], "distcnn.report": [str(tmp_path)]}.get(
        command, ["--data", str(image_set())]
    )
    words = [SERIAL.python, "-c", WITHOUT_THREADS, command, *flags]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env=clean_environment(),
    )
    assert "Traceback" not in done.stderr
    if command in ("distcnn.train", "distcnn.benchmark"):
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "threads" in done.stderr


def test_both_words_of_python_for_a_refused_thread() -> None:
    assert all(
        is_thread_limit(RuntimeError(text))
        for text in ("can't start new thread", "unable to start watchdog thread")
    )
    assert not is_thread_limit(RuntimeError("broken"))

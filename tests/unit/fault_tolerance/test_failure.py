"""Mistakes in a user's own module are reported by module, line and error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from distcnn import train
from distcnn.errors import ArgumentError, InputError
from distcnn.fault_tolerance.failure import is_thread_limit, mistake_in, mistake_lines
from distcnn.models import build_model, find_model, initialise_model
from tests.support.broken_modules import WRONG, line_of, module

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
    plan = build_model("mine:network", (1, 4, 4), 2, 1)
    with pytest.raises(
        InputError,
        match=rf"model 'mine:network': mine.py, line {line_of(file, WRONG)}, in start: IndexError",
    ):
        initialise_model("mine:network", plan.parameters, np.random.default_rng(0))


def test_our_defect_is_not_the_users_mistake() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        exec(compile("1 / 0", train.__file__, "exec"), {"__name__": "distcnn.train"})
    own = caught.value.with_traceback(caught.value.__traceback__.tb_next)  # type: ignore[union-attr]  # without this file
    assert mistake_in(own) is None
    assert mistake_lines(own) == []


def test_a_failed_check_of_the_users_code_needs_no_traceback() -> None:
    with pytest.raises(ArgumentError) as caught:
        raise ArgumentError("scale1 (Scale): forward returned a NoneType")
    ours = caught.value.with_traceback(None)
    assert mistake_lines(ours) == ["scale1 (Scale): forward returned a NoneType"]


def test_both_words_of_python_for_a_refused_thread() -> None:
    assert all(
        is_thread_limit(RuntimeError(text))
        for text in ("can't start new thread", "unable to start watchdog thread")
    )
    assert not is_thread_limit(RuntimeError("broken"))

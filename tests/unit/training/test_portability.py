"""Operations in a user's own code whose bits differ between machines: found under any name, and no
false alarms.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from distcnn import nn, optim
from distcnn.training.operations import Search
from distcnn.training.portability import portability_warnings

Write = Callable[..., ModuleType]
numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Makes a module of a text and imports it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str, name: str = "") -> ModuleType:
        name = name or f"own_operations_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return write


def found_in(part: Any) -> dict[str, tuple[int, str | None]]:
    """The operations with their lines and portable forms."""
    search = Search()
    search.read(part)
    assert not search.unread
    return {each.name: (each.line, each.form) for each in search.found.values()}


@pytest.mark.parametrize(
    ("imports", "expression", "name", "form"),
    [
        ("import numpy as np", "np.exp(x)", "numpy.exp", "exp"),
        ("import numpy as n", "n.exp(x)", "numpy.exp", "exp"),
        ("import numpy", "numpy.tanh(x)", "numpy.tanh", "tanh"),
        ("from numpy import exp", "exp(x)", "numpy.exp", "exp"),
        ("from numpy import exp as e", "1 + e(x)", "numpy.exp", "exp"),
        ("from numpy import *", "log(x)", "numpy.log", "log"),
        ("import numpy as np; e = np.exp", "e(x)", "numpy.exp", "exp"),
        ("import numpy as np", "list(map(np.sin, x))", "numpy.sin", "sin"),
        ("import numpy as np", "np.sum(x, axis=0)", "numpy.sum", "total"),
        ("import numpy as np", "np.add.reduce(x)", "numpy.add.reduce", "total"),
        ("import numpy as np", "np.mean(x)", "numpy.mean", "mean"),
        ("import numpy as np", "np.var(x)", "numpy.var", "mean"),
        ("import numpy as np", "np.dot(x, x)", "numpy.dot", "matmul"),
        ("import numpy as np", "np.einsum('i,i', x, x)", "numpy.einsum", "matmul"),
        ("import numpy as np", "np.tensordot(x, x)", "numpy.tensordot", "matmul"),
        ("import numpy as np", "np.linalg.norm(x)", "numpy.linalg.norm", None),
        ("from numpy import linalg as la", "la.inv(x)", "numpy.linalg.inv", None),
        ("import numpy as np", "np.random.normal(size=3)", "numpy.random.normal", None),
        ("from numpy.random import rand", "rand(1)", "numpy.random.rand", None),
        ("import numpy as np", "np.power(x, 3)", "numpy.power", "power"),
        ("import numpy as np", "np.argsort(x)", 'argsort without kind="stable"', None),
        ("", "x.argsort()", 'argsort without kind="stable"', None),
        ("import math", "math.exp(x)", "math.exp", "exp"),
        ("from math import cos as c", "c(x)", "math.cos", "cos"),
        ("import math", "math.pow(x, 2)", "math.pow", "power"),
        ("", "sum(x)", "sum", "total"),
        ("", "pow(x, 2)", "pow", "power"),
        ("", "x ** 2", "**", "power"),
        ("", "2 ** x", "**", "power"),
        ("", "x @ x", "@", "matmul"),
        ("", "x.sum()", ".sum()", "total"),
        ("", "(x * 2).mean(axis=0)", ".mean()", "mean"),
        ("", "x.T.dot(x)", ".dot()", "matmul"),
        ("", "x.random.permutation(5)", ".permutation()", None),
        ("import scipy.special", "scipy.special.expit(x)", "expit", "sigmoid"),
        ("from scipy.special import erf", "erf(x)", "erf", None),
        ("from distcnn import nn", "nn.softmax_cross_entropy(x, x, x)",
         "distcnn.nn.softmax_cross_entropy", "softmax_cross_entropy"),
        ("from distcnn.nn import Tanh as T", "T.function(x)", "distcnn.nn.Tanh.function", "tanh"),
        ("import numpy as np", "getattr(np, 'exp')(x)", "numpy.exp", "exp"),
        ("import operator", "operator.pow(x, 2)", "operator.pow", "power"),
        ("from operator import matmul", "matmul(x, x)", "operator.matmul", "matmul"),
        ("import cmath", "cmath.exp(x)", "cmath.exp", None),
        ("import numpy as np", "np.power.outer(x, x)", "numpy.power", "power"),
        ("import numpy as np", "np.add.reduceat(x, [0])", "numpy.add.reduceat", "total"),
        ("import numpy as np", "np.logspace(0, x)", "numpy.logspace", None),
        ("", "x.__pow__(1.5)", ".__pow__()", "power"),
        ("from distcnn import nn", "nn.Tanh().function(x, x)", "distcnn.nn.Tanh.function", "tanh"),
    ],
)  # fmt: skip
def test_an_operation_is_found_under_any_name(
    imports: str, expression: str, name: str, form: str | None, module: Write
) -> None:
    made = module(f"{imports}\ndef function(x):\n    return {expression}\n")
    assert found_in(made.function) == {name: (3, form)}


@pytest.mark.parametrize(
    ("imports", "expression"),
    [
        (
            "from distcnn import nn",
            "nn.portable.exp(x) + nn.portable.total(x) + nn.portable.mean(x)",
        ),
        ("from distcnn.nn import portable as p", "p.matmul(x, x) * p.log1p(p.power(x, 2))"),
        ("from distcnn.nn.portable import exp, tanh", "exp(x) - tanh(x)"),
        ("import distcnn as dc", "dc.nn.portable.mean(x) + dc.nn.portable.total(x)"),
        ("import distcnn.nn.portable", "distcnn.nn.portable.mean(x)"),
        ("from distcnn.nn.portable import total as sum", "sum(x)"),
        ("import numpy as np", "np.where(x > 0, x, -x) / (np.abs(x) + 1.5) * np.maximum(x, 0) - 1"),
        ("import numpy as np", "np.sqrt(np.square(x)) + np.clip(x, 0, 1) + np.sign(x)"),
        ("import numpy as np", "np.concatenate([x.reshape(2, -1), x[::-1]]).T.max(axis=0) // 2"),
        ("import numpy as np", "np.argsort(x, kind='stable')"),
        ("import math", "math.sqrt(x) + math.floor(x) + math.pi + math.fsum(x)"),
        ("", "2.0 ** -53 + 10 ** 3"),
        ("", "x.random.random(3) + x.random.standard_normal(3) + x.random.uniform(0, 1)"),
        ("import numpy as np", "(lambda exp: exp(x))(abs)"),
        ("import numpy as np", "[sum for sum in x]"),
        ("", "x.shape[0] ** 2 + sum(x.shape) + sum([1, 2]) + (x.ndim - 1) ** len(x)"),
        ("", "(x > 0).sum()"),
        ("import numpy as np; c = np.float32(3); t = {'a': 1}", "c * x + t['a'] + np.pi"),
    ],
)
def test_what_is_portable_raises_no_alarm(imports: str, expression: str, module: Write) -> None:
    made = module(f"{imports}\ndef function(x):\n    return {expression}\n")
    assert found_in(made.function) == {}


def test_constants_of_a_module_are_read_where_they_are_assigned(module: Write) -> None:
    module("import numpy as np\nE = np.log(3)\n", "own_constants")
    made = module(
        """import functools
import math
import numpy as np
import own_constants
from own_constants import E as other

if True:
    TABLE: object = np.exp(np.arange(3))
NAMED = {"tanh": np.tanh}
PART = functools.partial(np.cos)
EACH = np.vectorize(lambda x: math.sin(x))
UNUSED = np.sinh(1)

def table(x): return TABLE[x]
def named(x): return NAMED["tanh"](x)
def part(x): return PART(x)
def each(x): return EACH(x)
def imported(x): return other * x
def of_module(x): return own_constants.E * x
def local(x, UNUSED): return UNUSED * x
"""
    )
    for function, found in {
        "table": {"numpy.exp": (8, "exp")},
        "named": {"numpy.tanh": (9, "tanh")},
        "each": {"math.sin": (11, "sin")},
        "imported": {"numpy.log": (2, "log")},
        "of_module": {"numpy.log": (2, "log")},
        "local": {},
    }.items():
        assert found_in(getattr(made, function)) == found
    assert set(found_in(made.part)) == {"numpy.cos"}


def test_cached_functions_and_what_super_stands_for(module: Write) -> None:
    made = module(
        """import functools
import math
import numpy as np
from distcnn import nn

@functools.lru_cache
def cached(x):
    return math.exp(x)

def helped(x):
    return cached(x)

class Steep(nn.Sigmoid):
    def function(self, x, out):
        super().function(2 * x, out)
"""
    )
    assert found_in(made.cached) == found_in(made.helped) == {"math.exp": (8, "exp")}
    assert set(found_in(made.Steep())) == {"distcnn.nn.Sigmoid.function"}


@pytest.mark.parametrize(
    "text",
    [
        "from unittest.mock import call\ndef function(x):\n    marker = call\n    return x\n",
        "class W:\n    def __getattr__(self, name):\n        return W()\n"
        "    def __call__(self):\n        pass\nw = W()\ndef function(x):\n    return w(x)\n",
        "class W:\n    def __getattr__(self, name):\n        raise KeyError(name)\n"
        "    def __call__(self):\n        pass\nw = W()\ndef function(x):\n    return w(x)\n",
        "class W:\n    def __hash__(self):\n        raise RuntimeError\nw = W()\n"
        "def function(x):\n    return w\n",
        f"def function(x):\n    return {' + '.join(['x'] * 2000)}\n",
    ],
)
def test_odd_code_neither_stops_the_check_nor_makes_it_endless(text: str, module: Write) -> None:
    search = Search()
    search.read(module(text).function)
    assert not search.found


def test_relative_imports_and_names_of_nested_definitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "math.py").write_text("def exp(x):\n    return x\n")
    (package / "constants.py").write_text("import numpy as np\nTABLE = np.exp(1)\n")
    (package / "parts.py").write_text(
        """from .constants import TABLE
def portable(x):
    from .math import exp
    def sum(v):
        return v
    return sum(exp(x)) + sum(len(each) for each in x)
def constant(x):
    return TABLE * x
"""
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    parts = importlib.import_module("own_package.parts")
    assert found_in(parts.portable) == {}
    assert found_in(parts.constant) == {"numpy.exp": (2, "exp")}


def test_functions_of_installed_packages_are_not_checked(module: Write) -> None:
    text = "from scipy import ndimage\ndef function(x):\n    return ndimage.gaussian_filter(x, 1)\n"
    for made in (text, "def function(x):\n    return eval('x')\n"):
        search = Search()
        search.read(module(made).function)
        assert search.unread in (["scipy.gaussian_filter"], ["eval"])


def test_what_a_function_imports_and_assigns_itself(module: Write) -> None:
    made = module(
        "from numpy import exp, log\n"
        "def function(x):\n"
        "    import numpy as inner\n"
        "    from math import cosh as c\n"
        "    exp = abs\n"
        "    def nested(log):\n"
        "        return log(x) + exp(x)\n"
        "    return nested(inner.sinh) + c(x)\n"
    )
    assert set(found_in(made.function)) == {"numpy.sinh", "math.cosh"}


def test_helpers_and_bases_of_the_users_are_read_wherever_they_are(module: Write) -> None:
    module("import numpy as np\ndef softplus(x):\n    return np.log1p(x)\n", "own_helpers")
    module("class Base:\n    def halve(self, x):\n        return x.mean()\n", "own_base")
    made = module(
        "from distcnn.nn import Layer\n"
        "import own_helpers as h\n"
        "from own_base import Base\n"
        "import math\n"
        "class Sub(Base):\n"
        "    pass\n"
        "def unused(x):\n"
        "    return math.sinh(x)\n"
        "def recursive(x):\n"
        "    return math.cosh(x) if x else recursive(x - 1)\n"
        "class Mine(Layer):\n"
        "    def output_shape(self, input_shape):\n"
        "        return input_shape\n"
        "    def forward(self, x, call):\n"
        "        return h.softplus(x) + Sub().halve(x) + recursive(x) + self.sum(x)\n"
        "    def backward(self, grad_output, call):\n"
        "        return grad_output ** 2\n"
        "    def sum(self, x):\n"
        "        return x\n"
    )
    expected = {"numpy.log1p", ".mean()", "math.cosh", "**"}
    assert set(found_in(made.Mine())) == expected
    assert set(found_in(made.Mine)) == expected


def test_closures_lambdas_partials_decorators_and_objects_that_can_be_called(module: Write) -> None:
    made = module(
        "import functools, math\n"
        "import numpy as np\n"
        "def closure(function):\n"
        "    def inner(x):\n"
        "        return function(x)\n"
        "    return inner\n"
        "of_exp, of_abs = closure(np.exp), closure(np.abs)\n"
        "cube = lambda x: x ** 3\n"
        "double = lambda x: 2 * x\n"
        "@functools.lru_cache\n"
        "def cached(x):\n"
        "    return math.log(x)\n"
        "class Scaled:\n"
        "    def __init__(self, by):\n"
        "        self.by = by\n"
        "    def __call__(self, x):\n"
        "        return np.cos(x) * self.by\n"
        "    def method(self, x):\n"
        "        return np.cosh(x)\n"
    )
    assert set(found_in(made.of_exp)) == {"numpy.exp"}
    assert found_in(made.of_abs) == {}
    assert found_in(made.cube) == {"**": (8, "power")}
    assert found_in(made.double) == {}
    assert found_in(functools.partial(made.cube)) == {"**": (8, "power")}
    assert found_in(made.cached) == {"math.log": (12, "log")}
    assert set(found_in(made.Scaled(2))) == {"numpy.cos", "numpy.cosh"}
    assert set(found_in(made.Scaled(2).method)) == {"numpy.cosh"}
    assert found_in(math.cos) == {"math.cos": (0, "cos")}
    assert found_in(np.exp) == {"numpy.exp": (0, "exp")}


def test_code_without_a_source_is_not_checked() -> None:
    names: dict[str, Any] = {"__name__": "nowhere"}
    exec("def made(x):\n    return x\nclass Made:\n    pass\n", names)
    for part in (names["made"], names["Made"], names["Made"]()):
        search = Search()
        search.read(part)
        assert search.unread in (["made"], ["Made"])
        assert not search.found


# -- warnings


class Softplus(nn.Activation):
    """Not portable."""

    def function(self, x: Any, out: Any) -> None:
        np.logaddexp(x, 0, out=out)

    def derivative(self, x: Any, y: Any, out: Any) -> None:
        np.expm1(-y, out=out)
        np.negative(out, out=out)


class Doubled(nn.Layer):
    """Portable."""

    def output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def forward(self, x: Any, call: Any) -> Any:
        return x * 2

    def backward(self, grad_output: Any, call: Any) -> Any:
        return grad_output * 2


class Decay(optim.Optimizer):
    """Not portable."""

    def update(self, values: Any, grads: Any, state: Any, rate: float, step: int, _: Any) -> None:
        values -= rate * 0.9**step * grads / np.linalg.norm(grads)


def drawn(rng: Any, shape: Any, fan_in: int, fan_out: int) -> Any:
    return rng.exponential(1.0, shape)


def own_loss(outputs: Any, labels: Any, weights: Any) -> tuple[float, Any]:
    return nn.softmax_cross_entropy(outputs, labels, weights)


def warnings(
    layers: list[nn.Layer], loss: Any, optimizer: optim.Optimizer, schedule: optim.Schedule
) -> list[str]:
    model = nn.Sequential([nn.Flatten(), *layers, nn.Dense(3)])
    return portability_warnings(model, model.allocate((1, 4, 4)), loss, optimizer, schedule)


def test_parts_of_distcnn_give_no_warning() -> None:
    layers = [nn.Sigmoid(), nn.Tanh(), nn.ReLU(), nn.Dense(4, weight_initialiser=nn.glorot_uniform)]
    for loss in nn.LOSSES.values():
        for rule in (optim.Adam(), optim.AdamW(), optim.SGD(momentum=0.9)):
            for schedule in optim.SCHEDULES.values():
                assert warnings([*layers, Doubled()], loss, rule, schedule(5)) == []


def test_each_part_of_the_users_is_named_once_with_places_and_remedies() -> None:
    layers = [nn.Dense(4, weight_initialiser=drawn), Softplus(), Softplus(), Doubled()]
    schedule = optim.OwnSchedule(function=lambda progress: math.cos(progress))
    lines = warnings(layers, own_loss, Decay(), schedule)
    parts = ("Softplus", "drawn", "own_loss", "Decay", "lambda")
    assert len(lines) == len(parts)
    for line, part in zip(lines, parts, strict=True):
        assert line.startswith("warning: portable arithmetic: ")
        assert part in line
        assert "test_portability.py:" in line
        assert line.endswith(" (docs/portable.md)")
    assert "numpy.logaddexp (test_portability.py:" in lines[0]
    assert "distcnn.nn.portable.log1p, .expm1" in lines[0]
    assert "distcnn.nn.portable.softmax_cross_entropy" in lines[2]
    assert "numpy.linalg.norm" in lines[3]


def test_a_part_that_cannot_be_read_is_named_and_long_lists_are_cut() -> None:
    names: dict[str, Any] = {"__name__": "nowhere"}
    exec("def loss(outputs, labels, weights):\n    return 0.0, outputs\n", names)
    (line,) = warnings([], names["loss"], optim.SGD(), optim.Constant())
    assert "loss loss was not checked" in line

    def many(x: Any, labels: Any, weights: Any) -> Any:
        return np.exp(x), np.log(x), np.sin(x), np.cos(x), np.tanh(x)

    (line,) = warnings([], many, optim.SGD(), optim.Constant())
    assert "numpy.sin" in line
    assert " and 2 more" in line
    assert "numpy.cos" not in line

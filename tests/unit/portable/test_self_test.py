"""The self-test of portable arithmetic passes here, and finds machines outside the promise."""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from distcnn.distributed import Communicator
from distcnn.errors import InputError
from distcnn.network import Network
from distcnn.nn import PORTABLE, Dense, Flatten, Sequential
from distcnn.portable import functions, self_test
from tests.conftest import MakeImageSet
from tests.support.training_fixtures import prepare

FLUSH_TO_ZERO = 0x8040
"""The bits of MXCSR that flush subnormal results to zero, and take subnormal operands for it."""
Operation = Callable[..., NDArray[Any]]


@pytest.mark.parametrize("threads", [1, 2])
def test_this_machine_computes_the_reference_hash(threads: int) -> None:
    with threadpool_limits(threads):
        assert self_test.problem() == ""
        assert self_test.reference_sha256() == self_test.REFERENCE_SHA256


def test_the_cases_are_those_that_rounding_twice_gets_wrong() -> None:
    """As the x87 unit does: to 64 bits, then to 53."""
    wide = np.longdouble
    if np.finfo(wide).nmant != 63:
        pytest.skip("needs x87's numbers")
    for operation, cases in (
        (np.add, self_test.SUMS),
        (np.multiply, self_test.MULTIPLICATIONS),
        (np.divide, self_test.DIVISIONS),
        (np.sqrt, self_test.ROOTS),
    ):
        for *operands, result in cases:
            assert operation(*operands) == result
            assert float(operation(*map(wide, operands))) != result


@pytest.fixture
def flush_to_zero() -> Iterator[None]:
    """What a library built with -ffast-math does when it is loaded."""
    if platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
        pytest.skip("needs glibc on x86-64")
    library, environment = ctypes.CDLL("libm.so.6"), (ctypes.c_uint32 * 8)()
    library.fegetenv(environment)
    before = environment[7]
    environment[7] |= FLUSH_TO_ZERO
    library.fesetenv(environment)
    yield
    environment[7] = before
    library.fesetenv(environment)


def test_flush_to_zero_is_found(flush_to_zero: None) -> None:
    assert "flush-to-zero" in self_test.problem()


def as_float32(a: Any, b: Any) -> NDArray[Any]:
    return np.einsum("ij,jk", a.astype(np.float32), b.astype(np.float32)).astype(np.float64)


def as_bfloat16(a: Any, b: Any) -> NDArray[Any]:
    """What some libraries do to operands of float32, in a fast mode."""
    if a.dtype == np.float32:
        a, b = ((x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) for x in (a, b))
    return np.einsum("ij,jk", a, b)


@pytest.mark.parametrize(
    ("name", "replacement", "message"),
    [
        ("matmul", as_float32, "matrix products of float64"),
        ("matmul", as_bfloat16, "matrix products of float32"),
        ("divide", lambda a, b: a * (1 / b), "rounded correctly"),
        ("sqrt", lambda x: x**0.5 * (1 + 2.0**-52), "rounded correctly"),
    ],
)
def test_other_arithmetic_is_found(
    name: str, replacement: Operation, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, name, replacement)
    assert message in self_test.problem()


def test_floats_of_python_are_tested_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """32-bit x86 can have a NumPy that rounds correctly, and a Python that does not."""
    root = math.sqrt
    monkeypatch.setattr(math, "sqrt", lambda x: root(x) * (1 + 2.0**-52))
    assert "Python" in self_test.problem()


@pytest.mark.parametrize("name", ["exp", "expm1", "log", "log1p", "tanh", "sigmoid", "cos_2pi"])
def test_a_function_of_another_bit_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = getattr(functions, name)

    def other(x: NDArray[Any]) -> NDArray[Any]:
        result = np.array(original(x))
        result[7] = np.nextafter(result[7], 2)
        return result

    monkeypatch.setattr(functions, name, other)
    assert "reference hash" in self_test.problem()


def test_a_network_warns_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = Sequential([Flatten(), Dense(2)])
    parameters = model.initialise((1, 2, 2), np.random.default_rng(0))
    settings = {"image_shape": (1, 2, 2), "class_names": ("a", "b"), "mean": (0,), "std": (1,)}
    Network(model, parameters.named(), arithmetic=PORTABLE, **settings)
    monkeypatch.setattr(self_test, "REFERENCE_SHA256", "0")
    Network(model, parameters.named(), **settings)
    assert not caplog.records
    Network(model, parameters.named(), arithmetic=PORTABLE, **settings)
    assert "this machine computes other bits" in caplog.text


def test_a_portable_run_is_refused_there(
    image_set: MakeImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_test, "REFERENCE_SHA256", "0")
    with pytest.raises(InputError, match=r"--arithmetic portable: this machine .*reference hash"):
        prepare(image_set(), Communicator(), arithmetic="portable")
    prepare(image_set(), Communicator())

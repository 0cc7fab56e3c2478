"""The software and the processor that decide the bits.

Names and versions are not enough: a BLAS kernel of one name may use other block sizes on another
processor (https://github.com/OpenMathLib/OpenBLAS/issues/6021). So it also has a hash of results.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform

import numpy as np
from numpy.typing import NDArray

import distcnn
from distcnn.distributed.blas_threads import blas_description, blas_thread_count
from distcnn.system.environment import kernel_variables, sources_sha256
from distcnn.system.host import cpu_info

FLAGS = "sse4_2 avx avx2 fma avx512f avx512bw avx512vl avx512_bf16 amx_tile asimd sve sve2 vsx"
"""Instruction sets by which NumPy and BLAS choose their kernels."""

PRODUCTS = ((20, 25, 9216), (50, 500, 256), (100, 800, 16), (64, 1500, 64))
"""(m, k, n) of matrix products as networks have them; with large k, whose blocks differ first."""
FUNCTION_VALUES = 4099

LABELS = {"arithmetic": "hash of products", "environment": "kernel selection"}
"""What messages call an entry; the others have the names that they are recorded under."""
OF_DISTCNN = ("distcnn", "sources")
"""On what the bits of portable arithmetic depend."""


def fingerprint() -> dict[str, str]:
    """Everything that must be equal for results to have the same bits."""
    flags, variables = cpu_info("flags", "features").split(), kernel_variables(os.environ)
    return {
        "distcnn": distcnn.__version__,
        "sources": sources_sha256()[:16],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": blas_description(),
        "blas_threads": str(blas_thread_count()),
        "machine": platform.machine(),
        "cpu_flags": " ".join(flag for flag in FLAGS.split() if flag in flags),
        "environment": " ".join(f"{name}={value}" for name, value in variables.items()),
        "arithmetic": arithmetic_sha256()[:16],
    }


def arithmetic_sha256() -> str:
    """SHA-256 of what the libraries compute from fixed float32 operands."""
    pairs, numbers = operands()
    positive = np.abs(numbers)
    # Schedules and optimizers use the C library's.
    of_python = np.array([(math.cos(math.pi * i / 64), 0.999**i) for i in range(64)])
    results = [
        of_python,
        *(np.matmul(a, b) for a, b in pairs),
        np.exp(numbers),
        np.log(positive + np.float32(1e-3)),
        np.sqrt(positive),
        np.tanh(numbers),
        numbers.sum(),
        numbers @ numbers,
    ]
    return hashlib.sha256(b"".join(values.tobytes() for values in results)).hexdigest()


def operands() -> tuple[list[tuple[NDArray[np.float32], NDArray[np.float32]]], NDArray[np.float32]]:
    """The operands of ``PRODUCTS``, and more numbers, in [-4, 4): the same with every NumPy."""
    sizes = [m * k + k * n for m, k, n in PRODUCTS]
    words = np.random.Philox(key=np.zeros(2, np.uint64)).random_raw(sum(sizes) + FUNCTION_VALUES)
    fractions = (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-21)
    parts = np.split((fractions - np.float32(4)).astype(np.float32), np.cumsum(sizes))
    return [
        (p[: m * k].reshape(m, k), p[m * k :].reshape(k, n))
        for p, (m, k, n) in zip(parts, PRODUCTS, strict=False)
    ], parts[-1]


def deciding(software: dict[str, str], is_portable: bool) -> dict[str, str]:
    """The part of a fingerprint on which bits depend: in portable arithmetic distcnn alone."""
    if not is_portable:
        return software
    return {name: software[name] for name in OF_DISTCNN if name in software}


def deciding_differences(
    before: dict[str, str], now: dict[str, str], is_portable: bool
) -> list[str]:
    """The differences on which bits depend, as text; none where a portable run recorded nothing."""
    if is_portable and not before:
        return []
    return differences(deciding(before, is_portable), deciding(now, is_portable))


def portable_would_agree(one: dict[str, str], other: dict[str, str]) -> bool:
    """Whether portable arithmetic has the same bits with both, of which native may have others."""
    return deciding(one, True) == deciding(other, True)


def differences(
    one: dict[str, str], other: dict[str, str], places: tuple[str, str] | None = None
) -> list[str]:
    """The differences, as text: before and now, or in two ``places`` such as "on rank 0"."""
    found = []
    for name in {**one, **other}:
        if one.get(name) != other.get(name):
            first, second = (
                repr(each[name]) if name in each else "not recorded" for each in (one, other)
            )
            label = LABELS.get(name, name)
            if places:
                found.append(f"{label} is {first} {places[0]}, {second} {places[1]}")
            else:
                found.append(f"{label} was {first}, is {second}")
    return found

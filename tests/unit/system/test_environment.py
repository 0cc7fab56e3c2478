"""What decides the bits: distcnn's sources, and the variables by which libraries choose kernels."""

from __future__ import annotations

import pytest

from distcnn.system.environment import kernel_variables, sources_sha256
from distcnn.training.fingerprint import arithmetic_sha256, differences, fingerprint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENBLAS_CORETYPE", "Haswell"),
        ("OPENBLAS_L2_SIZE", "512"),
        ("OPENBLAS_BLOCK_FACTOR", "2"),
        ("NPY_DISABLE_CPU_FEATURES", "AVX2"),
        ("NPY_ENABLE_CPU_FEATURES", "AVX2"),
        ("MKL_CBWR", "COMPATIBLE"),
        ("MKL_ENABLE_INSTRUCTIONS", "AVX2"),
        ("MKL_DEBUG_CPU_TYPE", "5"),
        ("BLIS_ARCH_TYPE", "haswell"),
        ("NVPL_BLAS_DEBUG_CPU_TYPE", "1"),
        ("FLEXIBLAS", "OPENBLAS"),
        ("GLIBC_TUNABLES", "glibc.malloc.check=3:glibc.cpu.hwcaps=-AVX2"),
    ],
)
def test_variables_that_choose_kernels_are_found(name: str, value: str) -> None:
    assert kernel_variables({name: value, "HOME": "/root"}) == {name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENBLAS_NUM_THREADS", "1"),
        ("MKL_NUM_THREADS", "4"),
        ("VECLIB_MAXIMUM_THREADS", "1"),
        ("OPENBLAS_VERBOSE", "2"),
        ("GLIBC_TUNABLES", "glibc.malloc.check=3"),
        ("OPENBLAS_CORETYPE", ""),
        ("MKLROOT", "/opt/mkl"),
    ],
)
def test_other_variables_are_left_out(name: str, value: str) -> None:
    assert kernel_variables({name: value}) == {}


def test_the_fingerprint_has_sources_variables_and_results(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint()
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    (found,) = differences(before, fingerprint())
    assert found.startswith("kernel selection was ")
    assert before["sources"] in sources_sha256()
    assert before["arithmetic"] in arithmetic_sha256()
    assert differences({"numpy": "2"}, {"numpy": "2", "sources": "ab"}) == [
        "sources was not recorded, is 'ab'"
    ]
    assert differences({"arithmetic": "1f"}, {"arithmetic": "2a"}, ("on rank 0", "on rank 3")) == [
        "hash of products is '1f' on rank 0, '2a' on rank 3"
    ]

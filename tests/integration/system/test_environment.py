"""Another BLAS kernel changes the fingerprint."""

from __future__ import annotations

import pytest

from tests.conftest import SERIAL


def test_another_kernel_shows_in_the_results_themselves() -> None:
    code = (
        "from distcnn.training.fingerprint import fingerprint as f; f = f(); print(f['blas'],"
        " f['arithmetic'], sep='|')"
    )
    found = [
        SERIAL.run(1, "-c", code, OPENBLAS_CORETYPE=kernel) for kernel in ("Haswell", "Sandybridge")
    ]
    (blas, first), (other_blas, other) = (done.stdout.strip().split("|") for done in found)
    if blas == other_blas:
        pytest.skip("NumPy uses another BLAS here, or another kind of processor")
    assert first != other

"""What decides the bits besides configuration, data and libraries: distcnn's own sources, and
variables that select kernels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
PREFIXES = (
    *("OPENBLAS_", "GOTO_", "GOTOBLAS_", "MKL_", "BLIS_", "AOCL_", "ARMPL_", "NVPL_", "VECLIB_"),
    *("ESSL_", "LIBSCI_", "CRAYBLAS_", "FLEXIBLAS", "NPY_"),
)
"""Of variables with which BLAS libraries and NumPy choose instructions, kernels and block sizes."""
NO_KERNELS = ("_NUM_THREADS", "_MAXIMUM_THREADS", "_THREAD_TIMEOUT", "_VERBOSE", "_MAIN_FREE")
"""Suffixes of those that do not; --threads-per-rank sets the number of threads."""


def kernel_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables in ``environment`` that select kernels, and so may change the bits."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if (value and name.startswith(PREFIXES) and not name.endswith(NO_KERNELS))
        or (name == "GLIBC_TUNABLES" and "glibc.cpu." in value)
    }


def sources_sha256() -> str:
    """SHA-256 of the package's files: two checkouts of one version may differ."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(PACKAGE).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()

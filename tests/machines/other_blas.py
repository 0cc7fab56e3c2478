"""Another BLAS in place of the one in NumPy's wheel: ``other_blas.c``, loaded before it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.machines.debian import Unavailable, prepared, run, unpack
from tests.machines.starts import Start

SOURCE = Path(__file__).with_name("other_blas.c")
REPLACED = b"scipy_cblas_dgemm64_"
"""A name with which NumPy's wheels call their BLAS."""
PACKAGES = "libblas3", "libblis4-serial", "libgfortran5"


def plain_loops() -> Start:
    """Products of matrices as plain loops that add the last term first."""
    return Start(variables={"LD_PRELOAD": str(_compiled())})


def library_of(name: str) -> Callable[[], Start]:
    """The BLAS of Debian that is in the folder ``name`` of its libraries."""

    def start() -> Start:
        folder = prepared("blas", _unpack_libraries)
        found = next(folder.glob(f"usr/lib/*/{name}/libblas.so.3"), None)
        if found is None:
            raise Unavailable(f"the packages {', '.join(PACKAGES)} have no {name}/libblas.so.3")
        forward = {"OTHER_BLAS": str(found), "LD_LIBRARY_PATH": str(found.parents[1])}
        return Start(variables={"LD_PRELOAD": str(_compiled()), **forward})

    return start


def _compiled() -> Path:
    core = Path(np._core._multiarray_umath.__file__)
    if platform.system() != "Linux" or REPLACED not in core.read_bytes():
        raise Unavailable("this NumPy does not call its BLAS by the names of Linux wheels")
    return prepared("other_blas", _compile) / "other_blas.so"


def _compile(folder: Path) -> None:
    folder.mkdir()
    flags = ["-O3", "-march=native", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    run("cc", *flags, str(SOURCE), "-o", str(folder / "other_blas.so"), "-ldl")


def _unpack_libraries(folder: Path) -> None:
    unpack(PACKAGES, run("dpkg", "--print-architecture").strip(), folder, needed=False)

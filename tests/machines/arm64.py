"""An arm64 machine, emulated by QEMU: Debian's Python for it, and wheels of NumPy and h5py."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

import threadpoolctl
import tomli_w
import tqdm

from tests.conftest import ROOT
from tests.machines.debian import Unavailable, prepared, run, unpack
from tests.machines.starts import Start

QEMU = "qemu-aarch64-static"
PLATFORMS = "manylinux2014_aarch64", "manylinux_2_28_aarch64"
PACKAGES = "python3", "libstdc++6"
WHEELS = "numpy", "h5py"
PURE = threadpoolctl, tomli_w, tqdm
"""What distcnn needs besides: the same files on all machines."""


def start() -> Start:
    """How to start Python there."""
    if platform.machine() == "aarch64":
        raise Unavailable("this machine is arm64 itself")
    if shutil.which(QEMU) is None:
        raise Unavailable(f"no {QEMU} here (Debian: qemu-user-static)")
    folder = prepared("arm64", _prepare)
    path = os.pathsep.join([str(ROOT), str(folder / "site")])
    return Start((QEMU, "-L", str(folder), str(_python(folder))), {"PYTHONPATH": path})


def _prepare(folder: Path) -> None:
    unpack(PACKAGES, "arm64", folder, needed=True)
    site = folder / "site"
    version = _python(folder).name.removeprefix("python")
    target = ["--target", str(site), "--only-binary", ":all:", "--python-version", version]
    for name in PLATFORMS:
        target += ["--platform", name]
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *target, *WHEELS)
    for module in PURE:
        file = Path(str(module.__file__))
        source = file.parent if file.name == "__init__.py" else file
        (site / source.name).symlink_to(source)


def _python(folder: Path) -> Path:
    """The interpreter, whose name has its version."""
    return next(folder.glob("usr/bin/python3.[0-9]*"))

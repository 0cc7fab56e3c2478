"""Machines of other architectures, emulated by QEMU (Debian: qemu-user-static)."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import threadpoolctl
import tomli_w
import tqdm

from tests.machines.debian import Unavailable, prepared, run, unpack
from tests.machines.measure import ROOT
from tests.machines.starts import Start

PYTHON = "python3", "libstdc++6"
OF_DEBIAN = "python3-numpy", "python3-h5py", "libopenblas0-pthread"
WHEELS = "numpy", "h5py"
PLATFORMS = "manylinux2014_{}", "manylinux_2_28_{}"
PURE = threadpoolctl, tomli_w, tqdm
"""What distcnn needs besides: the same files on all machines."""


@dataclass(frozen=True)
class Emulated:
    """A machine: Debian's Python for it, with wheels of NumPy and h5py, or Debian's.

    Attributes:
        name: of the architecture, as in ``uname -m``.
        debian: its name in Debian.
        suite: of Debian, whose NumPy, OpenBLAS and h5py are used; empty for wheels, with Python
            from this machine's own sources of packages.
    """

    name: str
    debian: str
    suite: str = ""

    def start(self) -> Start:
        """How to start Python there."""
        if platform.machine() == self.name:
            raise Unavailable(f"this machine is {self.name} itself")
        qemu = f"qemu-{self.name}-static"
        if shutil.which(qemu) is None:
            raise Unavailable(f"no {qemu} here (Debian: qemu-user-static)")
        folder = prepared(self.debian, self._prepare)
        site, packages = folder / "site", folder / "usr" / "lib" / "python3" / "dist-packages"
        variables = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, site, packages)))}
        libraries = [*folder.glob("usr/lib/*/openblas-pthread"), *folder.glob("usr/lib/*-linux-*")]
        if self.suite:
            variables |= {"PYTHONHOME": str(folder / "usr")}
            variables |= {"LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))}
        return Start((qemu, "-L", str(folder), str(_python(folder))), variables)

    def _prepare(self, folder: Path) -> None:
        packages = (*PYTHON, *OF_DEBIAN) if self.suite else PYTHON
        unpack(packages, self.debian, folder, needed=True, suite=self.suite)
        for name in ("lib", "lib64"):  # where a program looks for its loader
            if not (folder / name).exists():
                (folder / name).symlink_to(f"usr/{name}")
        site = folder / "site"
        site.mkdir()
        if not self.suite:
            version = _python(folder).name.removeprefix("python")
            flags = ["--target", str(site), "--only-binary", ":all:", "--python-version", version]
            for platform_name in PLATFORMS:
                flags += ["--platform", platform_name.format(self.name)]
            run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *flags, *WHEELS)
        for module in PURE:
            file = Path(str(module.__file__))
            source = file.parent if file.name == "__init__.py" else file
            (site / source.name).symlink_to(source)


def _python(folder: Path) -> Path:
    """The interpreter, whose name has its version."""
    return next(folder.glob("usr/bin/python3.[0-9]*"))

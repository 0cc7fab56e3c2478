"""The peer is the same network, ends with whoever started it, and is missed in one line."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from distcnn.benchmark.peer import peer_environment, require_known_layers, run_peer
from distcnn.errors import InputError
from distcnn.models import MODELS, build_model
from distcnn.nn import Activation, Dense, Sequential
from distcnn.nn.planned import PlannedNetwork
from tests.conftest import Launcher, MakeImageSet

COMMAND = [
    "-m",
    "distcnn.benchmark",
    "--peer",
    "torch",
    "--model",
    "tutorial",
    "--microbatch-size",
    "4",
    "--steps",
    "2",
    "--turns",
    "1",
]


def without_torch(folder: Path) -> str:
    """A path on which PyTorch cannot be found."""
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    return str(folder)


def test_without_torch_one_line_says_so(serial: Launcher, tmp_path: Path) -> None:
    done = serial.run(
        1, *COMMAND, PYTHONPATH=os.pathsep.join([without_torch(tmp_path), str(Path.cwd())])
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "distcnn.benchmark: error: --peer torch needs PyTorch, which is not installed here: pip"
        " install torch"
    )


def test_a_layer_that_it_does_not_know_is_named() -> None:
    network = PlannedNetwork(Sequential([Dense(3), Activation()]), (4,), 2)
    with pytest.raises(InputError, match="cannot build activation1, a Activation: it knows Conv2d"):
        require_known_layers(network)


def test_it_is_told_nothing_of_our_launcher() -> None:
    environment = peer_environment(
        {
            "PMI_RANK": "1",
            "OMPI_COMM_WORLD_SIZE": "2",
            "HYDI_CONTROL_FD": "3",
            "RANK": "1",
            "PATH": "/bin",
        }
    )
    assert environment["PATH"] == "/bin"
    assert environment["OMP_NUM_THREADS"] == "1"
    assert not [key for key in environment if key.startswith(("PMI", "OMPI_", "HYDI", "RANK"))]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("raise SystemExit('ImportError: broken')", r"failed \(exit code 1\): ImportError: broken"),
        ("import sys; sys.stdin.read()", "took longer than 1 s"),
        ("import time; time.sleep(60)", "took longer than 1 s"),
        ("print('no JSON')", "failed"),
    ],
)
def test_what_fails_or_hangs_is_ended_with_a_reason(
    program: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distcnn.benchmark.peer.SECONDS_TO_END", 0.5)
    with pytest.raises(InputError, match=message):
        run_peer([sys.executable, "-c", program], os.environ, 1)


def test_its_line_is_taken() -> None:
    assert run_peer(
        [sys.executable, "-c", "print('hello'); print('{\"a\": 1}')"], os.environ, 30
    ) == {"a": 1}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", MODELS)
def test_its_network_computes_the_same(model: str) -> None:
    torch = pytest.importorskip("torch")
    from distcnn.benchmark.torch_peer import torch_network

    ours = build_model(model, (1, 28, 28), 10, 3).initialise(np.random.default_rng(0))
    images = np.random.default_rng(1).random((1, 28, 28, 3), np.float32)
    with torch.no_grad():
        theirs = torch_network(ours)(
            torch.from_numpy(np.ascontiguousarray(images.transpose(3, 0, 1, 2)))
        ).numpy()
    np.testing.assert_allclose(theirs.T, ours.forward(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.mpi
def test_by_turns_with_torch(mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = mpirun.run(2, *COMMAND, "--data", str(image_set()), "--json", str(tmp_path / "b.json"))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "b.json").read_text())
    peer = results["peer"]
    assert set(peer["layouts"]) == {"NCHW", "channels_last"}
    assert peer["images_per_second"] == max(speeds[0] for speeds in peer["layouts"].values())
    assert peer["ratio"] == pytest.approx(results["images_per_second"] / peer["images_per_second"])
    assert "times the peer's speed" in done.stdout


def test_its_processes_end_when_the_pipe_closes() -> None:
    pytest.importorskip("torch")
    reading, writing = os.pipe()
    program = (
        "from distcnn.benchmark.torch_peer import end_with_starter; import time;"
        " end_with_starter(); time.sleep(100)"
    )
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-W", "ignore", "-c", program],
        peer_environment(os.environ),
        file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0)],
    )
    os.close(reading)
    os.close(writing)
    start = time.monotonic()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert time.monotonic() - start < 60

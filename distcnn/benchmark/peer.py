"""The peer: the same network in PyTorch's DistributedDataParallel, in processes of its own, while
ours wait asleep.

A turn of it is one start of ``distcnn.benchmark.torch_ranks``, on this host, over loopback. Its
processes hold the reading end of a pipe whose other end only our rank 0 has: they end when that
closes, whatever ended us.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any

from distcnn.config import Config
from distcnn.distributed import Communicator, on_root, together
from distcnn.distributed.communicator import NoMailbox
from distcnn.errors import InputError
from distcnn.fault_tolerance.heartbeat import Activity, pulse
from distcnn.nn import AvgPool2d, Conv2d, Dense, Flatten, Identity, MaxPool2d, ReLU, Sigmoid, Tanh
from distcnn.nn.planned import PlannedNetwork
from distcnn.training.setup import Run

LAYERS = (Conv2d, MaxPool2d, AvgPool2d, ReLU, Tanh, Sigmoid, Identity, Flatten, Dense)
"""What the peer can build."""

LAUNCHERS_VARIABLES = (
    *(
        "OMPI_",
        "OPAL_",
        "PRTE_",
        "PMI_",
        "PMIX_",
        "HYDRA_",
        "HYDI_",
        "MPI_",
        "MPIR_",
        "MPICH_",
        "I_MPI_",
        "MV2_",
        "MVP_",
    ),
    *(
        "SLURM_",
        "PALS_",
        "FLUX_",
        "GLOO_",
        "TORCHELASTIC_",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "MASTER_",
    ),
)
"""Beginnings of what our launcher told us, which the peer must not take for its own."""

NAP_SECONDS = 0.02
SECONDS_TO_END = 10.0
TIMEOUT_SECONDS = 600.0


class TorchPeer:
    """Collective to make, ``prepare`` and ``turn``.

    ``InputError`` on all ranks where PyTorch is missing or cannot do what is asked.
    """

    def __init__(self, config: Config, communicator: Communicator) -> None:
        on_root(communicator, require_torch)
        self._config, self._communicator = config, communicator
        self._mailbox = communicator.mailbox()
        together(communicator, self._check_world)
        self._cores = communicator.allgather(cores_of_this_process())

    def prepare(self, run: Run) -> None:
        """``run`` is what it shall be compared with."""
        together(self._communicator, lambda: require_known_layers(run.network))

    def turn(self, steps: int) -> dict[str, Any]:
        """Time ``steps`` of the peer's in each layout: its name, version and ``images_per_second``
        by layout.
        """
        command, environment = self._command(steps), peer_environment(os.environ)
        return self._on_root_while_others_sleep(
            lambda: run_peer(command, environment, TIMEOUT_SECONDS)
        )

    def _command(self, steps: int) -> list[str]:
        config = self._config
        asked = {
            **{
                name: getattr(config, name)
                for name in ("data", "model", "loss", "optimizer", "seed")
            },
            **{
                name: getattr(config, name)
                for name in ("learning_rate", "momentum", "weight_decay", "global_batch_size")
            },
            "steps": steps,
            "processes": self._communicator.world_size,
            "cores": self._cores,
        }
        return [sys.executable, "-m", "distcnn.benchmark.torch_ranks", json.dumps(asked)]

    def _check_world(self) -> None:
        if len(set(self._communicator.hosts)) > 1:
            raise InputError(
                "--peer torch compares on one host, but the ranks are on"
                f" {', '.join(sorted(set(self._communicator.hosts)))}"
            )
        if self._communicator.world_size > 1 and isinstance(self._mailbox, NoMailbox):
            raise InputError(
                "--peer torch needs an MPI that allows threads (MPI_THREAD_MULTIPLE): without,"
                " waiting ranks take the cores"
            )

    def _on_root_while_others_sleep(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Ranks that wait inside MPI spin, and would take the peer's cores: so they look for a
        message now and then until it is over.
        """

        def work_and_wake() -> dict[str, Any]:
            try:
                return work()
            finally:
                for rank in range(1, self._communicator.world_size):
                    self._mailbox.post(rank, "over")

        while self._communicator.rank and not self._mailbox.take():
            pulse.beat(Activity.MEASURING)
            time.sleep(NAP_SECONDS)
        return on_root(self._communicator, work_and_wake)


def cores_of_this_process() -> list[int]:
    """Where it may run: a launcher may bind each rank to a core, which what root starts would
    inherit. Empty: nothing is known.
    """
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def open_peer(name: str, config: Config, communicator: Communicator) -> TorchPeer | None:
    """The peer called ``name``; none for ''."""
    return TorchPeer(config, communicator) if name else None


def require_torch() -> None:
    """``InputError`` where there is no PyTorch; it is not loaded."""
    try:
        found = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise InputError(
            "--peer torch needs PyTorch, which is not installed here: pip install torch --index-url"
            " https://download.pytorch.org/whl/cpu"
        )


def require_known_layers(network: PlannedNetwork) -> None:
    """``InputError`` for layers that the peer cannot build."""
    for name, layer in zip(network.layer_names, network.layers, strict=True):
        if type(layer) not in LAYERS:
            known = ", ".join(each.__name__ for each in LAYERS)
            raise InputError(
                f"--peer torch cannot build {name}, a {type(layer).__name__}: it knows {known};"
                " measure without --peer"
            )


def peer_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without our launcher's words, and with one thread a process; modules are
    found where we find them.
    """
    kept = {
        key: value for key, value in environment.items() if not key.startswith(LAUNCHERS_VARIABLES)
    }
    path = os.pathsep.join(each or str(os.curdir) for each in sys.path)
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    return (
        kept
        | loopback
        | {
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        }
    )


def run_peer(
    command: list[str], environment: Mapping[str, str], timeout_seconds: float
) -> dict[str, Any]:
    """The one line of JSON that ``command`` prints.

    ``InputError`` when it fails or takes too long; none of its processes stays.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            code = _wait(process, timeout_seconds)
        finally:
            _end(process)
        if code is None:
            raise InputError(
                f"--peer torch took longer than {timeout_seconds:.0f} s: give fewer --steps"
            )
        lines = [line for line in _text(output).splitlines() if line.startswith("{")]
        if code or not lines:
            raise InputError(f"--peer torch failed (exit code {code}): {_reason(_text(errors))}")
        result: dict[str, Any] = json.loads(lines[-1])
        return result


def _wait(process: subprocess.Popen[bytes], timeout_seconds: float) -> int | None:
    """Its exit code; None when the time is over. Asleep, and alive for the watchdog."""
    end = time.monotonic() + timeout_seconds
    while process.poll() is None and time.monotonic() < end:
        pulse.beat(Activity.MEASURING)
        time.sleep(NAP_SECONDS)
    return process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its ranks end when the pipe closes, and it with them; if not, all of its group is killed."""
    assert process.stdin is not None  # a pipe
    process.stdin.close()
    try:
        process.wait(SECONDS_TO_END if process.returncode is None else 0)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _reason(errors: str) -> str:
    """The first line that names an error, as Python prints it, else the last."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    named = [line.rpartition("]:")[2].strip() for line in lines if "Error: " in line]
    return (named or lines[-1:] or ["it said nothing"])[0]

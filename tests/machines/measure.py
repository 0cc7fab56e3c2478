"""Train MNIST in portable arithmetic in this environment, and tell what the environment is.

``python -m tests.machines.measure --model lenet --steps 2`` prints one line of JSON (``Measured``).
It needs only what distcnn needs, so it runs on an emulated machine, too.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import hashlib
import json
import platform
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_info

import distcnn as dc
from distcnn.doctor.reference import Reference, Trained
from distcnn.system.host import cpu_info

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data" / "mnist.h5"
MODELS = ("tutorial", "lenet", "wide")
NATIVE = "tutorial"
STEPS, FEW = 20, 2
"""The steps of most environments, and of slow ones."""
Overlap = Literal["auto", "on", "off"]
TESTED = 100
"""Test images: the weights do not depend on them."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What computed: this is how a test knows that an environment took effect.

    Attributes:
        machine: the architecture, as in ``uname -m``.
        bits: of an address, 64 or 32.
        byte_order: "little" or "big", the end of a number that comes first.
        processor: its name, as the system reports it.
        python, numpy: versions.
        simd: the instruction sets that NumPy chooses at run time and has enabled here.
        blas: the library, its version and kernel; or what computed in its place.
        kernel: the kernel of the BLAS alone, such as Haswell; empty where it cannot be told.
        threads: of the BLAS, while the networks were trained in portable arithmetic.
        at_a_time: shards that were computed at a time then.
        ranks: processes.
        overlap: whether a thread summed gradients during the backward pass.
        replaced: calls of the BLAS that ``other_blas.c`` took over, 0 without it.
    """

    machine: str
    bits: int
    byte_order: str
    processor: str
    python: str
    numpy: str
    simd: tuple[str, ...]
    blas: str
    kernel: str
    threads: int
    at_a_time: int
    ranks: int
    overlap: bool
    replaced: int


@dataclasses.dataclass(frozen=True)
class Measured:
    """SHA-256 of weights, and what computed them.

    Attributes:
        weights: after training in portable arithmetic, by network.
        native: after training ``NATIVE`` in native arithmetic, whose bits differ between machines.
        facts: what computed them.
    """

    weights: Mapping[str, str]
    native: str
    facts: Facts

    @classmethod
    def from_json(cls, text: str) -> Measured:
        """What a process has printed."""
        values = json.loads(text)
        facts = {**values["facts"], "simd": tuple(values["facts"]["simd"])}
        return cls(values["weights"], values["native"], Facts(**facts))


class Threads(dc.Callback):
    """The threads during the last step: of the BLAS, those that compute shards, and one that sums
    gradients.
    """

    def __init__(self) -> None:
        self.of_blas, self.of_shards, self.sums = 0, 1, False

    def on_step(self, step: int, loss: float) -> None:
        names = [thread.name for thread in threading.enumerate()]
        self.of_blas = blas().get("num_threads", 0)
        numbers = [int(name.rpartition("_")[2]) for name in names if name.startswith("shards_")]
        self.of_shards = 1 + max(numbers, default=0)
        self.sums = "sums" in names


def measure(
    models: Sequence[str],
    steps: int,
    threads: int = 1,
    overlap: Overlap = "auto",
    data: Path = DATA,
) -> Measured:
    """Train each of ``models`` as ``distcnn.train`` does with its defaults, for ``steps`` steps."""
    images, seen = read_images(data), Threads()

    def train(model: str) -> str:
        trainer = dc.Trainer(
            model, arithmetic="portable", threads_per_rank=threads, overlap=overlap
        )
        return trainer.fit(images, max_steps=steps, callbacks=[seen]).params_sha256

    weights = {model: train(model) for model in models}
    native = dc.Trainer(NATIVE, overlap=overlap).fit(images, max_steps=steps).params_sha256
    return Measured(weights, native, facts(seen, dc.Trainer().world_size))


def read_images(data: Path = DATA) -> tuple[Any, Any]:
    """The training set of MNIST, or of its sample, and a part of the test set."""
    dataset = dc.datasets.open(data)
    images, labels = dataset.read("test")
    return dataset.read("train"), (images[:TESTED], labels[:TESTED])


def images_sha256(data: Path = DATA) -> str:
    """SHA-256 of the training images and labels, on which the weights depend."""
    (images, labels), _ = read_images(data)
    return hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()


def trained_here() -> Trained | None:
    """What training on the images in ``data/`` gives on every machine; None for others than MNIST
    and its sample.
    """
    return Reference.read().trained_on(images_sha256()) if DATA.exists() else None


def synthetic_sha256(threads: int = 1) -> str:
    """SHA-256 of the weights after 5 steps on 240 images of random numbers."""
    words = np.random.Philox(key=np.zeros(2, np.uint64)).random_raw(240 * (12 * 12 + 1))
    images, labels = np.split(words >> np.uint64(56), [240 * 12 * 12])
    examples = images.reshape(-1, 12, 12).astype(np.uint8), (labels % 10).astype(np.int64)
    trainer = dc.Trainer(NATIVE, arithmetic="portable", threads_per_rank=threads)
    run = trainer.fit((examples, examples), max_steps=5, epochs=5)
    return run.params_sha256


def facts(seen: Threads, ranks: int) -> Facts:
    """What this process computes with."""
    library, (replaced, other) = blas(), other_blas()
    names = [library.get(key, "") for key in ("internal_api", "version", "architecture")]
    built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # for old threadpoolctl
    return Facts(
        machine=platform.machine(),
        bits=sys.maxsize.bit_length() + 1,
        byte_order=sys.byteorder,
        processor=cpu_info("model name"),
        python=platform.python_version(),
        numpy=np.__version__,
        simd=enabled_features(),
        blas=other or " ".join(names if any(names) else (built["name"], built["version"])),
        kernel="" if other else library.get("architecture", ""),
        threads=seen.of_blas,
        at_a_time=seen.of_shards,
        ranks=ranks,
        overlap=seen.sums,
        replaced=replaced,
    )


def blas() -> dict[str, Any]:
    """What threadpoolctl tells of NumPy's BLAS; empty for one that it does not know."""
    found = (library for library in threadpool_info() if library.get("user_api") == "blas")
    return next(found, {})


def enabled_features() -> tuple[str, ...]:
    """The instruction sets that NumPy has code for beyond its baseline, and may use here."""
    from numpy._core import _multiarray_umath as core

    return tuple(name for name in core.__cpu_dispatch__ if core.__cpu_features__[name])


def other_blas() -> tuple[int, str]:
    """How often ``other_blas.c`` has computed, if it was loaded before the BLAS, and with what."""
    process = ctypes.CDLL(None)
    if not hasattr(process, "other_blas_calls"):
        return 0, ""
    process.other_blas_name.restype = ctypes.c_char_p
    return process.other_blas_calls(), "/".join(process.other_blas_name().decode().split("/")[-2:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.machines.measure", description=__doc__)
    parser.add_argument("--model", choices=MODELS, nargs="+", default=MODELS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--overlap", choices=("auto", "on", "off"), default="auto")
    given = parser.parse_args()
    measured = measure(given.model, given.steps, given.threads, given.overlap)
    if dc.Trainer().is_root:
        print(json.dumps(dataclasses.asdict(measured)))


if __name__ == "__main__":
    main()

"""The run directory: what a run leaves behind. Only root writes it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tomli_w

from distcnn.config import Config
from distcnn.errors import InputError
from distcnn.nn import Sequential

CONFIG, METRICS, RESULT, WEIGHTS = "config.toml", "metrics.jsonl", "result.json", "weights.h5"


class RunDirectory:
    """``config.toml`` at the start, a line of ``metrics.jsonl`` at a time, ``weights.h5`` and ``result.json`` at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add_metrics(self, kind: str, **values: Any) -> None:
        """Append one line: its ``kind`` ("step" or "epoch") and the values."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")

    def write_weights(self, network: Sequential, sha256: str) -> None:
        """One dataset for each named parameter, in the network's order and PyTorch's shapes."""
        temporary = self.path / f".{WEIGHTS}.tmp"
        with h5py.File(temporary, "w", track_order=True) as file:
            file.attrs["params_sha256"] = sha256
            for name, values in network.named_values().items():
                file.create_dataset(name, data=values)
        temporary.replace(self.path / WEIGHTS)

    def write_result(self, result: dict[str, Any]) -> None:
        """The summary, written last: where it is, the run is over."""
        temporary = self.path / f".{RESULT}.tmp"
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.path / RESULT)


class NoRunDirectory:
    """What all ranks but root have: it takes everything and keeps nothing."""

    def add_metrics(self, kind: str, **values: Any) -> None:
        """Keep nothing."""

    def write_weights(self, network: Sequential, sha256: str) -> None:
        """Keep nothing."""

    def write_result(self, result: dict[str, Any]) -> None:
        """Keep nothing."""


def create_run_directory(config: Config) -> Path:
    """Make the directory with its ``config.toml``. ``InputError`` when it holds a run already or cannot be written."""
    path = Path(config.output) if config.output else _unused(Path("runs"), config.model)
    held = [name for name in (CONFIG, METRICS, RESULT, WEIGHTS) if os.path.lexists(path / name)]
    if held:
        raise InputError(f"--output: {path} already holds a run ({held[0]}): name another folder, nothing is overwritten")
    made = [each for each in (path, *path.parents) if not os.path.exists(each)]  # noqa: PTH110  (Path's raises for too long a name)
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / CONFIG).write_text(tomli_w.dumps(dataclasses.asdict(config)), encoding="utf-8")
    except OSError as error:
        for leave in ((path / CONFIG).unlink, *(each.rmdir for each in made)):
            with suppress(OSError):
                leave()
        raise InputError(f"--output: {path} cannot be written ({error.strerror}): name a folder that you may write to") from error
    return path


def params_sha256(network: Sequential) -> str:
    """SHA-256 of the flat vector of values as little-endian float32: two runs with one hash have the same weights, bit for bit."""
    return hashlib.sha256(np.ascontiguousarray(network.values, "<f4").data).hexdigest()


def _unused(folder: Path, model: str) -> Path:
    stem = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', model)}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
    return next(folder / name for name in names if not (folder / name).exists())

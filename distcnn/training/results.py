"""What a finished run leaves: the last weights and the best ones, a summary, and the SHA-256 of
each file.

``weights.h5`` and ``weights-best.h5`` hold one dataset per parameter, in the network's order and
PyTorch's shapes. Their attributes say what the network takes and gives: ``image_shape`` (channels,
height, width); ``mean`` and ``std`` per channel, for inputs of (pixel / 255 - mean) / std;
``class_names`` in the order of the outputs; and ``model``, ``step``, ``test_accuracy``,
``params_sha256``. ``SHA256SUMS`` has the format of ``sha256sum``, which can check it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from distcnn.checkpoints import stored_arrays
from distcnn.system.files import read_bytes, write_atomically
from distcnn.training.consistency import array_sha256

WEIGHTS, BEST_WEIGHTS, RESULT, SUMS = "weights.h5", "weights-best.h5", "result.json", "SHA256SUMS"
CONFIG, METRICS, RECEIPT = "config.toml", "metrics.jsonl", "receipt.jsonl"
ALL_FILES = (CONFIG, METRICS, RECEIPT, RESULT, WEIGHTS, BEST_WEIGHTS)
"""Those of which ``SHA256SUMS`` has the hashes."""

Arrays = Mapping[str, NDArray[Any]]
Result = dict[str, Any]
NUMBERS = (
    "steps",
    "best_step",
    "test_accuracy",
    "test_correct",
    "test_examples",
    "test_loss",
    "train_loss",
)


def describe(result: Result, step: int, test_accuracy: float) -> dict[str, Any]:
    """The attributes of a file of weights, those of ``step``, which had ``test_accuracy``."""
    dataset = result["dataset"]
    return {
        "model": result["model"],
        "step": step,
        "test_accuracy": test_accuracy,
        **{name: dataset[name] for name in ("image_shape", "mean", "std", "class_names")},
    }


def encode_weights(weights: Arrays, attributes: Mapping[str, Any]) -> bytes:
    """A file of weights."""
    memory = io.BytesIO()
    with h5py.File(memory, "w", track_order=True) as file:
        file.attrs["params_sha256"] = weights_sha256(weights.values())
        for name, value in attributes.items():
            file.attrs[name] = value
        for name, values in weights.items():
            file.create_dataset(name, data=values)
    return memory.getvalue()


def read_weights(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The parameters in a file of weights, and its attributes as plain values.

    ``ValueError`` names the file when it cannot be read.
    """
    content = _content(path)
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            attributes = {
                name: value.tolist() if hasattr(value, "tolist") else value
                for name, value in file.attrs.items()
            }
            return dict(stored_arrays(file)), attributes
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError) as error:
        raise ValueError(f"{path.name} is damaged ({error})") from error


def weights_sha256(arrays: Iterable[NDArray[Any]]) -> str:
    """SHA-256 of all parameters as one vector: the run's ``params_sha256``."""
    return array_sha256(np.concatenate([array.reshape(-1) for array in arrays]))


def write_results(folder: Path, result: Result, weights: bytes, best: bytes | None) -> None:
    """Write weights, checksums (of the files written before, too) and the summary.

    ``OSError`` when the disk does not take them.
    """
    summary = (json.dumps(result, indent=2) + "\n").encode()
    files = {WEIGHTS: weights, **({} if best is None else {BEST_WEIGHTS: best})}
    for name, content in files.items():
        write_atomically(folder / name, content)
    if best is None:
        (folder / BEST_WEIGHTS).unlink(missing_ok=True)  # of an earlier, shorter run
    files |= {name: read_bytes(folder / name) for name in (CONFIG, METRICS, RECEIPT)} | {
        RESULT: summary
    }
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()
    )
    write_atomically(folder / SUMS, sums.encode())
    write_atomically(folder / RESULT, summary)  # the last one: where it is, the run is over


def read_result(folder: Path) -> Result:
    """``result.json``.

    ``ValueError`` names it when it cannot be read, or lacks what every result has.
    """
    content = _content(folder / RESULT)
    try:
        result = json.loads(content)
        numbers = [result[name] for name in NUMBERS] + [result["dataset"]["train_examples"]]
        texts = [
            result["params_sha256"],
            result["dataset"]["content_sha256"],
            result["dataset"]["name"],
        ]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{RESULT} is damaged ({type(error).__name__}: {error})") from error
    if not all(isinstance(each, int | float) for each in numbers) or not all(
        isinstance(each, str) for each in texts
    ):
        raise ValueError(f"{RESULT} is damaged: a value is of another type")
    return dict(result)


def _content(path: Path) -> bytes:
    """A file's content. ``ValueError`` names the file when it cannot be read."""
    try:
        return read_bytes(path)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror})") from error


def damage_of(folder: Path) -> str | None:
    """What is wrong with the files of a finished run, in words; None when they are as they were
    written.
    """
    try:
        result = read_result(folder)
        weights, attributes = read_weights(folder / WEIGHTS)
        if (
            not weights_sha256(weights.values())
            == attributes.get("params_sha256")
            == result["params_sha256"]
        ):
            return f"{WEIGHTS} does not hold the weights that {RESULT} names"
        return damage_by_sums(folder)
    except (ValueError, TypeError) as error:  # TypeError: weights of types that do not go together
        return str(error)


def damage_by_sums(folder: Path) -> str | None:
    """The first file that is not as ``SHA256SUMS`` says; None when all are, or when an older
    version wrote the run, without sums.
    """
    try:
        listed = _read_sums(folder)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return f"{SUMS} is damaged"
    missing = [name for name in ALL_FILES if name not in listed and (folder / name).exists()]
    if missing:
        return f"{SUMS} is damaged: it lacks {missing[0]}"
    for name, sha256 in listed.items():
        try:
            same = hashlib.sha256(read_bytes(folder / name)).hexdigest() == sha256
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if not same:
            return f"{name} is damaged or was edited: its SHA-256 is not the one in {SUMS}"
    return None


def _read_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in ``SHA256SUMS``.

    ``ValueError`` when a line is not one of ours, ``OSError`` when it cannot be read.
    """
    sums = dict[str, str]()
    for line in read_bytes(folder / SUMS).decode().splitlines():
        sha256, _, name = line.partition("  ")
        if not name or "/" in name or "\0" in name:
            raise ValueError(line)
        sums[name] = sha256
    return sums

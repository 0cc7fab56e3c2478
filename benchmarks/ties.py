"""Measure whether ties in max pooling behind minimal filtering matter: which input wins, and what
accuracy comes of it.

python -m benchmarks.ties IMAGE_SET TRAIN_EXAMPLES SEEDS

Trains ``wide`` for an epoch with each seed, once as it is and once with direct filtering
everywhere, where equal inputs have equal outputs, so that the first of a constant window wins.
Prints how often minimal filtering lets another one win, and both accuracies.
"""

from __future__ import annotations

import sys

import numpy as np

from distcnn.config import Config
from distcnn.datasets import Microbatch
from distcnn.distributed import SerialCommunicator
from distcnn.distributed.blas_threads import limit_blas_threads
from distcnn.nn import Sequential
from distcnn.nn.geometry import windows_view
from distcnn.nn.kernels import algorithms
from distcnn.training.checkpointing import NoSaving
from distcnn.training.loop import Loop
from distcnn.training.progress import NoProgress
from distcnn.training.run_directory import NoRunDirectory
from distcnn.training.setup import Run, prepare_run
from distcnn.training.state import State

CONVOLUTION = "output of conv2"


def trained(data: str, seed: int, examples: int) -> tuple[Run, float]:
    """The run and its test accuracy."""
    config = Config(data=data, model="wide", epochs=1, seed=seed, max_steps=-(-examples // 128))
    run = prepare_run(config, SerialCommunicator(), lambda line: None)
    return (
        run,
        Loop(run, State(), NoRunDirectory(), NoSaving(), NoProgress()).train()["test_accuracy"],
    )


def outputs_of(network: Sequential, microbatch: Microbatch) -> np.ndarray:
    """The output of the convolution before the pooling, in windows (C, oh, ow, N, 4)."""
    seen: dict[str, np.ndarray] = {}
    network.observe = lambda what, array: seen.setdefault(what, array.copy()) is None or None
    network.forward(microbatch.images)
    network.observe = None
    windows = windows_view(
        seen[CONVOLUTION],
        (2, 2),
        (2, 2),
        (seen[CONVOLUTION].shape[1] // 2, seen[CONVOLUTION].shape[2] // 2),
    )
    return windows.transpose(0, 3, 4, 5, 1, 2).reshape(*np.array(windows.shape)[[0, 3, 4, 5]], 4)


def main(data: str, examples: str, seeds: str) -> None:
    limit_blas_threads()
    usual, gaps = algorithms.LEAST_FILTERS, []
    for seed in range(int(seeds)):
        algorithms.LEAST_FILTERS = usual
        run, minimal = trained(data, seed, int(examples))
        part, microbatch = run.step.shards[0], run.step.microbatch
        part.fill(microbatch, 0, 0)
        windows = outputs_of(run.network, microbatch)
        algorithms.LEAST_FILTERS = 10**9
        other, direct = trained(data, seed, int(examples))
        other.network.values[:] = run.network.values
        constant = np.ptp(outputs_of(other.network, microbatch), axis=-1) == 0
        another = np.mean(windows[constant].argmax(axis=-1) != 0)
        gaps.append(minimal - direct)
        print(
            f"seed {seed}: accuracy {minimal:.4f} as it is, {direct:.4f} where the first wins;"
            f" {constant.mean():.1%} of all windows are constant, in {another:.1%} of them another"
            " wins",
            flush=True,
        )
    error = np.std(gaps, ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else np.nan
    print(
        f"accuracy as it is less that where the first wins: {np.mean(gaps):+.4f}, standard error"
        f" {error:.4f}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

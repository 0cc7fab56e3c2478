"""Replicas: every rank holds the same weights, and proves it by hashes."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np

from distcnn.distributed import Communicator
from distcnn.errors import TrainingError
from distcnn.nn.planned import PlannedNetwork
from distcnn.optim import Updater


def params_sha256(network: PlannedNetwork) -> str:
    """SHA-256 of the flat vector of values as little-endian float32: two runs with one hash have
    the same weights, bit for bit.
    """
    return array_sha256(network.values)


def parameter_hashes(network: PlannedNetwork) -> dict[str, str]:
    """The SHA-256 of each parameter, in the network's order."""
    return {name: array_sha256(network.values[span]) for name, span in network.slices.items()}


def compare_replicas(
    network: PlannedNetwork, optimizer: Updater, communicator: Communicator, step: int
) -> dict[str, str]:
    """The parameters' hashes, once all ranks have the same ones, and the same optimizer's state.

    ``TrainingError`` on all ranks names the first parameter that differs and the ranks that are not
    as the most are.
    """
    parameters = parameter_hashes(network)
    hashes = parameters | {
        f"the optimizer's {name}": array_sha256(vector) for name, vector in optimizer.state.items()
    }
    whole = hashlib.sha256("".join(hashes.values()).encode()).digest()
    if len(set(communicator.allgather(whole))) > 1:
        everyone = communicator.allgather(hashes)
        first = next(name for name in hashes if len({each[name] for each in everyone}) > 1)
        most, count = Counter(each[first] for each in everyone).most_common(1)[0]
        majority = 2 * count > communicator.world_size
        ranks = [
            f"{rank} (host {communicator.hosts[rank]})"
            for rank, each in enumerate(everyone)
            if not majority or each[first] != most
        ]
        what = (
            "is not what it is on the other ranks"
            if majority
            else "is not the same on all, and no value has a majority"
        )
        raise TrainingError(
            f"step {step}: the replicas differ: {first} on rank {', '.join(ranks)} {what}: memory"
            " or a processor failed there, or the ranks run different software; resume from the"
            " last checkpoint on other hosts"
        )
    return parameters


def array_sha256(values: np.ndarray) -> str:
    """SHA-256 of the elements as little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").data).hexdigest()

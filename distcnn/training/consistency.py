"""Whether all ranks agree on their weights (compared by hashes), data, software and source."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

from distcnn.checkpoints.weights import array_sha256
from distcnn.datasets import DatasetInfo
from distcnn.distributed import Communicator
from distcnn.distributed.communicator import JointError
from distcnn.errors import InputError, TrainingError
from distcnn.nn import PORTABLE, Parameters
from distcnn.optim import Updater
from distcnn.training.fingerprint import (
    OF_DISTCNN,
    deciding,
    differences,
    fingerprint,
    portable_would_agree,
)
from distcnn.user_code import Sources, compare_sources, sha256_of


def params_sha256(parameters: Parameters) -> str:
    """SHA-256 of the flat vector of values: the same for the same weights, bit for bit."""
    return array_sha256(parameters.values)


def parameter_hashes(parameters: Parameters) -> dict[str, str]:
    """The SHA-256 of each parameter, in the network's order."""
    return {name: array_sha256(parameters.values[span]) for name, span in parameters.slices.items()}


def compare_replicas(
    parameters: Parameters, updater: Updater, communicator: Communicator, step: int
) -> dict[str, str]:
    """The parameters' hashes; ``TrainingError`` unless all ranks agree, also on the optimizer."""
    own = parameter_hashes(parameters)
    hashes = own | {
        f"the optimizer's {name}": array_sha256(vector) for name, vector in updater.state.items()
    }
    whole = hashlib.sha256("".join(hashes.values()).encode()).digest()
    if len(set(communicator.allgather(whole))) == 1:
        return own
    everyone = communicator.allgather(hashes)
    first = next(name for name in hashes if len({each[name] for each in everyone}) > 1)
    most, count = Counter(each[first] for each in everyone).most_common(1)[0]
    what = "differs from the other ranks"
    if 2 * count <= communicator.world_size:
        most, what = "", "differs between the ranks, and no value has a majority"
    ranks = [
        f"{rank} (host {communicator.hosts[rank]})"
        for rank, each in enumerate(everyone)
        if each[first] != most
    ]
    raise TrainingError(
        f"step {step}: the replicas differ: {first} on rank {', '.join(ranks)} {what}: memory or a"
        " processor failed there, or the ranks run different software; resume from the last"
        " checkpoint on other hosts"
    )


def same_software(
    communicator: Communicator, report: Callable[[str], None], is_portable: bool
) -> dict[str, str]:
    """Root's fingerprint; a warning when another rank computes other bits. Collective."""
    own = fingerprint()
    everyone = communicator.allgather(deciding(own, is_portable))
    if rank := _first_other(everyone):
        remedy = "install the same distcnn on all hosts"
        if portable_would_agree(everyone[0], everyone[rank]):
            remedy = "use hosts of one kind with the same software, or --arithmetic portable"
        report(
            f"warning: rank {rank} on {communicator.hosts[rank]} has different software"
            f"{'' if is_portable else ' or a different processor'} than rank 0"
            f" ({_differences(everyone, rank)}): the bits depend on which rank computes which"
            f" shard: {remedy}"
        )
    return communicator.broadcast(own)


def require_comparable(arithmetic: str, communicator: Communicator) -> None:
    """``JointError`` on all ranks where spot checks would find differences without any fault."""
    names = OF_DISTCNN if arithmetic == PORTABLE else ()
    everyone = [
        {name: value for name, value in each.items() if not names or name in names}
        for each in communicator.allgather(fingerprint())
    ]
    if rank := _first_other(everyone):
        what = _differences(everyone, rank)
        remedy = "install the same distcnn on all hosts"
        if not names:
            remedy = "start a run with --arithmetic portable, or use hosts of one kind"
        raise JointError(
            f"--spot-check: rank {rank} on {communicator.hosts[rank]} has different software or a"
            f" different processor than rank 0 ({what}), so the ranks' results differ without any"
            f" fault: {remedy}"
        )


def same_model(sources: Sources, communicator: Communicator) -> None:
    """``JointError`` on all ranks unless all have built the model from the same ``sources``."""
    if rank := _first_other(communicator.allgather(sha256_of(sources))):
        everyone = communicator.allgather(sources)
        raise JointError(
            f"the model's source on rank {rank} (host {communicator.hosts[rank]}) is not rank 0's:"
            f" {compare_sources(everyone[0], everyone[rank])}: start all ranks in the same folder"
            " with the same PYTHONPATH, on a file system that all hosts share"
        )


def check_same_data(datasets: list[DatasetInfo]) -> None:
    """``InputError`` unless all ranks have the same image set."""
    if rank := _first_other(datasets):
        one, other = (datasets[each].sha256 or "unknown" for each in (0, rank))
        raise InputError(
            f"{datasets[rank].path}: rank {rank} has a different image set than rank 0 (SHA-256"
            f" {other}, not {one}): give all ranks the same arrays, or a file that all hosts share"
            " or have a copy of"
        )


def _differences(everyone: Sequence[dict[str, str]], rank: int) -> str:
    """What differs between rank 0 and ``rank``."""
    places = "on rank 0", f"on rank {rank}"
    return "; ".join(differences(everyone[0], everyone[rank], places))


def _first_other(everyone: Sequence[object]) -> int:
    """The first rank whose item differs from rank 0's; 0 if all are equal."""
    return next((rank for rank, each in enumerate(everyone) if each != everyone[0]), 0)

"""Compare with PyTorch: the same network in DistributedDataParallel, alternating with distcnn.

    python -m benchmarks.pytorch_ddp [--ranks 2] [--turns 5] [--steps 30] [flags of distcnn.train]

Needs PyTorch (pip install torch). Each turn starts ``distcnn.benchmark`` on N ranks, then as
many processes of PyTorch, which train the same layers in the same order with the same global batch,
loss and update rule, over gloo on this host, one thread each. PyTorch is timed in two memory
layouts, of which the faster one counts. Its images are normalised, and in that layout, before the
clock starts; those of distcnn are not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from distcnn.config import Config
from distcnn.config_parsing import parse_request
from distcnn.datasets import read_examples, read_info
from distcnn.distributed import share_of
from distcnn.models import build_model
from distcnn.nn import AvgPool2d, Conv2d, Dense, Flatten, Identity, MaxPool2d, ReLU, Sigmoid, Tanh
from distcnn.nn.layer import Layer

BATCH, WARM_UP_STEPS = 256, 5
MOST_IMAGE_BYTES = 2**28
"""Of normalised images in a process; of larger sets it uses the first ones of its part."""
MISSING = "benchmarks.pytorch_ddp needs PyTorch: pip install torch"


def main() -> None:
    """Print the speed of both in each turn, and the ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pytorch_ddp", description=__doc__)
    parser.add_argument("--ranks", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--turns", type=int, default=5, help="of both (default 5)")
    parser.add_argument("--steps", type=int, default=30, help="timed steps per turn (default 30)")
    parser.add_argument(
        "--launcher", default="mpirun -n", help="is followed by the number of ranks"
    )
    args, flags = parser.parse_known_args()
    if importlib.util.find_spec("torch") is None:
        sys.exit(MISSING)
    given = {"num_shards": args.ranks, "microbatch_size": BATCH // args.ranks}
    config = Config(**{**given, **parse_request(flags).given})
    shape = [f"--num-shards={config.num_shards}", f"--microbatch-size={config.microbatch_size}"]
    launcher = [*args.launcher.split(), str(args.ranks)] if args.ranks > 1 else []
    ours: list[float] = []
    theirs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [*launcher, sys.executable, "-m", "distcnn.benchmark", "--turns=1"]
        command += [f"--steps={args.steps}", f"--json={result}", *flags, *shape]
        for turn in range(args.turns):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            ours.append(json.loads(result.read_text())["images_per_second"])
            theirs.append(run_peer(config, args.ranks, args.steps, Path(folder) / f"store{turn}"))
    best = [max(speeds.values()) for speeds in theirs]
    print(
        f"{config.model}, {args.ranks} processes, {config.global_batch_size} examples a step,"
        f" images/s: median of {args.turns} turns of {args.steps} steps, then each turn"
    )
    print_speeds("distcnn", ours)
    print_speeds("PyTorch", best)
    for layout in theirs[0]:
        print_speeds(f"  {layout}", [speeds[layout] for speeds in theirs])
    ratios = [our / peer for our, peer in zip(ours, best, strict=True)]
    print(f"{'ratio':<16}{median(ours) / median(best):.2f}:", *(f"{one:.2f}" for one in ratios))


def print_speeds(name: str, speeds: list[float]) -> None:
    """The median, then each turn."""
    print(f"{name:<16}{median(speeds):,.0f}:", *(f"{speed:,.0f}" for speed in speeds))


def run_peer(config: Config, processes: int, steps: int, store: Path) -> dict[str, float]:
    """Start the processes of PyTorch; images a second by memory layout."""
    fields = ("data", "model", "loss", "optimizer", "seed", "learning_rate", "momentum")
    asked = {name: getattr(config, name) for name in (*fields, "weight_decay", "global_batch_size")}
    text = json.dumps({**asked, "steps": steps, "processes": processes, "store": store.as_uri()})
    command = [sys.executable, "-m", "benchmarks.pytorch_ddp", "--one-process", text]
    quiet = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONWARNINGS": "ignore"}
    environment = os.environ | quiet
    ranks = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, env=environment)
        for rank in range(processes)
    ]
    try:
        output = ranks[0].communicate()[0]
        codes = [rank.wait() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    if any(codes) or not output:
        sys.exit(f"PyTorch's processes ended with the exit codes {codes}: see above")
    speeds: dict[str, float] = json.loads(output)
    return speeds


def one_process(asked: dict[str, Any], rank: int) -> None:
    """One process of the peer; rank 0 prints images a second by memory layout."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    processes = asked["processes"]
    dist.init_process_group("gloo", init_method=asked["store"], rank=rank, world_size=processes)
    batches = read_batches(asked, rank)
    layouts = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
    speeds = {
        name: asked["global_batch_size"] / seconds_of_a_step(asked, layout, *batches)
        for name, layout in layouts.items()
    }
    if rank == 0:
        print(json.dumps(speeds), flush=True)
    dist.barrier()
    os._exit(0)  # gloo's processes may abort at their ordinary end if they do not end together


def read_batches(asked: dict[str, Any], rank: int) -> tuple[Any, Any, int]:
    """This process's normalised images (N, C, H, W) and labels, and its part of a batch."""
    info = read_info(asked["data"])
    count = len(share_of(asked["global_batch_size"], asked["processes"], rank))
    part = share_of(info.examples["train"], asked["processes"], rank)
    most = max(count, MOST_IMAGE_BYTES // (4 * info.image_bytes))
    pixels, labels = read_examples(info, "train", part[:most])
    mean, std = (np.array(values or (0.5,), np.float32) for values in (info.mean, info.std))
    order = np.random.default_rng(asked["seed"]).permutation(len(labels))
    images = ((pixels[order] / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images, np.float32), labels[order].astype(np.int64), count


def seconds_of_a_step(
    asked: dict[str, Any], layout: Any, images: np.ndarray, labels: np.ndarray, count: int
) -> float:
    """Train in one memory layout; the mean over the timed steps."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    torch.manual_seed(asked["seed"])
    inputs = torch.from_numpy(images).contiguous(memory_format=layout)
    targets = torch.from_numpy(labels)
    info = read_info(asked["data"])
    plan = build_model(asked["model"], info.image_shape, info.classes, 1)
    network = torch_network(plan.model.layers)
    network(inputs[:1])  # the lazy layers learn their shapes
    model = DistributedDataParallel(network.to(memory_format=layout))
    optimizer = torch_optimizer(asked, model.parameters())

    def step(index: int) -> None:
        first = index * count % max(1, len(targets) - count + 1)
        outputs = model(inputs[first : first + count])
        loss = torch_loss(asked["loss"], outputs, targets[first : first + count])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for index in range(WARM_UP_STEPS):
        step(index)
    dist.barrier()
    start = time.perf_counter()
    for index in range(asked["steps"]):
        step(WARM_UP_STEPS + index)
    return (time.perf_counter() - start) / int(asked["steps"])


def torch_network(layers: Sequence[Layer]) -> Any:
    """The same layers in the same order."""
    from torch import nn

    def twin(layer: Layer) -> Any:
        if isinstance(layer, Conv2d):
            sizes = layer.kernel_size, layer.stride, layer.padding
            return nn.LazyConv2d(layer.out_channels, *sizes)
        if isinstance(layer, Dense):
            return nn.LazyLinear(layer.out_features)
        if isinstance(layer, MaxPool2d):
            return nn.MaxPool2d(layer.kernel_size, layer.stride)
        if isinstance(layer, AvgPool2d):
            return nn.AvgPool2d(layer.kernel_size, layer.stride)
        plain = {ReLU: nn.ReLU, Tanh: nn.Tanh, Sigmoid: nn.Sigmoid, Flatten: nn.Flatten}
        if type(layer) not in (*plain, Identity):
            sys.exit(f"benchmarks.pytorch_ddp has no counterpart of {type(layer).__name__}")
        return plain.get(type(layer), nn.Identity)()

    return nn.Sequential(*map(twin, layers))


def torch_optimizer(asked: dict[str, Any], parameters: Any) -> Any:
    """The same update rule."""
    import torch

    rate, decay, momentum = asked["learning_rate"], asked["weight_decay"], asked["momentum"]
    if asked["optimizer"] in ("adam", "adamw"):
        rule = torch.optim.Adam if asked["optimizer"] == "adam" else torch.optim.AdamW
        return rule(parameters, lr=rate, weight_decay=decay)
    nesterov = asked["optimizer"] == "nesterov" and momentum > 0
    return torch.optim.SGD(
        parameters, lr=rate, momentum=momentum, weight_decay=decay, nesterov=nesterov
    )


def torch_loss(name: str, outputs: Any, labels: Any) -> Any:
    """The same loss, as a mean over examples."""
    from torch.nn import functional

    if name == "cross-entropy":
        return functional.cross_entropy(outputs, labels)
    one_hot = functional.one_hot(labels, outputs.shape[1])
    return 0.5 * (outputs - one_hot).square().sum(1).mean()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one-process"]:
        one_process(json.loads(sys.argv[2]), int(sys.argv[3]))
    else:
        main()

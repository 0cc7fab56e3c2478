"""The same network in PyTorch's DistributedDataParallel: one process of it, which
``distcnn.benchmark.torch_ranks`` starts.

Rank 0 prints one line of JSON: images a second in each of PyTorch's memory layouts. It reads its
images before the clock starts, and keeps them normalised and in the layout it computes in: data
cost it nothing but the gathering of a batch.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distcnn.datasets import read_examples, read_info
from distcnn.distributed import span_of
from distcnn.models import build_model
from distcnn.nn import AvgPool2d, Conv2d, Dense, Flatten, Identity, MaxPool2d, ReLU, Sigmoid, Tanh
from distcnn.nn.layer import Layer, Shape
from distcnn.nn.planned import PlannedNetwork

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
WARM_UP_STEPS = 5
MOST_IMAGE_BYTES = 2**28
"""Of normalised images a process: of larger sets it takes the first ones of its part, again and
again.
"""
ACTIVATIONS = {
    ReLU: nn.ReLU,
    Tanh: nn.Tanh,
    Sigmoid: nn.Sigmoid,
    Identity: nn.Identity,
    Flatten: nn.Flatten,
}


def torch_network(network: PlannedNetwork) -> Any:
    """The same layers, in the same order, with the same values."""
    twin = nn.Sequential(
        *map(_torch_layer, network.layers, network.model.shapes(network.input_shape)[:-1])
    )
    values = network.named_values()
    with torch.no_grad():
        for name, layer in zip(network.layer_names, twin, strict=True):
            for key, parameter in layer.named_parameters():
                parameter.copy_(torch.from_numpy(values[f"{name}.{key}"]))
    return twin


def _torch_layer(layer: Layer, input_shape: Shape) -> Any:
    if isinstance(layer, Conv2d):
        return nn.Conv2d(
            input_shape[0], layer.out_channels, layer.kernel_size, layer.stride, layer.padding
        )
    if isinstance(layer, Dense):
        return nn.Linear(input_shape[0], layer.out_features)
    if isinstance(layer, MaxPool2d):
        return nn.MaxPool2d(layer.kernel_size, layer.stride)
    if isinstance(layer, AvgPool2d):
        return nn.AvgPool2d(layer.kernel_size, layer.stride)
    return ACTIVATIONS[type(layer)]()


def torch_optimizer(asked: dict[str, Any], parameters: Any) -> Any:
    """The same update rule."""
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
    if name == "cross-entropy":
        return F.cross_entropy(outputs, labels)
    return 0.5 * (outputs - F.one_hot(labels, outputs.shape[1])).square().sum(1).mean()


def measure(asked: dict[str, Any], layout: Any, batches: Any, network: PlannedNetwork) -> float:
    """Seconds a step, from a barrier to the end of the last one."""
    images, labels, order, count = batches
    model = DistributedDataParallel(torch_network(network).to(memory_format=layout))
    optimizer = torch_optimizer(asked, model.parameters())
    images = images.contiguous(memory_format=layout)

    def step(index: int) -> None:
        first = index * count % (len(order) - count + 1)
        chosen = order[first : first + count]
        loss = torch_loss(asked["loss"], model(images[chosen]), labels[chosen])
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


def read_batches(asked: dict[str, Any], rank: int, world_size: int) -> tuple[Any, Any, Any, int]:
    """This process's normalised images and labels, an order of them, and how many make its part of
    a batch.
    """
    info = read_info(asked["data"])
    count = len(span_of(asked["global_batch_size"], world_size, rank))
    part = span_of(info.examples["train"], world_size, rank)
    most = max(count, MOST_IMAGE_BYTES // (4 * info.image_bytes))
    pixels, labels = read_examples(info, "train", part[:most])
    mean, std = (
        np.array(each or (default,), np.float32)
        for each, default in ((info.mean, 0.5), (info.std, 0.5))
    )
    images = np.ascontiguousarray(
        ((pixels / np.float32(255) - mean) / std).transpose(0, 3, 1, 2), np.float32
    )
    order = np.random.default_rng(asked["seed"]).permutation(max(len(labels), count)) % len(labels)
    return torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(order), count


def end_with_starter() -> None:
    """End this process when standard input ends: whoever started it is gone, or has enough
    of it.
    """

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(text: str, store: str, rank: int) -> None:
    """One process: measure every layout; rank 0 prints."""
    end_with_starter()
    asked = json.loads(text)
    cores = asked["cores"][rank]
    if cores:
        os.sched_setaffinity(0, cores)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=asked["processes"])
    info = read_info(asked["data"])
    network = build_model(asked["model"], info.image_shape, info.classes, 1)
    network.initialise(np.random.default_rng(asked["seed"]))
    batches = read_batches(asked, rank, asked["processes"])
    speeds = {
        name: asked["global_batch_size"] / measure(asked, layout, batches, network)
        for name, layout in LAYOUTS.items()
    }
    if rank == 0:
        print(
            json.dumps(
                {"name": "torch", "version": torch.__version__, "images_per_second": speeds}
            ),
            flush=True,
        )
    dist.barrier()
    os._exit(
        0
        # at their ordinary end, processes of gloo that do not end at the same moment were seen to
        # abort
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

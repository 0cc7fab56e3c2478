"""The named networks against PyTorch: outputs, gradients, and ten optimizer steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distcnn.models import MODELS
from distcnn.nn import softmax_cross_entropy
from distcnn.optim import SGD
from tests.support.networks import Network, planned

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

Array = NDArray[np.floating]
COUNT, CLASSES = 4, 10
TOLERANCES = {np.float32: 1e-5, np.float64: 1e-12}

TORCH_MODELS: dict[str, Callable[[], Any]] = {
    "lenet": lambda: nn.Sequential(
        *(
            nn.Conv2d(1, 20, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(20, 50, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
        ),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, CLASSES)),
    ),
    "lenet5": lambda: nn.Sequential(
        *(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.Tanh(),
            nn.AvgPool2d(2),
        ),
        *(
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.Tanh(),
            nn.Linear(120, 84),
            nn.Tanh(),
            nn.Linear(84, CLASSES),
        ),
    ),
    "wide": lambda: nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, CLASSES)),
    ),
    "tutorial": lambda: nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(1352, CLASSES)
    ),
    "mlp": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 300),
        nn.ReLU(),
        nn.Linear(300, 100),
        nn.ReLU(),
        nn.Linear(100, CLASSES),
    ),
}
every_model = pytest.mark.parametrize("name", MODELS)
both_dtypes = pytest.mark.parametrize("dtype", TOLERANCES)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The arrays are small, and other tests may run at the same time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def twins(name: str, dtype: type[np.floating]) -> tuple[Network, Any]:
    """Our model and PyTorch's, with the same random values."""
    network = planned(MODELS[name]((1, 28, 28), CLASSES), (1, 28, 28), COUNT, dtype)
    rng = np.random.default_rng(7)
    network.initialise(rng)
    with network.parameters.changing() as flat:
        for parameter, values in network.parameters.named(flat).items():
            if parameter.endswith("bias"):
                values[:] = 0.1 * rng.standard_normal(values.shape)
    model = TORCH_MODELS[name]().to(torch.float64 if dtype is np.float64 else torch.float32)
    for values, tensor in zip(network.named_values().values(), model.parameters(), strict=True):
        tensor.data.copy_(torch.from_numpy(values.copy()))
    return network, model


def batches(dtype: type[np.floating]) -> Iterator[tuple[Array, NDArray[np.int64]]]:
    rng = np.random.default_rng(8)
    while True:
        yield rng.random((1, 28, 28, COUNT)).astype(dtype), rng.integers(0, CLASSES, COUNT)


def to_torch(x: Array) -> Any:
    """Ours has the batch last, PyTorch's has it first."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 0)))


def difference(actual: Array, expected: Any) -> float:
    """The largest difference, relative to the largest magnitude."""
    expected = expected.detach().numpy()
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@both_dtypes
@every_model
def test_outputs_and_all_gradients_agree(name: str, dtype: type[np.floating]) -> None:
    network, model = twins(name, dtype)
    x, labels = next(batches(dtype))
    outputs = network.forward(x)
    torch_x = to_torch(x).requires_grad_()
    torch_outputs = model(torch_x)
    assert difference(outputs.T, torch_outputs) < TOLERANCES[dtype]

    loss_sum, grad_outputs = softmax_cross_entropy(outputs, labels, np.ones(COUNT, dtype))
    torch_loss = nn.functional.cross_entropy(
        torch_outputs, torch.from_numpy(labels), reduction="sum"
    )
    assert loss_sum == pytest.approx(torch_loss.item(), rel=TOLERANCES[dtype])

    grad_x = network.backward(grad_outputs, input_gradient=True)
    torch_loss.backward()
    assert grad_x is not None
    assert difference(np.moveaxis(grad_x, -1, 0), torch_x.grad) < TOLERANCES[dtype]
    for (parameter, grad), tensor in zip(
        network.named_grads().items(), model.parameters(), strict=True
    ):
        assert difference(grad, tensor.grad) < TOLERANCES[dtype], parameter


@both_dtypes
@every_model
def test_ten_steps_of_nesterov_with_weight_decay_agree(name: str, dtype: type[np.floating]) -> None:
    network, model = twins(name, dtype)
    optimizer = SGD(momentum=0.9, weight_decay=5e-4, nesterov=True).start(network.values)
    torch_optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    start = network.values.copy()
    for (x, labels), _ in zip(batches(dtype), range(10), strict=False):
        _, grad_outputs = softmax_cross_entropy(network.forward(x), labels, np.ones(COUNT, dtype))
        network.backward(grad_outputs)
        network.grads /= COUNT
        with network.parameters.changing() as values:
            optimizer.step(values, network.grads, 0.01)

        torch_optimizer.zero_grad()
        nn.functional.cross_entropy(model(to_torch(x)), torch.from_numpy(labels)).backward()
        torch_optimizer.step()

    assert np.abs(network.values - start).max() > 100 * TOLERANCES[dtype]
    for (parameter, values), tensor in zip(
        network.named_values().items(), model.parameters(), strict=True
    ):
        assert difference(values, tensor) < TOLERANCES[dtype], parameter

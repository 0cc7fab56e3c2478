"""The networks and layers against PyTorch: outputs, gradients, and ten optimizer steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distcnn.models import MODELS
from distcnn.nn import AvgPool2d, Conv2d, MaxPool2d, softmax_cross_entropy, squared_error
from distcnn.nn.layer import Layer
from distcnn.optim import SGD
from tests.support.networks import Network, planned

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

Array = NDArray[np.floating]
examples = settings(deadline=None, derandomize=True, max_examples=60)
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
    """The arrays are small, and other tests may run beside these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def twins(name: str, dtype: type[np.floating]) -> tuple[Network, Any]:
    """The model and PyTorch's, with the same random values."""
    network = planned(MODELS[name]((1, 28, 28), CLASSES), (1, 28, 28), COUNT, dtype)
    rng = np.random.default_rng(7)
    network.initialise(rng)
    for parameter, values in network.named_values().items():
        if parameter.endswith("bias"):
            values[:] = 0.1 * rng.standard_normal(values.shape)
    model = TORCH_MODELS[name]().to(torch.float64 if dtype is np.float64 else torch.float32)
    for values, tensor in zip(network.named_values().values(), model.parameters(), strict=True):
        tensor.data.copy_(torch.from_numpy(values))
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
        optimizer.step(network.values, network.grads, 0.01)

        torch_optimizer.zero_grad()
        nn.functional.cross_entropy(model(to_torch(x)), torch.from_numpy(labels)).backward()
        torch_optimizer.step()

    assert np.abs(network.values - start).max() > 100 * TOLERANCES[dtype]
    for (parameter, values), tensor in zip(
        network.named_values().items(), model.parameters(), strict=True
    ):
        assert difference(values, tensor) < TOLERANCES[dtype], parameter


def test_squared_error_agrees() -> None:
    rng = np.random.default_rng(0)
    outputs, labels = rng.standard_normal((CLASSES, COUNT)), rng.integers(0, CLASSES, COUNT)
    loss_sum, grad = squared_error(outputs, labels, np.ones(COUNT))
    torch_outputs = to_torch(outputs).requires_grad_()
    one_hot = nn.functional.one_hot(torch.from_numpy(labels), CLASSES).double()
    torch_loss = nn.functional.mse_loss(torch_outputs, one_hot, reduction="sum") / 2
    torch_loss.backward()
    assert loss_sum == pytest.approx(torch_loss.item(), rel=1e-14)
    np.testing.assert_allclose(grad.T, torch_outputs.grad.numpy(), rtol=1e-14)


def assert_layers_agree(layer: Layer, torch_layer: Any, x: Array, rng: np.random.Generator) -> None:
    """Output and every gradient of one layer, in float64; ``x`` may hold ties."""
    network = planned([layer], x.shape[:-1], x.shape[-1], np.float64)
    network.values[:] = rng.standard_normal(network.values.shape)
    torch_layer = torch_layer.double()
    for values, tensor in zip(
        network.named_values().values(), torch_layer.parameters(), strict=True
    ):
        tensor.data.copy_(torch.from_numpy(values))
    torch_x = to_torch(x).requires_grad_()
    torch_output, output = torch_layer(torch_x), network.forward(x)
    np.testing.assert_allclose(
        np.moveaxis(output, -1, 0), torch_output.detach().numpy(), rtol=1e-11, atol=1e-11
    )

    grad_output = rng.standard_normal(output.shape)
    grad_x = network.backward(grad_output, input_gradient=True)
    torch_output.backward(to_torch(grad_output))
    assert grad_x is not None
    np.testing.assert_allclose(
        np.moveaxis(grad_x, -1, 0), torch_x.grad.numpy(), rtol=1e-11, atol=1e-11
    )
    for grad, tensor in zip(network.named_grads().values(), torch_layer.parameters(), strict=True):
        np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=1e-11, atol=1e-11)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@examples
@given(pairs(1, 4), pairs(1, 3), pairs(0, 3), pairs(0, 6), pairs(1, 4), st.integers(0, 2**32 - 1))
def test_convolutions_of_any_stride_and_padding_agree(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    spare: tuple[int, int],
    channels: tuple[int, int],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    height, width = (max(1, kernel[axis] - 2 * padding[axis]) + spare[axis] for axis in (0, 1))
    x = rng.standard_normal((channels[0], height, width, 3))
    torch_layer = nn.Conv2d(*channels, kernel, stride, padding)
    assert_layers_agree(
        Conv2d(channels[1], kernel, stride=stride, padding=padding), torch_layer, x, rng
    )


@pytest.mark.parametrize(
    ("pool", "torch_pool"), [(MaxPool2d, nn.MaxPool2d), (AvgPool2d, nn.AvgPool2d)]
)
@pytest.mark.parametrize("ties", [False, True])
@examples
@given(kernel=pairs(1, 3), stride=pairs(1, 4), spare=pairs(0, 6), seed=st.integers(0, 2**32 - 1))
def test_poolings_of_any_stride_agree_ties_included(
    pool: type[MaxPool2d] | type[AvgPool2d],
    torch_pool: Callable[..., Any],
    ties: bool,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    spare: tuple[int, int],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    shape = (2, kernel[0] + spare[0], kernel[1] + spare[1], 3)
    x = rng.integers(-1, 2, shape).astype(np.float64) if ties else rng.standard_normal(shape)
    assert_layers_agree(pool(kernel, stride), torch_pool(kernel, stride), x, rng)

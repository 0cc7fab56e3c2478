"""Plans: several over the same parameters, backward in pieces, layer by layer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from distcnn.nn import Conv2d, Dense, Flatten, MaxPool2d, ReLU, Sequential, Tanh
from distcnn.nn.layer import Array
from distcnn.spans import Span, listening
from tests.support.networks import planned, run_twice

SHAPE, COUNT = (1, 12, 12), 4
MODEL = Sequential(
    [Conv2d(3, 3), MaxPool2d(2), ReLU(), Conv2d(4, 2), Tanh(), Flatten(), Dense(6), Dense(2)]
)
PARAMETERS = MODEL.initialise(SHAPE, np.random.default_rng(0))


def images(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((*SHAPE, COUNT)).astype(np.float32)


def gradient(seed: int) -> Array:
    """The gradient of the microbatch of that seed, from a plan of its own."""
    plan, flat = MODEL.plan(SHAPE, COUNT, PARAMETERS), np.zeros_like(PARAMETERS.values)
    plan.backward(plan.forward(images(seed)).copy(), out=flat)
    return flat


def test_one_plan_goes_forward_while_another_is_on_its_way_back() -> None:
    plans = [MODEL.plan(SHAPE, COUNT, PARAMETERS) for _ in range(3)]
    flats = [np.full_like(PARAMETERS.values, np.nan) for _ in plans]
    outputs = [plan.forward(images(seed)).copy() for seed, plan in enumerate(plans)]
    passes = [
        plan.start_backward(y, out=flat)
        for plan, y, flat in zip(plans, outputs, flats, strict=True)
    ]
    for until in sorted({0, *PARAMETERS.layer_starts}, reverse=True):
        for passing in passes:
            passing.advance(until)
    for seed, flat in enumerate(flats):
        np.testing.assert_array_equal(flat, gradient(seed))


@pytest.mark.parametrize("until", [0, 1, 30, 100, PARAMETERS.values.size])
def test_after_an_advance_all_elements_from_there_on_are_complete(until: int) -> None:
    plan, flat = MODEL.plan(SHAPE, COUNT, PARAMETERS), np.full_like(PARAMETERS.values, np.nan)
    passing = plan.start_backward(plan.forward(images(1)).copy(), out=flat)
    assert np.isnan(flat).all()
    passing.advance(until)
    np.testing.assert_array_equal(flat[until:], gradient(1)[until:])
    passing.finish()
    np.testing.assert_array_equal(flat, gradient(1))


def test_plans_in_two_threads_do_not_disturb_each_other() -> None:
    with ThreadPoolExecutor(2) as pool:
        for seed, flat in enumerate(pool.map(gradient, range(8))):
            np.testing.assert_array_equal(flat, gradient(seed))


def test_every_microbatch_size_gives_its_own_plan() -> None:
    whole = MODEL.plan(SHAPE, COUNT, PARAMETERS).forward(images(0))
    single = MODEL.plan(SHAPE, 1, PARAMETERS)
    for n in range(COUNT):
        y = single.forward(images(0)[..., n : n + 1])
        np.testing.assert_allclose(y[:, 0], whole[:, n], rtol=1e-5, atol=1e-6)


def test_parameters_of_another_network_are_refused() -> None:
    other = Sequential([Flatten(), Dense(2)]).allocate(SHAPE)
    with pytest.raises(ValueError, match=r"dense1\.weight.*another network"):
        MODEL.plan(SHAPE, COUNT, other)


def test_layer_by_layer_every_array_is_seen_and_the_bits_are_the_same() -> None:
    flat, plan = np.zeros_like(PARAMETERS.values), MODEL.plan(SHAPE, COUNT, PARAMETERS)
    unfused = plan.unfused()
    assert [stage.name for stage in unfused.stages] == list(MODEL.names)
    x, shapes = images(2), []
    for stage in unfused.stages:
        x = stage.forward(x, training=True, random_source=None)
        shapes.append(x.shape[:-1])
    assert shapes == MODEL.shapes(SHAPE)[1:]
    np.testing.assert_array_equal(x, plan.forward(images(2)))
    passing, names = unfused.start_backward(x.copy(), out=flat), []
    while name := passing.next_layer():
        names.append(name)
        if name != "conv1":
            shape = MODEL.shapes(SHAPE)[MODEL.names.index(name)]
            assert passing.gradient.shape == (*shape, COUNT)
    assert names == list(reversed(MODEL.names))
    np.testing.assert_array_equal(flat, gradient(2))


def test_layers_before_the_first_parameters_go_back_only_for_the_inputs_gradient() -> None:
    network = planned([Tanh(), Dense(2)], (3,), 1).initialise(np.random.default_rng(0))
    begun: list[Span] = []

    class Recorder:
        def begin(self, span: Span) -> None:
            begun.append(span)

        def end(self, span: Span) -> None:
            pass

    y = network.forward(np.ones((3, 1), np.float32))
    with listening(Recorder()):
        assert network.backward(y) is None
        assert [span.labels["layer"] for span in begun] == ["dense1"]
        assert network.backward(y, input_gradient=True) is not None
    assert [span.labels["layer"] for span in begun] == ["dense1", "dense1", "tanh1"]


def test_every_layer_of_a_fused_block_but_the_relu_has_a_span_of_its_own() -> None:
    network, begun = planned([Conv2d(2, 3), MaxPool2d(2), ReLU()], SHAPE, COUNT), set[str]()

    class Recorder:
        def begin(self, span: Span) -> None:
            begun.add(f"{span.labels['layer']} {span.name}")

        def end(self, span: Span) -> None:
            pass

    with listening(Recorder()):
        run_twice(network)
    assert begun == {*("conv1 forward", "conv1 backward", "maxpool1 forward", "maxpool1 backward")}


@pytest.mark.parametrize("bad", [np.zeros(22, np.float32), np.zeros(23)])
def test_gradients_cannot_go_to_another_shape_or_dtype(bad: Array) -> None:
    network = planned([Dense(3), Dense(2)], (4,), 2)
    y = network.forward(np.ones((4, 2), np.float32))
    with pytest.raises(ValueError, match=r"gradients of shape \(23,\) \(float32\)"):
        network.plan.backward(y, out=bad)


@pytest.mark.parametrize(
    ("frozen", "first"),
    [(("conv1.weight", "conv1.bias"), "conv2"), (("conv1.weight",), "conv1"), (("dense1",), "")],
)
def test_backward_ends_above_the_layers_that_are_all_frozen(
    frozen: tuple[str, ...], first: str
) -> None:
    plan, flat = MODEL.plan(SHAPE, COUNT, PARAMETERS), np.full_like(PARAMETERS.values, np.nan)
    plan.freeze(frozen)
    started = plan.start_backward(plan.forward(images(3)), out=flat)
    layers = list(iter(started.next_layer, None))
    assert layers[-1] == (first or "conv1")
    expected = gradient(3)
    if first == "conv2":
        expected[: PARAMETERS.slices["conv2.weight"].start] = 0
    np.testing.assert_array_equal(flat, expected)

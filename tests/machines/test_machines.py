"""The promise of portable arithmetic: one hash in every environment (``environments.py``).

``python -m tests.machines --write`` writes the hashes when the bits of portable runs change.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from distcnn.doctor.reference import Reference, Weights
from tests.conftest import ROOT, SERIAL, as_flags
from tests.machines.__main__ import HEAD
from tests.machines.debian import Unavailable
from tests.machines.environments import ENVIRONMENTS, KERNELS, Environment
from tests.machines.measure import MODELS, STEPS, Measured, Threads, facts, trained_here
from tests.machines.starts import Start

MNIST = Reference.read().mnist.weights


def measured(environment: Environment) -> Measured:
    """What was trained there; skips the test where that is not possible."""
    reference()
    try:
        return environment.measure()
    except Unavailable as reason:
        pytest.skip(str(reason))


def reference() -> Weights:
    """The weights that training on the images in ``data/`` gives; skips the test for others than
    MNIST and its sample.
    """
    known = trained_here()
    if not known:
        pytest.skip("data/mnist.h5 is not MNIST: python data/mnist.py makes it")
    return known.weights


def start_of(environment: Environment) -> Start:
    """How Python is started there; skips the test where that is not possible."""
    try:
        return environment.start()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.slow
@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=str)
def test_one_hash_in_every_environment(environment: Environment) -> None:
    found = measured(environment)
    assert environment.problem(found) == ""
    assert (found.facts.replaced > 0) == ("LD_PRELOAD" in environment.start().variables)
    expected = {model: reference()[model] for model in environment.models}
    assert found.weights == {model: of[str(environment.steps)] for model, of in expected.items()}


@pytest.mark.slow
def test_native_arithmetic_depends_on_the_kernel() -> None:
    """So the environments differ enough to tell portable arithmetic from another."""
    first, second = (
        measured(dataclasses.replace(kernel, models=("tutorial",))) for kernel in KERNELS[:2]
    )
    assert first.weights == second.weights
    assert first.native != second.native


def test_an_environment_without_effect_is_found() -> None:
    environment = Environment("2 ranks", ranks=2, effect={"kernel": ("Haswell",)})
    measured = Measured({}, "", facts(Threads(), 1))
    assert "ranks is 1" in environment.problem(measured)


def test_the_command_needs_only_distcnn() -> None:
    """A user's environment has no pytest."""
    code = "import sys; sys.modules['pytest'] = None; import tests.machines.__main__"
    assert SERIAL.run(1, "-c", code).returncode == 0


def test_the_pages_have_the_hashes() -> None:
    assert f"\nweights {MNIST['lenet'][str(STEPS)]}\n" in (ROOT / "README.md").read_text()
    rows = [line.split(" | ") for line in (ROOT / "docs" / "machines.md").read_text().splitlines()]
    checked = 0
    for _, _, _, _, steps, *found, _ in (row for row in rows if len(row) == len(HEAD)):
        for model, digits in zip(MODELS, found, strict=True):
            if steps.isdigit() and digits:
                assert MNIST[model][steps].startswith(digits)
                checked += 1
    assert checked > len(ENVIRONMENTS)


@pytest.mark.slow
def test_the_command_of_the_readme_prints_the_hash(tmp_path: Path) -> None:
    expected = reference()["lenet"][str(STEPS)]
    flags = as_flags(arithmetic="portable", max_steps=STEPS, output=tmp_path / "run")
    done = SERIAL.run(1, "-m", "distcnn.train", *flags)
    assert f"\nweights {expected}\n" in done.stdout

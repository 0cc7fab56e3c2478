"""Every example runs in one process and under mpirun, to the same weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, SERIAL, Launcher, MakeImageSet, as_flags, slow

EXAMPLES = {path.stem for path in (ROOT / "examples").glob("*.py")} - {"sample_pictures"}
"""Without the one that trains nothing; a test of the documentation runs it."""
OWN_IMAGES = {"own_data"}
WITH_OUTPUT = {"export_to_onnx", "fine_tune", "mnist", "plot_runs", "resume_and_verify"}


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["own_layer", *slow(*sorted(EXAMPLES - {"own_layer"}))])
def test_an_example_gives_the_same_weights_on_two_ranks(
    name: str, mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    found = []
    for ranks, launcher in ((1, SERIAL), (2, mpirun)):
        flags = as_flags(epochs=1) if name in OWN_IMAGES else as_flags(data=image_set())
        if name in WITH_OUTPUT:
            flags += as_flags(output=tmp_path / str(ranks), max_steps=4)
        done = launcher.run(ranks, f"examples/{name}.py", *flags)
        assert done.returncode == 0, done.stderr
        found.append(re.findall(r"\b[0-9a-f]{64}\b", done.stdout))
    assert found[0] == found[1]
    assert found[0] or name in ("plot_runs", "resume_and_verify")

"""A rank other than root imports only what it needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import SERIAL, Launcher, MakeImageSet, as_flags

# Needed by root alone, or seldom. On a shared file system every rank would ask for each of their
# files at the same moment.
SELDOM = {
    *{
        "ssl",
        "http.client",
        "urllib.request",
        "email",
        "zipfile",
        "gzip",
        "tempfile",
    },  # MNIST that must be had first
    *{"tqdm", "multiprocessing", "importlib.metadata"},  # a progress bar
    "distcnn.profiling",
    *{"pdb", "distcnn.training.debug", "distcnn.training.replay"},  # debugging and replays
    *{"tomllib", "tomli_w"},  # root's files
    "concurrent.futures",
    *{"distcnn.interop", "onnx", "safetensors", "torch"},  # weights of other programs
    *{"matplotlib", "PIL"},
}
LOADED = f"import json, sys; print(json.dumps(sorted({SELDOM!r} & set(sys.modules))))"
TRAINED = """
import os, sys
from distcnn.system import launcher
from distcnn import train
code = train.main(sys.argv[1:])
if launcher.declared_rank(os.environ):
    exec({loaded!r})
sys.exit(code)
"""


def test_no_rank_but_root_imports_what_only_some_need() -> None:
    done = SERIAL.run(1, "-c", f"import distcnn.train; {LOADED}", PMI_SIZE="2", PMI_RANK="1")
    assert (done.returncode, json.loads(done.stdout)) == (0, []), done.stderr


@pytest.mark.mpi
def test_a_whole_run_does_not_either_but_on_root(
    mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = as_flags(data=image_set(), output=tmp_path / "run", model="tutorial", epochs=1)
    done = mpirun.run(2, "-c", TRAINED.format(loaded=LOADED), *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[]" in done.stdout, done.stdout  # a launcher may join the lines of two ranks

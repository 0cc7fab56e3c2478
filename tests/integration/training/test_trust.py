"""Whose code runs: a model that only a file names is not imported, and code in a run directory
never is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distcnn.checkpoints.format import decode, encode
from distcnn.config_parsing import parse_request
from distcnn.errors import InputError
from distcnn.training.resume import find_resume_point
from distcnn.training.run_files import read_config, write_config
from tests.conftest import MakeImageSet, as_flags, clean_environment, slow
from tests.support.training_fixtures import receipt, store_of, write_receipt

EVIL = """
from pathlib import Path

Path({mark!r}).touch()
from distcnn.models import tutorial as network
"""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that exists if a stranger's code has run."""
    return tmp_path / "executed"


@pytest.fixture
def strange(finished: Path, tmp_path: Path, mark: Path) -> Path:
    """Two thirds of a run that has its own module, ``net.py``, and names it wherever a model is
    named.
    """
    run = Path(shutil.copytree(finished, tmp_path / "runs" / "strange"))
    for left in (
        *(run / name for name in ("SHA256SUMS", "result.json", "weights.h5")),
        *(store_of(run).path_of(step) for step in (10, 12)),
    ):
        left.unlink()
    (run / "net.py").write_text(EVIL.format(mark=str(mark)))
    name_model(run, "runs.strange.net:network")
    return run


def name_model(run: Path, model: str) -> None:
    """Make configuration, checkpoints and receipt name ``model``."""
    values = vars(read_config(run)) | {"model": model}
    write_config(run, type(read_config(run))(**values))
    for step in store_of(run).steps():
        path = store_of(run).path_of(step)
        found = decode(path.read_bytes())
        found.texts["configuration"] = json.dumps(
            {**json.loads(found.texts["configuration"]), "model": model}
        )
        path.write_bytes(b"".join(encode(found)))
    lines = receipt(run)
    for line in lines:
        if "configuration" in line:
            line["configuration"]["model"] = model
    write_receipt(run, lines)


def command(
    name: str, *flags: str | Path, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """``python -m distcnn.<name>`` in ``cwd``, which comes first in the module search path."""
    return subprocess.run(
        [sys.executable, "-m", f"distcnn.{name}", *map(str, flags)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
        env=clean_environment() | environment,
    )


def assert_refused(done: subprocess.CompletedProcess[str], mark: Path, *words: str) -> None:
    assert done.returncode == 2, f"{done.stdout}\n{done.stderr}"
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert not mark.exists()


WAYS: dict[str, tuple[str, ...]] = {
    "resume": ("train", "--resume", "{run}"),
    "resume elsewhere": ("train", "--resume", "{run}", "--output", "{run}-2"),
    "break": ("train", "--resume", "{run}", "--break-at-step", "5"),
    "verify": ("verify", "{run}"),
    "verify from a checkpoint": ("verify", "{run}", "--from-step", "4"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_only_the_run_names_is_not_imported(
    way: str, strange: Path, mark: Path, tmp_path: Path
) -> None:
    name, *flags = (each.format(run=strange) for each in WAYS[way])
    assert_refused(
        command(name, *flags, cwd=tmp_path),
        mark,
        "runs.strange.net:network",
        "--trust-model",
        str(strange),
    )


@pytest.mark.parametrize(
    "way", ["resume", "verify", *slow("resume elsewhere", "break", "verify from a checkpoint")]
)
def test_what_is_confirmed_is_not_imported_from_the_run_directory_either(
    way: str, strange: Path, mark: Path, tmp_path: Path
) -> None:
    name, *flags = (each.format(run=strange) for each in WAYS[way])
    for trust in (["--trust-model"], ["--model", "runs.strange.net:network"]):
        assert_refused(
            command(name, *flags, *trust, cwd=tmp_path),
            mark,
            "runs.strange.net:network",
            "run directory",
        )


def test_nothing_is_imported_from_the_run_directory_by_other_ways(
    strange: Path, mark: Path, tmp_path: Path
) -> None:
    """From inside it, through a link, as a package with ``__init__``, through PYTHONPATH."""
    (tmp_path / "link").symlink_to(strange)
    (tmp_path / "net2.py").symlink_to(strange / "net.py")
    (strange / "__init__.py").write_text(EVIL.format(mark=str(mark)))
    for model, cwd, path in (
        ("net:network", strange, ""),
        ("link.net:network", tmp_path, ""),
        ("net2:network", tmp_path, ""),
        ("strange:network", tmp_path / "runs", ""),
        ("net:network", tmp_path, str(strange)),
        (
            "distcnn.models:lenet",
            strange,
            "",
        ),  # harmless, but whatever it imports would be looked for here first
    ):
        name_model(strange, model)
        environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, [clean_environment()["PYTHONPATH"], path]))
        }
        done = command("verify", strange, "--trust-model", cwd=cwd, **environment)
        assert_refused(done, mark, "run directory")


def test_a_confirmed_own_model_continues(strange: Path, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from distcnn.models import tutorial as network\n")
    name_model(strange, "mine:network")
    again = Path(shutil.copytree(strange, tmp_path / "again"))
    for run, trust in ((strange, ["--trust-model"]), (again, ["--model", "mine:network"])):
        done = command("train", "--resume", run, *trust, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (
            json.loads((run / "result.json").read_text())["params_sha256"]
            in (finished / "result.json").read_text()
        )
        assert command("verify", run, *trust, cwd=tmp_path).returncode == 0


def test_a_finished_run_needs_no_trust(
    strange: Path, finished: Path, mark: Path, tmp_path: Path
) -> None:
    for name in ("result.json", "weights.h5"):
        shutil.copy(finished / name, strange / name)
    (strange / "SHA256SUMS").unlink(missing_ok=True)
    done = command("train", "--resume", strange, cwd=tmp_path)
    assert (done.returncode, mark.exists()) == (0, False), done.stderr
    assert "is finished" in done.stdout


def test_a_configuration_file_is_not_believed_either(
    image_set: MakeImageSet, strange: Path, mark: Path, tmp_path: Path
) -> None:
    flags = ["--config", strange / "config.toml", "--data", image_set()]
    for name in ("train", "benchmark"):
        assert_refused(
            command(name, *flags, cwd=tmp_path),
            mark,
            *as_flags(config=True, trust_model="runs.strange.net:network"),
        )
    assert_refused(
        command("scaling", "--ranks", "1", *flags, cwd=tmp_path),
        mark,
        *as_flags(config=True, trust_model=True),
    )


def test_a_refusal_changes_nothing_in_the_run(strange: Path) -> None:
    before = {path: path.read_bytes() for path in strange.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="trust"):
        find_resume_point(parse_request(["--resume", str(strange)]), print)
    assert {path: path.read_bytes() for path in strange.rglob("*") if path.is_file()} == before


MINE = """
from distcnn import nn
from own_width import WIDTH

def network(input_shape, classes):
    return nn.Sequential([nn.Flatten(), nn.Dense(WIDTH), nn.ReLU(), nn.Dense(classes)])
"""


@pytest.fixture
def stopped(image_set: MakeImageSet, tmp_path: Path) -> Path:
    """An unfinished run of the user's own model, which consists of two modules in ``tmp_path``."""
    (tmp_path / "own_width.py").write_text("WIDTH = 20\n")
    (tmp_path / "own_model.py").write_text(MINE)
    flags = as_flags(data=image_set(), model="own_model:network", microbatch_size=8, max_steps=2)
    done = command("train", *flags, "--output", tmp_path / "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


GO_ON = ("--model", "own_model:network", "--max-steps", "4")


@pytest.mark.parametrize("module", ["own_model", "own_width"])
def test_a_resume_with_an_edited_model_is_refused_unless_accepted(
    module: str, stopped: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    file = tmp_path / f"{module}.py"
    file.write_text(
        file.read_text().replace("nn.ReLU()", "nn.Tanh()")
        if module == "own_model"
        else "WIDTH = 10 + 10\n"
    )
    done = command("train", "--resume", stopped, *GO_ON, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"module {module}, line " in done.stderr
    assert "--accept-changed-model" in done.stderr
    assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before
    verified = command("verify", stopped, "--trust-model", cwd=tmp_path)
    assert f"module {module}, line " in verified.stdout
    assert verified.returncode == (
        1 if module == "own_model" else 0
    )  # the width is the same after all, and so are the bits
    done = command("train", "--resume", stopped, *GO_ON, "--accept-changed-model", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: the source of model 'own_model:network' was edited" in done.stdout
    done = command(
        "train", *as_flags(resume=stopped), *GO_ON, *as_flags(max_steps=6), cwd=tmp_path
    )  # the new source is the run's from now on
    assert (done.returncode, "warning" in done.stdout) == (0, False), done.stderr


def test_edited_comments_are_reported_only(stopped: Path, tmp_path: Path) -> None:
    (tmp_path / "own_model.py").write_text(f"# a remark\n{MINE}")
    done = command("train", "--resume", stopped, *GO_ON, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: comments or layout" in done.stdout


def test_a_run_without_a_checkpoint_knows_its_model_too(stopped: Path, tmp_path: Path) -> None:
    shutil.rmtree(stopped / "checkpoints")
    (stopped / "result.json").unlink()
    (tmp_path / "own_width.py").write_text("WIDTH = 30\n")
    assert_refused(
        command("train", "--resume", stopped, *GO_ON, cwd=tmp_path),
        tmp_path / "none",
        "own_width",
        "line 1",
    )

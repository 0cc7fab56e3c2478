"""The launch scripts, as far as they run without installing anything."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[3] / "launch"
ROOT = LAUNCH.parent
STUB = """#!/bin/bash
# A Python of which only its -m venv does something.
if [ "$1 $2" = "-m venv" ]; then
    mkdir -p "$4/bin" && cp "$0" "$4/bin/python" && cp "$0" "$4/bin/pip" && touch "$4/bin/activate"
fi
case $* in "-m pip install"*) echo "$*" >>installs ;; esac
"""


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=lambda script: script.name)
def test_scripts_are_bash(script: Path) -> None:
    assert (
        subprocess.run(
            [shutil.which("bash") or "bash", "-n", script], check=False, capture_output=True
        ).returncode
        == 0
    )


@pytest.mark.parametrize("ranks", ["0", "four", "-1", ""])
def test_a_wrong_number_of_ranks_is_refused_before_anything_is_set_up(ranks: str) -> None:
    done = subprocess.run(
        [LAUNCH / "local.sh", "-n", ranks], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"local.sh: error: -n is '{ranks}'" in done.stderr


def test_a_link_to_a_script_starts_it(tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(LAUNCH / "local.sh")
    done = subprocess.run(
        [tmp_path / "train", "-n", "0"], check=False, capture_output=True, text=True
    )
    assert (done.returncode, "-n is '0'" in done.stderr) == (2, True), done.stderr


def test_the_newest_final_wheel_of_pip_is_taken() -> None:
    spec = importlib.util.spec_from_file_location("get_pip", LAUNCH / "get_pip.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = [
        "pip-9.0-py3-none-any.whl",
        "pip-24.10-py3-none-any.whl",
        "pip-24.2-py3-none-any.whl",
        "pip-99.0b1-py3-none-any.whl",
        "pip-99.tar.gz",
    ]
    files = [{"filename": name} for name in names] + [
        {"filename": "pip-98.0-py3-none-any.whl", "yanked": "broken"}
    ]
    assert module.newest_wheel(files)["filename"] == "pip-24.10-py3-none-any.whl"


def in_environment_script(
    words: str, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``words`` of shell in ``folder`` after sourcing ``environment.sh``, with no environment
    active.
    """
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in ("VIRTUAL_ENV", "CONDA_PREFIX")
    }
    script = f"set -euo pipefail; . launch/environment.sh; {words}"
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_an_environment_has_pip_under_that_name(tmp_path: Path) -> None:
    """A message that says "pip install" must not mean another Python's pip."""
    done = in_environment_script(
        f'"{sys.executable}" -m venv --without-pip "{tmp_path}/new"; ensure_pip'
        f" {tmp_path}/new/bin/python {tmp_path}/new",
        ROOT,
    )
    assert done.returncode == 0, done.stderr
    said = subprocess.run(
        [tmp_path / "new/bin/pip", "--version"], check=True, capture_output=True, text=True
    ).stdout
    assert str(tmp_path) in said


def test_local_installs_what_pictures_need() -> None:
    """An active environment is asked for the same extras that ``.venv`` gets."""
    [line] = [
        line
        for line in (LAUNCH / "local.sh").read_text().splitlines()
        if line.startswith("use_environment")
    ]
    extras = line.split()[-1]
    assert "images" in extras.split(",")
    known = [sys.executable, LAUNCH / "has_extras.py", extras]
    assert subprocess.run(known, check=False).returncode == 0


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of a checkout that the scripts read, and a Python that installs nothing."""
    for name in ("launch", "pyproject.toml", "distcnn/__init__.py"):
        source, target = ROOT / name, tmp_path / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").write_text(STUB)
    (tmp_path / "bin/python3").chmod(0o755)
    return tmp_path / "checkout"


def set_up(checkout: Path, extras: str) -> list[str]:
    """Use ``.venv``, setting it up if it is missing; return all installations so far."""
    done = in_environment_script(
        f"use_environment .venv {extras}",
        checkout,
        PATH=f"{checkout.parent}/bin:{os.environ['PATH']}",
    )
    assert done.returncode == 0, done.stderr
    return (checkout / "installs").read_text().splitlines()


def test_nothing_is_written_where_all_is_set_up(checkout: Path) -> None:
    assert len(set_up(checkout, "mpi,plots")) == 1
    (checkout / ".venv.lock").unlink()
    before = {path: path.stat().st_mtime_ns for path in checkout.rglob("*")}
    assert len(set_up(checkout, "mpi,plots")) == 1
    assert {path: path.stat().st_mtime_ns for path in checkout.rglob("*")} == before


def test_each_set_of_extras_is_installed_once_until_the_project_changes(checkout: Path) -> None:
    assert [
        len(set_up(checkout, extras)) for extras in ("mpi,plots", "dev", "mpi,plots", "dev")
    ] == [1, 2, 2, 2]
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert len(set_up(checkout, "dev")) == 3


def test_an_editable_install_is_found_beside_a_folder_named_distcnn(tmp_path: Path) -> None:
    """As in the folder above a checkout, where the folder is a namespace package and comes first on
    the path.
    """
    (tmp_path / "distcnn" / "distcnn").mkdir(parents=True)
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for words in (
        ["-c", "import distcnn.train; print(distcnn.__version__)"],
        ["-m", "distcnn.train", "--help"],
    ):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=kept,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (
            f"after a change of pyproject.toml, install again: pip install -e .\n{done.stderr}"
        )


SCONTROL = """#!/bin/bash
# Refuses to requeue as often as it is told to, as Slurm does while it deals with a lost node.
case $1 in
    requeue) echo >>{calls}; [ "$(wc -l <{calls})" -gt {refusals} ] ;;
    show) echo "JobId=7 JobState={state} Reason=None" ;;
esac
"""


@pytest.mark.parametrize(
    ("refusals", "state", "says", "asks"),
    [
        (0, "RUNNING", "job 7 was requeued and", 1),
        (2, "COMPLETING", "job 7 was requeued and", 3),
        (99, "PENDING", "requeued by Slurm", 1),
        (99, "RUNNING", "to resume: by hand", 10),
    ],
)
def test_a_job_asks_more_than_once_to_be_requeued(
    tmp_path: Path, refusals: int, state: str, says: str, asks: int
) -> None:
    calls, scontrol = tmp_path / "calls", tmp_path / "scontrol"
    scontrol.write_text(SCONTROL.format(calls=calls, refusals=refusals, state=state))
    scontrol.chmod(0o755)
    words = (
        f"script=test; . launch/job.sh; PATH={tmp_path}:$PATH; SLURM_JOB_ID=7; sleep() {{ :; }};"
        ' requeue "by hand"'
    )
    done = subprocess.run(
        ["bash", "-c", words], cwd=LAUNCH.parent, capture_output=True, text=True, check=False
    )
    assert says in done.stdout + done.stderr
    assert len(calls.read_text().splitlines()) == asks

"""A claim: of all processes that ask for a name one gets it, and its end frees it.

No other user of the host can have it.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import stat
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from distcnn.fault_tolerance import host_election as claims
from distcnn.fault_tolerance.host_election import claim, claimed, private_folder
from tests.conftest import SERIAL
from tests.support.running import running

ASK = (
    "import sys, time; from distcnn.fault_tolerance.host_election import claim;"
    " print(claim(sys.argv[1]), flush=True); time.sleep(60)"
)


def test_a_name_is_given_once() -> None:
    name = secrets.token_hex(8)
    assert [claim(f"{name}-{each}") for each in "aab"] == [True, False, True]


def test_one_of_many_processes_gets_it_and_its_end_frees_it() -> None:
    name = secrets.token_hex(8)
    with ExitStack() as open_runs:
        runs = [open_runs.enter_context(running(SERIAL, 1, "-c", ASK, name)) for _ in range(8)]
        for run in runs:
            run.wait_for_text("e\n")
        answers = [run.stdout for run in runs]
        assert sorted(answers) == ["False\n"] * 7 + ["True\n"]
        assert not claim(name)
        winner = runs[answers.index("True\n")].process
        os.kill(winner.pid, signal.SIGKILL)  # it could not give it back itself
        winner.wait()
        assert claim(name)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where alone folders may be made."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(
        claims, "SHARED_FOLDERS", (str(tmp_path / "first"), str(tmp_path / "second"))
    )
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_who_holds_claims_is_known_without_taking_any(base: Path) -> None:
    assert claimed() == set()
    assert claim("mine")
    with running(SERIAL, 1, "-c", ASK, "other", XDG_RUNTIME_DIR=str(base / "first")) as run:
        run.wait_for_text("True\n")
        assert claimed() == {"mine", "other"}
    assert claimed() == {"mine"}
    assert claim("other")


def test_only_the_user_can_enter_the_folder_of_claims(base: Path) -> None:
    folder = private_folder()
    assert folder
    assert folder.parent == base / "first"
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0


def is_open(path: Path) -> None:
    path.mkdir(mode=0o777)
    path.chmod(0o777)


def is_a_link(path: Path) -> None:
    path.symlink_to(path.parent.parent, target_is_directory=True)


def belongs_to_another(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)


needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can give a folder to another user"
)


@pytest.mark.parametrize(
    "squat", [is_open, is_a_link, Path.touch, pytest.param(belongs_to_another, marks=needs_root)]
)
def test_a_folder_that_another_user_made_is_not_trusted(
    squat: Callable[[Path], None], base: Path
) -> None:
    name = f"distcnn-{os.geteuid()}"
    squat(base / "first" / name)
    assert private_folder() == base / "second" / name
    (base / "second" / name).rmdir()
    squat(base / "second" / name)
    assert private_folder() is None
    assert [claim("report"), claim("report")] == [True, True]  # rather two reports than none


def test_abstract_sockets_of_others_silence_nobody(base: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.bind("\0distcnn-report")
        assert claim("report")


def test_files_of_ended_processes_are_removed_and_held_ones_are_not(base: Path) -> None:
    folder = private_folder()
    assert folder
    assert claim("held")
    (folder / "old").touch()
    for name in ("held", "old"):
        os.utime(folder / name, (time.time() - 3600,) * 2)
    assert claim("next")
    assert sorted(path.name for path in folder.iterdir()) == ["held", "next"]
    assert not claim("held")

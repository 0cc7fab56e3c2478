"""Shared memory of killed MPIs: what is not in use is removed, everything else stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from distcnn.fault_tolerance.leftovers import MEMORY, remove_left_behind
from tests.conftest import Launcher, MakeImageSet
from tests.support.running import STAGED, running


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root can mount")
def test_a_file_of_that_name_in_another_containers_folder_does_not_count(
    left_behind: list[Path],
) -> None:
    folder = left_behind[0].parent
    script = (
        f"mount -t tmpfs tmpfs {folder} && exec 9>{left_behind[0]} && echo there && exec sleep 60"
    )
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "there\n"
        assert sorted(remove_left_behind(folder)) == sorted(left_behind)
        other.kill()


def test_the_start_after_a_kill_leaves_nothing(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = [*STAGED, "--data", str(image_set())]
    with running(
        any_mpi, 2, *flags, "--output", str(tmp_path / "killed"), STAGED_PACE="0.2"
    ) as run:
        run.wait_for_step(1)
        maps = [Path(f"/proc/{pid}/maps").read_text() for pid in run.ranks().values()]
        mapped = {
            Path(word) for each in maps for word in each.split() if word.startswith(f"{MEMORY}/")
        }
        for pid in run.processes():
            os.kill(pid, signal.SIGKILL)
        run.wait_for_none_left(5)
    assert mapped
    any_mpi.train(2, tmp_path / "next", *flags[2:])
    assert not [path for path in mapped if path.exists()]

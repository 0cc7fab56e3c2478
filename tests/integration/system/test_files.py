"""Files are whole or absent, even if a writer is killed or the disk fills up."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distcnn.system.files import TEMPORARY, remove_temporary_files, write_atomically
from tests.conftest import ROOT, clean_environment

SYNC = pytest.mark.parametrize("sync", [True, False], ids=["synced", "not synced"])


def in_a_process(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start ``program``, which can use ``write_atomically`` and has its path in ``path``."""
    text = (
        "import sys\nfrom pathlib import Path\nfrom distcnn.system.files import"
        f" write_atomically\npath = Path(sys.argv[1])\n{program}"
    )
    command = [sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True
    )


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_what_a_killed_writer_left_does_not_matter_and_can_be_removed(tmp_path: Path) -> None:
    program = (
        "import os, signal\nos.fsync = lambda _: os.kill(os.getpid(),"
        " signal.SIGKILL)\nwrite_atomically(path, b'half')\n"
    )
    with in_a_process(program, tmp_path / "file") as process:
        process.communicate()
    left = names(tmp_path)
    assert len(left) == 1
    assert TEMPORARY.fullmatch(left[0])
    (tmp_path / "notes.tmp").write_text("not ours")
    (tmp_path / ".notes.tmp").write_text("not ours")
    write_atomically(tmp_path / "file", b"whole")
    remove_temporary_files(tmp_path)
    assert names(tmp_path) == [".notes.tmp", "file", "notes.tmp"]
    remove_temporary_files(tmp_path / "none")


@SYNC
def test_a_disk_that_fills_up_half_way_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, sync: bool
) -> None:
    (tmp_path / "file").write_bytes(b"older")
    program = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        f"    write_atomically(path, b'x' * 90_000, b'y' * 90_000, sync={sync})\n"
        "except OSError as error:\n"
        "    print(error.strerror)\n"
    )
    with in_a_process(program, tmp_path / "file") as process:
        assert process.communicate()[0] == "File too large\n"
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"older"


@pytest.mark.parametrize("milliseconds", range(0, 50, 10))
def test_a_writer_killed_at_any_moment_leaves_a_whole_file(
    tmp_path: Path, milliseconds: int
) -> None:
    path = tmp_path / "file"
    program = (
        "print('ready', flush=True)\n"
        "for number in range(10**9):\n"
        "    write_atomically(path, (b'%d' % (number % 10)) * 1_000_000, b'end', sync=False)\n"
    )
    with in_a_process(program, path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while not path.exists():
            assert process.poll() is None
        time.sleep(milliseconds / 1000)
        process.kill()
    assert re.fullmatch(rb"(\d)\1{999999}end", path.read_bytes())
    left = [name for name in names(tmp_path) if TEMPORARY.fullmatch(name)]
    assert len(left) <= 1
    assert set(names(tmp_path)) <= {"file", *left}


def test_a_reader_always_sees_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0" * 100_000)
    program = (
        "for number in range(10**9):\n    write_atomically(path, *[b'%d' % (number % 10) * 1000] *"
        " (100 + number % 100), sync=False)\n"
    )
    seen: set[int] = set()
    with in_a_process(program, path) as process:
        try:
            deadline = time.monotonic() + 60
            while len(seen) < 50 and time.monotonic() < deadline:
                content = path.read_bytes()
                number = len(content) // 1000 - 100
                assert content == b"%d" % (number % 10) * 1000 * (100 + number), (
                    f"{len(content)} bytes, cut off or mixed"
                )
                seen.add(number)
        finally:
            process.kill()
    assert len(seen) == 50


def test_the_kernel_sees_the_syncs_in_that_order(tmp_path: Path) -> None:
    if (
        shutil.which("strace") is None
        or subprocess.run(["strace", "-qq", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no strace here, or it may not trace")
    program = (
        "import sys; from pathlib import Path; from distcnn.system.files import *;"
        " write_atomically(Path(sys.argv[1]), b'123', b'45')"
    )
    trace = [
        "strace",
        "-qq",
        "-y",
        "-e",
        "trace=write,fsync,rename,renameat,renameat2",
        "-o",
        str(tmp_path / "trace"),
    ]
    (tmp_path / "run").mkdir()
    command = [*trace, sys.executable, "-c", program, str(tmp_path / "run" / "file")]
    subprocess.run(command, cwd=ROOT, env=clean_environment(), check=True)
    lines = [
        line for line in (tmp_path / "trace").read_text().splitlines() if f"{tmp_path}/run" in line
    ]
    assert [line.split("(")[0].removesuffix("at").removesuffix("at2") for line in lines] == [
        "write",
        "fsync",
        "rename",
        "fsync",
    ]
    assert "/.file." in lines[1]
    assert "/run>" in lines[3]
    assert all(
        line.rstrip().endswith(f"= {result}")
        for line, result in zip(lines, (5, 0, 0, 0), strict=True)
    )

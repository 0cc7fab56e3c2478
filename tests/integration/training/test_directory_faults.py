"""Run directories that are damaged or unreadable, apart from checkpoints: noticed and named, and
the run still ends with the same bits.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from distcnn.errors import InputError
from distcnn.training.results import damage_of
from distcnn.training.run_files import read_config
from tests.conftest import ROOT, SERIAL, clean_environment
from tests.support.training_fixtures import assert_same_end, content, resume, store_of, train

NOBODY = 65534

# -- the configuration


def until(key: bytes) -> Callable[[bytes], bytes]:
    """Cut before the line of ``key``."""
    return lambda content: content[: content.index(b"\n" + key) + 1]


CONFIGS: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda content: None,
    "emptied": lambda content: b"",
    "cut at a line's end": until(b"epochs"),
    "without its last line": until(b"# The run's own record"),
    "not TOML": lambda content: b"\0" * len(content),
    "a key with a bit flipped": lambda content: content.replace(b"\nseed", b"\nseee"),
    "a value with a bit flipped": lambda content: content.replace(b"\nepochs = 3", b"\nepochs = 2"),
}


def damage_config(run: Path, damage: Callable[[bytes], bytes | None]) -> bytes:
    """What it held before."""
    config = run / "config.toml"
    content = config.read_bytes()
    damaged = damage(content)
    assert damaged != content
    config.unlink()
    if damaged is not None:
        config.write_bytes(damaged)
    return content


@pytest.mark.parametrize("damage", CONFIGS)
def test_without_a_whole_configuration_the_checkpoints_is_taken(
    damage: str, killed: Path, finished: Path
) -> None:
    whole, config = damage_config(killed, CONFIGS[damage]), killed / "config.toml"
    said = resume(killed)
    problem = "cannot be read (" if damage == "missing" else "is damaged or was edited"
    assert f"warning: {config} {problem}" in said
    assert "using the configuration in the checkpoint" in said
    assert config.read_bytes() == whole, "it is written anew"
    assert_same_end(killed, finished)


def test_a_configuration_cut_anywhere_or_with_one_bit_flipped_is_refused(
    finished: Path, tmp_path: Path
) -> None:
    whole = (finished / "config.toml").read_bytes()
    flipped = np.random.default_rng(5).choice(len(whole) * 8, 300, replace=False).tolist()
    damages = [whole[:place] for place in range(len(whole))]
    damages += [
        bytes(byte ^ (1 << bit % 8 if place == bit // 8 else 0) for place, byte in enumerate(whole))
        for bit in flipped
    ]
    for damaged in [*damages, whole + b"\n", whole + b"seed = 4\n"]:
        (tmp_path / "config.toml").write_bytes(damaged)
        with pytest.raises(
            InputError, match=r"config\.toml (is damaged or was edited|cannot be read \('utf-8')"
        ):
            read_config(tmp_path)
    (tmp_path / "config.toml").write_bytes(whole)
    assert read_config(tmp_path) == read_config(finished)


def test_neither_configuration_nor_whole_checkpoint_is_bad_input(killed: Path) -> None:
    (killed / "config.toml").write_bytes(b"\0")
    for path in (killed / "checkpoints").iterdir():
        path.write_bytes(b"")
    before = content(killed)
    done = train(SERIAL, 1, "--resume", str(killed))
    assert done.returncode == 2
    assert done.stderr.startswith(f"distcnn.train: error: {killed / 'config.toml'} is damaged")
    assert "no complete checkpoint" in done.stderr
    assert content(killed) == before


# -- the result


RESULTS: dict[str, Callable[[str], str]] = {
    "a key": lambda text: text.replace('"steps"', '"stepr"'),
    "a key within": lambda text: text.replace('"train_examples"', '"train_exampler"'),
    "cut off": lambda text: text[:100],
}


@pytest.mark.parametrize("damage", RESULTS)
def test_a_damaged_result_is_found_and_written_anew(
    damage: str, finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    text = (run / "result.json").read_text()
    damaged = RESULTS[damage](text)
    assert damaged != text
    (run / "result.json").write_text(damaged)
    done = SERIAL.run(1, "-m", "distcnn.verify", str(run))
    assert (done.returncode, done.stderr) == (1, "")
    assert "after 12 of 12 steps" in resume(run)
    assert_same_end(run, finished)
    assert (run / "result-until-step-12.json").read_text() == damaged


FILES = [
    *("config.toml", "metrics.jsonl", "metrics.csv", "receipt.jsonl"),
    *("result.json", "weights.h5", "SHA256SUMS"),
]


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_of_a_finished_run_is_noticed(
    name: str, finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    whole = (run / name).read_bytes()
    assert damage_of(run) is None
    for bit in np.random.default_rng(1).choice(len(whole) * 8, 30, replace=False).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (run / name).write_bytes(damaged)
        assert damage_of(run), f"bit {bit}"
    for cut in (0, len(whole) // 2, len(whole) - 1):
        (run / name).write_bytes(whole[:cut])
        assert damage_of(run) or cut == len(whole) - 1, f"cut to {cut} bytes"
    (run / name).unlink()
    assert damage_of(run) or name == "SHA256SUMS", "older versions wrote no sums"


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.csv", "weights.h5"])
def test_a_finished_run_with_a_damaged_file_is_finished_again(
    name: str, finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    whole = bytearray((run / name).read_bytes())
    whole[len(whole) // 2] ^= 1
    (run / name).write_bytes(whole)
    said = resume(run)
    assert re.search(rf"^warning: .*{name}.*again", said, re.MULTILINE)
    assert_same_end(run, finished)


# -- what may not be read


@pytest.fixture
def private(finished: Path) -> Iterator[Path]:
    """A copy of ``finished`` in a folder ``private``, owned by a user who is not root."""
    with tempfile.TemporaryDirectory() as folder:  # unlike tmp_path, others than root may enter it
        Path(folder).chmod(0o755)
        parent = Path(folder) / "private"
        parent.mkdir()
        shutil.copytree(finished, parent / "run")
        if os.geteuid() == 0:
            for path in (parent, *parent.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
        yield parent / "run"
        for path in (parent, parent / "run", store_of(parent / "run").folder):
            path.chmod(0o700)


# Imports first: the user may not be allowed to.
AS_NOBODY = f"""
import json
import os
import sys

from distcnn import train, verify
from distcnn.errors import InputError
from distcnn.interop import read_foreign
from distcnn.report.__main__ import main as report

if os.getuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
run = sys.argv[1]
if "reports" in sys.argv:
    print(json.dumps([report([run]), report(["--trace", run + "/trace.json"])]))
    try:
        read_foreign(run)
    except InputError as error:
        sys.exit(str(error))
commands = [train.main(["--resume", run, *flags]) for flags in ([], ["--epochs", "4"], ["--break-at-step", "5"])]
print(json.dumps([*commands, verify.main([run, "--from-step", "5"])]))
"""  # noqa: E501


def as_nobody(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env=clean_environment(),
    )


@pytest.mark.parametrize("closed", ["run", "run/checkpoints", "."])
def test_a_folder_that_may_not_be_read_is_bad_input(closed: str, private: Path) -> None:
    before = content(private)
    folder = private.parent / closed
    folder.chmod(0)
    done = as_nobody(private)
    folder.chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [2, 2, 2, 2]
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert all(str(private) in line for line in lines)
    assert content(private) == before


@pytest.mark.parametrize("closed", ["run", "."])
def test_reports_and_initial_weights_refuse_it_too(closed: str, private: Path) -> None:
    folder = private.parent / closed
    folder.chmod(0)
    done = as_nobody(private, "reports")
    assert (done.returncode, json.loads(done.stdout)) == (1, [2, 2]), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert all(str(private) in line for line in lines)

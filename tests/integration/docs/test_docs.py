"""README and docs: commands, flags, links and code in them work."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from distcnn.__main__ import COMMANDS
from tests.conftest import ROOT, SERIAL, MakeImageSet

PAGES = [
    *(ROOT / "README.md", ROOT / "data/README.md", ROOT / "launch/README.md"),
    *sorted((ROOT / "docs").glob("*.md")),
]
GUIDE = ROOT / "docs/own_code.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"python3? (-m distcnn\.\w+|data/\w+\.py)(.*)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)[^)]*\)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
OF_OTHERS = ("--mpi", "--nodes", "--kill-on-bad-exit", "--tag-output", "--all")
"""Flags of srun, mpirun and launch/test.sh."""
BY_OTHERS = re.compile(r"\b(?:srun|sbatch|qsub|mpirun|pip|pytest|git|tensorboard|launch/\w+\.sh)\b[^`]*")
"""Text in backquotes that names the flags of other programs."""

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCE.findall(page.read_text()) if found == language]


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The commands of distcnn in ``page``: the module or script, and its arguments."""
    for block in blocks(page, ""):
        for line in block.replace("\\\n", " ").splitlines():
            if found := COMMAND.search(line):
                arguments = re.sub(r"\[.*?\]", "", found[2])
                yield found[1], shlex.split(arguments, comments=True)


@cache
def help_of(command: str) -> str:
    done = SERIAL.run(1, *command.split(), "--help")
    assert done.returncode == 0, done.stderr
    return done.stdout


def flags_of(command: str) -> set[str]:
    return set(FLAG.findall(help_of(command)))


@pytest.mark.slow
@pages
def test_commands_and_their_flags_exist(page: Path) -> None:
    for command, arguments in commands(page):
        flags = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
        known = flags_of(command) | flags_of("-m distcnn.train")
        assert flags <= known, f"{page.name}: {command} has no {flags - known}"


@pytest.mark.slow
@pages
def test_flags_in_the_text_exist(page: Path) -> None:
    if page.parent.name == "launch":
        pytest.skip("it names many flags of launchers and schedulers")
    scripts = [f"data/{path.name}" for path in (ROOT / "data").glob("*.py")]
    known = {"--help", *OF_OTHERS}.union(
        *map(flags_of, [*(f"-m distcnn.{name}" for name in COMMANDS), *scripts])
    )
    for quoted in re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text())):
        unknown = set(FLAG.findall(BY_OTHERS.sub("", quoted))) - known
        assert not unknown, f"{page.name}: no command has {unknown} (`{quoted}`)"


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pages
def test_python_blocks_compile(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


def test_readme_fits_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


@pytest.fixture(scope="module")
def guide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the guide's code in ``my_code.py``."""
    folder = tmp_path_factory.mktemp("guide")
    (folder / "my_code.py").write_text("\n\n".join(blocks(GUIDE, "python")))
    return folder


def test_the_guides_layers_pass_its_gradient_check(guide_folder: Path) -> None:
    done = SERIAL.run(
        1, "-c", "import my_code; my_code.check()", PYTHONPATH=f"{guide_folder}:{ROOT}"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [words for _, words in commands(GUIDE)], ids=" ".join)
def test_the_guides_commands_run(
    guide_folder: Path, image_set: MakeImageSet, tmp_path: Path, arguments: list[str]
) -> None:
    small = ["--data", str(image_set()), "--max-steps", "3", "--output", str(tmp_path / "run")]
    done = SERIAL.run(
        1, "-m", "distcnn.train", *arguments, *small, PYTHONPATH=f"{guide_folder}:{ROOT}"
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_readmes_python_runs(image_set: MakeImageSet, tmp_path: Path) -> None:
    [code] = blocks(ROOT / "README.md", "python")
    code = code.replace("data/mnist.h5", str(image_set())).replace("runs", str(tmp_path))
    done = SERIAL.run(1, "-c", code)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()[-1].split()) == 10, done.stdout  # five classes, five labels

"""The documentation is true: its commands and programs run, and print what the pages show.

``tests/support/doc_pages.py`` says how a page marks a block that is not run;
``python -m tests.support.doc_pages`` lists all blocks.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from distcnn.__main__ import COMMANDS
from distcnn.datasets import Split, write_dataset
from tests.conftest import ROOT, SERIAL, clean_environment, mpi_launcher
from tests.support.doc_pages import (
    PAGES,
    REASONS,
    RUN,
    Block,
    PageError,
    Reader,
    blocks_of,
    checkout,
    difference_in_form,
)

COMMAND = re.compile(r"(?:python3? -m distcnn\.|distcnn )([a-z_.]+)(.*)")
TYPED = re.compile(r"^(\$|python3?|mpirun|distcnn|pip|sbatch|srun|qsub|\./\w)\s", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
OF_OTHERS = ("--mpi", "--nodes", "--kill-on-bad-exit", "--tag-output", "--all", "--help")
"""Flags of srun, mpirun and launch/test.sh."""
BY_OTHERS = re.compile(
    r"\b(?:srun|sbatch|qsub|mpirun|pip|pytest|git|tensorboard|launch/\w+\.sh)\b[^`]*"
)
"""Text in backquotes that names the flags of other programs."""

BLOCKS = {page: blocks_of(page) for page in PAGES}
GUIDES = sorted((ROOT / "docs").glob("*.md"))


def pages(*chosen: Path) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "page", chosen or PAGES, ids=lambda page: str(page.relative_to(ROOT))
    )


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of MNIST's layout and name: a bright square for each class, and some wrong labels, so
    that a network makes mistakes.
    """
    rng = np.random.default_rng(0)
    splits = {}
    for split, count in (("train", 1000), ("test", 200)):
        labels = rng.integers(0, 10, count)
        images = rng.integers(0, 100, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 4)
            image[row * 6 : row * 6 + 6, column * 6 : column * 6 + 6] = 255
        wrong = rng.random(count) < 0.1
        labels[wrong] = rng.integers(0, 10, wrong.sum())
        splits[split] = Split(count, [(images, labels)])
    path = tmp_path_factory.mktemp("digits") / "mnist.h5"
    write_dataset(path, name="mnist", source="made by a test", classes=10, splits=splits)
    return path


@pytest.mark.mpi
@pages(*(page for page in PAGES if any(block.is_run for block in BLOCKS[page])))
def test_a_page_does_what_it_says(
    page: Path, tmp_path: Path, digits: Path, request: pytest.FixtureRequest
) -> None:
    """In a fresh checkout; with its slow blocks unless slow tests are left out."""
    if any("mpirun" in block.text for block in BLOCKS[page]):
        mpi_launcher()
    slow = "not slow" not in request.config.getoption("markexpr")
    checkout(tmp_path, digits)
    reader = Reader(tmp_path, clean_environment())
    for block in BLOCKS[page]:
        if slow or not block.is_slow:
            reader.follow(block)


@pages()
def test_a_block_is_run_or_says_why_not(page: Path) -> None:
    for block in BLOCKS[page]:
        assert block.language, f"{block}: no language (sh, console, python, text ...)"
        if block.language not in RUN:
            assert block.marked("file") or block.language == "text", f"{block}: in which file?"
            assert not TYPED.search(block.text), f"{block}: 'text' has commands"
        if block.mark:
            known = ("not run: ", "slow", "file: ", "exit code ")
            assert block.mark.startswith(known), f"{block}: unknown mark {block.mark!r}"
        if (reason := block.marked("not run")) is not None:
            assert reason.startswith(REASONS), f"{block}: {reason!r} is not one of {REASONS}"
        if block.language == "console":
            assert block.commands, f"{block}: no command"


@pages()
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        found = page.parent / target if target else page
        assert found.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = HEADING.findall(found.read_text())
            anchors = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in anchors, f"{page.name}: {target or 'it'} has no #{anchor}"


@pages(*GUIDES)
def test_the_index_leads_to_a_page(page: Path) -> None:
    index = ROOT / "docs" / "README.md"
    linked = [target for target, _ in LINK.findall(index.read_text())]
    assert page == index or page.name in linked


@pages(*GUIDES)
def test_a_page_is_short(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= 200


def test_readme_fits_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


@cache
def flags_of(command: str) -> set[str]:
    done = SERIAL.run(1, *command.split(), "--help")
    assert done.returncode == 0, done.stderr
    return set(FLAG.findall(done.stdout))


def commands_not_run(page: Path) -> Iterator[tuple[Block, str, str]]:
    """The commands of distcnn that no test runs: name and arguments."""
    for block in BLOCKS[page]:
        if block.marked("not run") is not None and block.language in ("sh", "console"):
            for command, _ in block.commands:
                if found := COMMAND.search(command):
                    yield block, found[1], found[2]


@pytest.mark.slow
@pages(*(page for page in PAGES if any(commands_not_run(page))))
def test_flags_of_commands_that_are_not_run_exist(page: Path) -> None:
    for block, name, arguments in commands_not_run(page):
        words = shlex.split(arguments, comments=True)
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        known = flags_of(f"-m distcnn.{name}") | flags_of("-m distcnn.train")
        assert flags <= known, f"{block}: {name} has no {flags - known}"


@pytest.mark.slow
@pages(ROOT / "README.md", *(p for p in GUIDES if p.name not in ("cluster.md", "compared.md")))
def test_flags_in_the_text_exist(page: Path) -> None:
    scripts = ["-m tests.machines", *(f"data/{p.name}" for p in (ROOT / "data").glob("*.py"))]
    known = set(OF_OTHERS).union(
        *map(flags_of, [*(f"-m distcnn.{name}" for name in COMMANDS), *scripts])
    )
    for quoted in re.findall(r"`([^`\n]+)`", FENCED.sub("", page.read_text())):
        unknown = set(FLAG.findall(BY_OTHERS.sub("", quoted))) - known
        assert not unknown, f"{page.name}: no command has {unknown} (`{quoted}`)"


def block(language: str, text: str, mark: str = "") -> Block:
    return Block(ROOT / "README.md", 1, language, text, mark)


def test_the_reader_notices_what_is_not_true(tmp_path: Path) -> None:
    reader = Reader(tmp_path, clean_environment())
    reader.follow(block("console", "$ echo 3 files in 0.2 s\n12 files in 1.5 s\n"))
    reader.follow(block("console", "$ seq 9 && echo end\n1\n...\nend\n"))
    reader.follow(block("sh", "false\n", "exit code 1"))
    reader.follow(block("sh", "false\n", "not run: takes minutes"))
    reader.follow(block("python", "value = 3\n", "file: mine.py"))
    reader.follow(block("python", "import mine\n"))
    for wrong in (
        block("console", "$ echo 3 files\n3 folders\n"),
        block("console", "$ echo 3 files\n"),
        block("console", "$ true\n3 files\n"),
        block("console", "$ printf 'a\\nb\\n'\nb\n...\na\n"),
        block("sh", "false\ntrue\n"),
        block("sh", "false | true\n"),
        block("python", "import nothing_of_this_name\n"),
    ):
        with pytest.raises(PageError):
            reader.follow(wrong)


def test_blocks_are_found_with_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("A:\n```sh\nls\n```\n- b:\n  <!-- slow -->\n  ```sh\n  ls\n  pwd\n  ```\n")
    first, second = blocks_of(page)
    assert (first.language, first.text, first.mark, first.line) == ("sh", "ls\n", "", 2)
    assert (second.text, second.mark, second.line) == ("ls\npwd\n", "slow", 7)


def test_numbers_and_hardware_do_not_count_in_a_comparison() -> None:
    shown = "ranks 2 (MPICH 5.0.2), 1 BLAS thread each (openblas 0.3.31 SkylakeX)"
    printed = "ranks  4 (MPICH 4.2), 1 BLAS thread each (openblas 0.3.29 Zen)"
    assert not difference_in_form(shown, printed)
    assert difference_in_form(shown, printed.replace("thread", "core"))

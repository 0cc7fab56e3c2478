"""Pages of documentation: their blocks of code, and running them as a reader would.

``python -m tests.support.doc_pages`` lists every block, and why some are not run. A block says in
its fence what it is:

- ``sh``: commands, run by bash. The first that fails, fails the block.
- ``console``: commands after ``$ ``, each with the output that it printed. It must have the same
  form again; numbers may differ, and a line ``...`` stands for lines that were left out.
- ``python``: a program, run by itself.
- ``text``: no commands. Any other language (``toml``) belongs to a file.

An HTML comment on the line before the fence changes that:

- ``<!-- not run: REASON -->``: the reason begins with one of ``REASONS``.
- ``<!-- slow -->``: run only with the slow tests.
- ``<!-- slow, with FLAGS -->``: the same, and a test adds these flags to each command, so that it
  takes less time.
- ``<!-- file: NAME -->``: not run, but added to the file NAME, which later blocks use.
- ``<!-- exit code N -->``: the last command ends with N.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("", "docs", "data", "launch", "examples", "benchmarks", "tests")
PAGES = [
    page
    for folder in FOLDERS
    for page in sorted((ROOT / folder).glob("*.md"))
    if page.name != "CHANGELOG.md"
]
RUN = ("sh", "console", "python")
REASONS = (
    "needs a network",
    "needs a cluster",
    "needs several hosts",
    "needs root",
    "needs PyTorch",
    "asks for input",
    "takes minutes",
    "runs the tests",
    "an outline",
)
BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<mark>[^\n]*) -->\n\n?[ ]*)?```(?P<language>\w*)\n"
    r"(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
PROMPT = "$ "
NOT_COMPARED = re.compile(r"openblas \S+ \w+|\b(AMD|Intel)[^,]*| +\S+ s left$")
"""Beside numbers: hardware, and what a short run does not print."""
SECONDS = 300


class PageError(AssertionError):
    """A block that is not as its page says."""


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, text, and the mark in the comment before it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def marked(self, name: str) -> str | None:
        """What follows ``name`` in the mark; None if it is another mark."""
        return self.mark.removeprefix(name).strip(" :") if self.mark.startswith(name) else None

    @property
    def is_slow(self) -> bool:
        return self.mark.startswith("slow")

    @property
    def added(self) -> str:
        """The flags that a test adds to each command."""
        return self.marked("slow, with") or ""

    @property
    def is_run(self) -> bool:
        return self.language in RUN and self.marked("not run") is None

    @property
    def commands(self) -> list[tuple[str, str]]:
        """The commands of a ``console`` or ``sh`` block, each with the output that is shown."""
        found: list[tuple[str, str]] = []
        if self.language == "sh":
            lines = self.text.replace("\\\n", " ").splitlines()
            return [(self._lengthened(line), "") for line in lines if line and line[0] != "#"]
        for line in self.text.replace("\\\n", " ").splitlines(keepends=True):
            if line.startswith(PROMPT):
                found.append((self._lengthened(line.removeprefix(PROMPT)), ""))
            elif found:
                found[-1] = found[-1][0], found[-1][1] + line
            else:
                raise PageError(f"{self}: output without a command")
        return found

    @property
    def script(self) -> str:
        """The text of a ``sh`` block as it is run."""
        if not self.added:
            return self.text
        return "\n".join(command for command, _ in self.commands)

    def _lengthened(self, line: str) -> str:
        """A command with the flags that are added."""
        return f"{line.partition('  # ')[0].strip()} {self.added}".strip()


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of ``page``."""
    text = page.read_text()
    found = []
    for match in BLOCK.finditer(text):
        indent = match["indent"]
        inner = re.sub(rf"^{indent}", "", match["text"], flags=re.MULTILINE)
        line = text.count("\n", 0, match.start("language")) + 1
        found.append(Block(page, line, match["language"], inner, match["mark"] or ""))
    return found


def checkout(folder: Path, image_set: Path) -> None:
    """Make ``folder`` look like a fresh clone in which ``data/mnist.h5`` is ``image_set``."""
    for name in ("distcnn", "tests", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("benchmarks", "docs", "examples", "launch"):  # their scripts write beside them
        shutil.copytree(ROOT / name, folder / name)
    (folder / "data").mkdir()
    for script in (ROOT / "data").glob("*.py"):
        (folder / "data" / script.name).symlink_to(script)
    shutil.copy(image_set, folder / "data" / "mnist.h5")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()  # this environment is active already


class Reader:
    """Someone who types what a page says, in one folder from the first block to the last."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        programs = Path(sys.executable).parent
        self._folder = folder
        self._environment = {
            **environment,
            "PATH": f"{programs}{os.pathsep}{environment.get('PATH', os.defpath)}",
            "VIRTUAL_ENV": sys.prefix,
            "PIP_NO_INDEX": "1",
            "DISTCNN_MNIST_MIRRORS": "http://127.0.0.1:9/",
            "MPLBACKEND": "agg",
        }

    def follow(self, block: Block) -> None:
        """Do what ``block`` says.

        Raises:
            PageError: A command failed, or what it printed has another form than what is shown.
        """
        if (name := block.marked("file")) is not None:
            with (self._folder / name).open("a") as file:
                file.write(f"{block.text}\n")
        elif not block.is_run:
            return
        elif block.language == "python":
            (self._folder / "block.py").write_text(block.text)
            self._run(block, [sys.executable, "block.py"])
        elif block.language == "sh":
            trace = "trap 'echo \"failed: $BASH_COMMAND\" >&2' ERR\n"
            self._run(block, ["bash", "-euo", "pipefail", "-c", trace + block.script])
        else:
            for command, shown in block.commands:
                printed = self._run(block, ["bash", "-uo", "pipefail", "-c", command])
                if difference := difference_in_form(shown, printed):
                    raise PageError(f"{block}: $ {command}\n{difference}\nIt printed:\n{printed}")

    def _run(self, block: Block, command: list[str]) -> str:
        with subprocess.Popen(
            command,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                printed, _ = process.communicate(timeout=SECONDS)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        expected = int(block.marked("exit code") or 0)
        if process.returncode != expected:
            text = block.text if block.language == "python" else command[-1]
            raise PageError(
                f"{block}: exit code {process.returncode}, not {expected}\n{text}\n{printed}"
            )
        return printed


def difference_in_form(shown: str, printed: str) -> str:
    """What is in ``shown`` and not in ``printed``, or the reverse, apart from numbers; "" if
    nothing.

    Lines of the same form count once: how many there are depends on the data.
    """
    expected, found = forms(shown), forms(printed)
    if "..." not in expected and expected != found:
        missing = [f"- {line}" for line in expected if line not in found]
        new = [f"+ {line}" for line in found if line not in expected]
        new = [line for line in new if not line.startswith("+ warning: ")]  # the set is tiny
        return "\n".join(missing + new)
    remaining = iter(found)
    for line in expected:
        if line != "..." and line not in remaining:
            return f"- {line}  (missing, or in another order)"
    return ""


def forms(text: str) -> list[str]:
    """The lines of ``text``, each form once: without numbers, plural endings and spacing."""
    found = {}
    for line in text.splitlines():
        line = NOT_COMPARED.sub("", line)
        words = [re.sub(r"e?s([,.:)]*)$", r"\1", word) for word in line.split()]
        words = ["#" if re.search(r"\d|^nan\b|^\.$", word) else word for word in words]
        found[" ".join(words)] = None
    return [line for line in found if line]


def listing() -> Iterator[str]:
    """A line for each block of each page: where it is, and what is done with it."""
    for page in PAGES:
        for block in blocks_of(page):
            done = block.mark or ("run" if block.is_run else "shown")
            yield f"{block!s:<32} {block.language or '-':<8} {done}"


if __name__ == "__main__":
    print("\n".join(listing()))

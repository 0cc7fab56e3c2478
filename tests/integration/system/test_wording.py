"""A shell reads quoted words back."""

from __future__ import annotations

import subprocess

import pytest

from distcnn.system.wording import shell_word


@pytest.mark.parametrize(
    "word", ["plain", "with blank", "it's", "a\nb", "tab\t'\\", "caf\udce9", "\x1b[2J é", "wörld"]
)
def test_a_shell_reads_a_word_back(word: str) -> None:
    written = shell_word(word)
    assert written.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {written}"], capture_output=True, check=True)
    assert done.stdout.decode(errors="surrogateescape") == word

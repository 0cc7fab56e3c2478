"""The exit code that a rank chose, for the script that started the launcher: srun changes it when
it ends the other ranks.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

NOTE_VARIABLE = "DISTCNN_EXIT_NOTE"
"""A file that is not there yet, where the first rank to end notes its code."""


def note_exit(code: int) -> None:
    """Note it, where a file is named and nobody has.

    One that cannot be written is let be: the launcher's code is left.
    """
    name = os.environ.get(NOTE_VARIABLE)
    if name:
        with suppress(OSError), Path(name).open("x") as file:
            file.write(f"{code}\n")

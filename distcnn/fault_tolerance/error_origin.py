"""Exceptions that are no defects: mistakes in a user's own module (which file, which line, what),
limits of the system.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from types import FrameType

PACKAGE = Path(__file__).parent.parent
OF_MPI = "mpi4py.MPI"
NOT_THE_USERS = {
    *sys.stdlib_module_names,
    "distcnn",
    "numpy",
    "h5py",
    "mpi4py",
    "threadpoolctl",
    "tqdm",
    "tomli_w",
} - {"__main__"}
"""Packages whose frames say nothing to the author of a model."""

THREAD_LIMIT = (
    "no more threads can be started: raise the limit on processes (ulimit -u, or pids.max of a"
    " container)"
)


def is_thread_limit(error: BaseException) -> bool:
    """Whether the system refused this process one more thread."""
    return isinstance(error, RuntimeError) and str(error) in (
        "can't start new thread",
        "unable to start watchdog thread",
    )


def mistake_in(error: BaseException) -> str | None:
    """ "mine.py, line 12, in network: NameError: name 'x' is not defined"; None where no code of
    the user's was running.
    """
    if isinstance(error, SyntaxError) and error.filename and not _is_library(Path(error.filename)):
        return f"{_shown(error.filename)}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = own_frames(error)
    return f"{_place(frames[-1])}: {described(error)}" if frames else None


def mistake_lines(error: BaseException) -> list[str]:
    """A line for each call of the user's code, the innermost last, with its source; then the error.

    Empty where there is no such code.
    """
    frames = own_frames(error)
    return (
        [*(f"  {_place(each)}: {each.line}" for each in frames), described(error)] if frames else []
    )


def described(error: BaseException) -> str:
    """Type and text, as at the end of a traceback."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of ``error``'s traceback that run code of the user's, the innermost last; none
    where MPI itself failed.
    """
    if type(error).__module__ == OF_MPI:
        return []
    walked = list(traceback.walk_tb(error.__traceback__))
    own = [_is_own(frame) for frame, _ in walked]
    return [
        each
        for each, is_own in zip(traceback.extract_tb(error.__traceback__), own, strict=True)
        if is_own
    ]


def _is_own(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package not in NOT_THE_USERS and not Path(frame.f_code.co_filename).is_relative_to(
        PACKAGE
    )


def _is_library(file: Path) -> bool:
    return file.is_relative_to(PACKAGE) or file.is_relative_to(Path(os.__file__).parent)


def _place(frame: traceback.FrameSummary) -> str:
    function = "" if frame.name == "<module>" else f", in {frame.name}"
    return f"{_shown(frame.filename)}, line {frame.lineno}{function}"


def _shown(file: str) -> str:
    """A path as one would type it here."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (OSError, ValueError):
        return file

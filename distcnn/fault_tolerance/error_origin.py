"""Where an exception comes from: the user's module, distcnn or a limit of the system."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from types import FrameType

from distcnn.errors import ArgumentError

PACKAGE = Path(__file__).parent.parent
OF_MPI = "mpi4py.MPI"
NOT_THE_USERS = {
    *sys.stdlib_module_names,
    *("distcnn", "numpy", "h5py", "mpi4py", "threadpoolctl", "tqdm", "tomli_w"),
} - {"__main__"}
"""Packages whose frames do not help the author of a model."""

THREAD_LIMIT = (
    "no more threads can be started: raise the limit on processes (ulimit -u, or pids.max of a"
    " container)"
)


def is_thread_limit(error: BaseException) -> bool:
    """Whether the system refused to start another thread."""
    return isinstance(error, RuntimeError) and str(error) in (
        "can't start new thread",
        "unable to start watchdog thread",
    )


def mistake_in(error: BaseException) -> str | None:
    """Locate an error in the user's code.

    Returns:
        As in "mine.py, line 12, in network: NameError: name 'x' is not defined"; None if none of
        the user's code was running.
    """
    if isinstance(error, SyntaxError) and error.filename and not _is_library(Path(error.filename)):
        return f"{_shown(error.filename)}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = own_frames(error)
    return f"{_place(frames[-1])}: {described(error)}" if frames else None


def mistake_lines(error: BaseException) -> list[str]:
    """List the calls in the user's code with their source, the innermost last, then the error.

    No calls if a check of the user's code failed. Empty if none of the user's code was running.
    """
    frames = own_frames(error)
    if not frames:
        return [str(error)] if isinstance(error, ArgumentError) else []
    return [*(f"  {_place(frame)}: {frame.line}" for frame in frames), described(error)]


def described(error: BaseException) -> str:
    """Type and text, as at the end of a traceback."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of the traceback that run the user's code, the innermost last.

    Empty if MPI itself failed.
    """
    if type(error).__module__ == OF_MPI:
        return []
    walked = traceback.walk_tb(error.__traceback__)
    summaries = traceback.extract_tb(error.__traceback__)
    pairs = zip(summaries, walked, strict=True)
    return [summary for summary, (frame, _) in pairs if _is_own(frame)]


def _is_own(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    file = Path(frame.f_code.co_filename)
    return package not in NOT_THE_USERS and not file.is_relative_to(PACKAGE)


def _is_library(file: Path) -> bool:
    return file.is_relative_to(PACKAGE) or file.is_relative_to(Path(os.__file__).parent)


def _place(frame: traceback.FrameSummary) -> str:
    function = "" if frame.name == "<module>" else f", in {frame.name}"
    return f"{_shown(frame.filename)}, line {frame.lineno}{function}"


def _shown(file: str) -> str:
    """A path relative to the current folder if it is inside."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (OSError, ValueError):
        return file

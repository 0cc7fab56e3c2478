"""Report an exception once, however many ranks it struck, with rank, host, step and origin: the
user's module, distcnn or a limit of the system.

An exception in the user's own module is shown with the lines of that module only; any other is a
defect of distcnn and is shown with its traceback.
"""

import os
import sys
import time
import traceback
from pathlib import Path

from distcnn.distributed import Communicator
from distcnn.errors import ArgumentError, InputError
from distcnn.fault_tolerance.heartbeat import heartbeat
from distcnn.fault_tolerance.host_election import claim
from distcnn.system.console import tell
from distcnn.system.wording import printable

SECONDS_BETWEEN_HOSTS, MOST_HOSTS_WAITED_FOR = 0.8, 3
"""Each host elects a reporter. It waits for those of the hosts before it, which end all ranks."""
PACKAGE, LIBRARY = Path(__file__).parent.parent, Path(os.__file__).parent
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


def report_failure(name: str, communicator: Communicator, error: BaseException) -> None:
    """Print ``error`` on one of the ranks that fail at the same time; the others wait."""
    if not claim(f"failure-{communicator.job}"):
        # the reporter ends this process long before
        time.sleep(SECONDS_BETWEEN_HOSTS * (MOST_HOSTS_WAITED_FOR + 1))
    rank, world_size, hosts = communicator.rank, communicator.world_size, communicator.hosts
    place = list(dict.fromkeys(hosts)).index(hosts[rank])
    time.sleep(SECONDS_BETWEEN_HOSTS * min(place, MOST_HOSTS_WAITED_FOR))
    where = (
        f"rank {rank} of {world_size} failed on host {hosts[rank]} (process {os.getpid()}),"
        f" {heartbeat.read().text()}"
    )
    if isinstance(error, InputError):
        on_rank = f" (on rank {rank})" if world_size > 1 else ""
        tell(f"{name}: error: {printable(str(error))}{on_rank}")
    elif is_thread_limit(error):
        tell(f"{name}: error: {where}: {THREAD_LIMIT}")
    else:
        told = "\n".join(mistake_lines(error)) or "".join(traceback.format_exception(error))
        tell(f"{name}: {where}:\n{told.rstrip()}")


def is_thread_limit(error: BaseException) -> bool:
    """Whether the system refused to start another thread."""
    texts = ("can't start new thread", "unable to start watchdog thread")
    return isinstance(error, RuntimeError) and str(error) in texts


def mistake_in(error: BaseException) -> str | None:
    """What failed in the user's code, as in "mine.py, line 12, in network: NameError: name 'x' is
    not defined"; None if none of it was running.
    """
    if isinstance(error, SyntaxError) and error.filename:
        file = Path(error.filename)
        if not file.is_relative_to(PACKAGE) and not file.is_relative_to(LIBRARY):
            line = f"line {error.lineno}: {type(error).__name__}: {error.msg}"
            return f"{relative(error.filename)}, {line}"
    frames = _frames_of_user(error)
    return f"{_place(frames[-1])}: {described(error)}" if frames else None


def mistake_lines(error: BaseException) -> list[str]:
    """The calls in the user's code with their source, the innermost last, then the error. Empty if
    there was none.
    """
    frames = _frames_of_user(error)
    if not frames:
        return [str(error)] if isinstance(error, ArgumentError) else []
    return [*(f"  {_place(frame)}: {frame.line}" for frame in frames), described(error)]


def described(error: BaseException) -> str:
    """Type and text, as at the end of a traceback."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _frames_of_user(error: BaseException) -> list[traceback.FrameSummary]:
    """Frames that run the user's code, the innermost last; none if MPI itself failed."""
    if type(error).__module__ == OF_MPI:
        return []
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    summaries = traceback.extract_tb(error.__traceback__)
    packages = [str(each.f_globals.get("__name__", "")).partition(".")[0] for each in frames]
    return [
        summary
        for summary, package in zip(summaries, packages, strict=True)
        if package not in NOT_THE_USERS and PACKAGE not in Path(summary.filename).parents
    ]


def _place(frame: traceback.FrameSummary) -> str:
    function = "" if frame.name == "<module>" else f", in {frame.name}"
    return f"{relative(frame.filename)}, line {frame.lineno}{function}"


def relative(file: str) -> str:
    """A path relative to the current folder if it is inside."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (OSError, ValueError):
        return file

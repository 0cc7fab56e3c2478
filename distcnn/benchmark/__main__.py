"""Where the time goes: ``python -m distcnn.benchmark``, or under ``mpirun -n 2``.

``docs/speed.md`` says what each line means.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn.benchmark.memory_use import resident_bytes
from distcnn.benchmark.options import Request, make_parser, parse
from distcnn.benchmark.peer import open_peer
from distcnn.benchmark.plot import draw
from distcnn.benchmark.results import Results, read_results, results_of, write_results
from distcnn.benchmark.session import Session
from distcnn.benchmark.table import table
from distcnn.cli.command import run_command
from distcnn.distributed import Communicator, on_root
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.plotting import require_matplotlib
from distcnn.training.progress import NoProgress, Progress
from distcnn.training.setup import prepare_run

NAME = "distcnn.benchmark"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_command(NAME, lambda: make_parser().print_help(), benchmark_command, arguments)


def benchmark_command(communicator: Communicator, arguments: Sequence[str]) -> None:
    """Parse, measure or read what was measured, print and draw."""
    progress = Progress() if communicator.rank == 0 else NoProgress()
    request = on_root(communicator, lambda: parse(arguments, communicator.world_size))
    if request.picture:
        on_root(communicator, require_matplotlib)
    if request.draw:
        on_root(
            communicator,
            lambda: draw([read_results(path) for path in request.draw], request.picture),
        )
    else:
        results = measure(request, communicator, progress)
        progress.say(*table(results).split("\n"))
        if request.json:
            on_root(communicator, lambda: write_results(request.json, results))
            progress.say(f"measurement in {request.json}")
        if request.picture:
            on_root(communicator, lambda: draw([results], request.picture))
    if request.picture:
        progress.say(f"picture in {request.picture}")


def measure(request: Request, communicator: Communicator, progress: Progress) -> Results:
    """All turns, on all ranks."""
    at_start = resident_bytes()
    with Watchdog(NAME, communicator, request.config.stall_timeout):
        peer = open_peer(request.peer, request.config, communicator)
        run = prepare_run(request.config, communicator, progress.say)
        if peer:
            peer.prepare(run)
        session = Session(run, request.steps, at_start)
        for _ in range(request.turns):
            session.turn(peer.turn if peer else None)
        return results_of(run, session, request.steps)


if __name__ == "__main__":
    sys.exit(main())

"""What every command needs to run on all ranks: open the communicator, end all ranks together with
one message, and return the right exit code.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from distcnn.cli.parser import difference, flags_of
from distcnn.cli.rank_warnings import RankWarnings
from distcnn.distributed import Communicator, on_root, open_communicator
from distcnn.distributed.blas_threads import limit_blas_threads
from distcnn.distributed.communicator import JointError, NoWorldError, note_exit
from distcnn.errors import InputError, Stopped, TrainingError
from distcnn.fault_tolerance.early import end_before_start
from distcnn.fault_tolerance.failure import OF_MPI, is_thread_limit, report_failure
from distcnn.fault_tolerance.heartbeat import heartbeat
from distcnn.fault_tolerance.leftovers import clean_before_start
from distcnn.fault_tolerance.orphan import end_with_launcher, killed_with_launcher
from distcnn.fault_tolerance.signals import EXIT_INTERRUPTED
from distcnn.fault_tolerance.watchdog import EXIT_STALLED
from distcnn.system import launcher
from distcnn.system.console import drain, enable_crash_reports, guarded, tell
from distcnn.system.wording import printable

EXIT_OK, EXIT_DEFECT, EXIT_INPUT, EXIT_TRAINING, EXIT_STOPPED = 0, 1, 2, 3, 85
"""Success; a defect of distcnn, with a traceback; bad input; training cannot continue; stopped by a
signal and resumable.

``distcnn.fault_tolerance`` has 4, for stalls and MPI errors, and 130, for a second Ctrl-C.
"""

Work = Callable[[Communicator, Sequence[str]], int | None]


@guarded()
def run_command(
    name: str,
    make_parser: Callable[[], argparse.ArgumentParser],
    work: Work,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a command on this rank; returns the exit code, the same on all ranks.

    An error that all ranks share is printed by rank 0, and they end together. Any other exception
    on any rank ends all ranks at once. ``work`` may return an exit code. ``arguments`` are by
    default those of the process.
    """
    arguments = sys.argv[1:] if arguments is None else arguments

    def print_help() -> None:
        make_parser().print_help()

    wants_help = not {"-h", "--help"}.isdisjoint(arguments)
    if wants_help and not launcher.needs_mpi(os.environ):
        print_help()
        return EXIT_OK

    def help_on_root(communicator: Communicator, arguments: Sequence[str]) -> None:
        on_root(communicator, print_help)
        communicator.barrier()  # a launcher may end all ranks when the first one leaves

    with heartbeat.listening():
        code = _start(name, help_on_root if wants_help else work, arguments)
    note_exit(code)
    return code


def _start(name: str, work: Work, arguments: Sequence[str]) -> int:
    """Open the communicator and run the command on it."""
    limit_blas_threads()
    enable_crash_reports()
    end_with_launcher(name)
    clean_before_start()
    try:
        with killed_with_launcher():
            communicator = open_communicator()
    except InputError as error:
        note_exit(EXIT_INPUT)
        text = f"{name}: error: {printable(str(error))}"
        end_before_start(text, others_wait=not isinstance(error, NoWorldError))
        return EXIT_INPUT
    return run_on(communicator, name, work, arguments)


def run_on(
    communicator: Communicator,
    name: str,
    work: Work,
    arguments: Sequence[str],
    end_all: Callable[[int], NoReturn] | None = None,
) -> int:
    """Run a command on an open communicator; refuse ranks that have different command lines.

    ``end_all`` ends all ranks with an exit code; by default, ``communicator.abort``.
    """
    end_all = end_all or communicator.abort

    def fail(error: BaseException) -> NoReturn:
        report_failure(name, communicator, error)
        if isinstance(error, InputError) or is_thread_limit(error):
            end_all(EXIT_INPUT)
        # an MPI error: another rank, its host or the network is gone
        end_all(EXIT_STALLED if type(error).__module__ == OF_MPI else EXIT_DEFECT)

    threading.excepthook = lambda args: fail(args.exc_value or args.exc_type())
    try:
        problem = difference(communicator.allgather(flags_of(name, arguments)))
        if problem:
            raise JointError(f"{problem}: start all ranks with the same command")
        with RankWarnings(communicator):
            return work(communicator, arguments) or EXIT_OK
    except (JointError, TrainingError, Stopped) as error:
        if communicator.rank == 0:
            text = printable(str(error)) if isinstance(error, JointError) else str(error)
            tell(f"{name}: {'' if isinstance(error, Stopped) else 'error: '}{text}")
            drain()
        # a launcher may end all ranks when the first one leaves: not before this was printed
        communicator.barrier()
        if isinstance(error, Stopped):
            return EXIT_STOPPED
        return EXIT_TRAINING if isinstance(error, TrainingError) else EXIT_INPUT
    except KeyboardInterrupt:
        end_all(EXIT_INTERRUPTED)
    except BaseException as error:
        fail(error)
    finally:
        threading.excepthook = threading.__excepthook__

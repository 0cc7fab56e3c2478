"""What every command needs to run on all ranks: open the communicator, end all ranks together with
one message, and return the right exit code.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from distcnn.cli.parser import difference, flags_of
from distcnn.distributed import Communicator, open_communicator
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

HELP = {"-h", "--help"}
Work = Callable[[Communicator, Sequence[str]], int | None]


@guarded()
def run_command(
    name: str, print_help: Callable[[], None], work: Work, arguments: Sequence[str]
) -> int:
    """Run a command on this rank.

    An error that all ranks share is printed by rank 0, and they end together. Any other exception
    on any rank ends all ranks at once.

    Args:
        name: the command, for messages.
        print_help: prints its help.
        work: does the work, with the communicator and ``arguments``; may return an exit code.
        arguments: the command line.

    Returns:
        The exit code, the same on all ranks.
    """
    if HELP & set(arguments):
        if not launcher.needs_mpi(os.environ):
            print_help()
            return EXIT_OK
        work = _help(print_help)
    code = _run(name, work, arguments)
    note_exit(code)
    return code


def _help(print_help: Callable[[], None]) -> Work:
    """Print help on rank 0. Under a launcher all ranks meet, so that none is left waiting."""

    def work(communicator: Communicator, arguments: Sequence[str]) -> None:
        if communicator.rank == 0:
            print_help()
        communicator.barrier()

    return work


def _require_same_flags(name: str, communicator: Communicator, arguments: Sequence[str]) -> None:
    """Raise ``JointError`` on all ranks if they were started with different command lines."""
    problem = difference(dict(enumerate(communicator.allgather(flags_of(name, arguments)))))
    if problem:
        raise JointError(f"{problem}: start all ranks with the same command")


def _run(name: str, work: Work, arguments: Sequence[str]) -> int:
    with heartbeat.listening():
        return _run_listening(name, work, arguments)


def _run_listening(name: str, work: Work, arguments: Sequence[str]) -> int:
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
    threading.excepthook = lambda args: _fail(name, communicator, args.exc_value or args.exc_type())
    try:
        _require_same_flags(name, communicator, arguments)
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
        communicator.abort(EXIT_INTERRUPTED)
    except BaseException as error:
        _fail(name, communicator, error)
    finally:
        threading.excepthook = threading.__excepthook__


def _fail(name: str, communicator: Communicator, error: BaseException) -> NoReturn:
    """Report an exception of any thread, and end all ranks."""
    report_failure(name, communicator, error)
    if isinstance(error, InputError) or is_thread_limit(error):
        communicator.abort(EXIT_INPUT)
    # an MPI error: another rank, its host or the network is gone
    communicator.abort(EXIT_STALLED if type(error).__module__ == OF_MPI else EXIT_DEFECT)

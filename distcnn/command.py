"""What every command shares: open the communicator, end all ranks together, one message, the right exit code."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence

from distcnn.errors import InputError, TrainingError
from distcnn.parallel import Communicator, launcher, open_communicator
from distcnn.parallel.communicator import JointError
from distcnn.parallel.threads import limit_blas_threads

EXIT_OK, EXIT_DEFECT, EXIT_INPUT, EXIT_TRAINING = 0, 1, 2, 3
"""All went well; a defect of ours (with a traceback); bad input; training that cannot go on."""

SECONDS_FOR_ROOT_TO_PRINT = 3.0
"""Without a communicator ranks cannot wait for each other, and a launcher may end all of them when the first one leaves."""


def run_command(
    name: str, print_help: Callable[[], None], work: Callable[[Communicator, Sequence[str]], None], arguments: Sequence[str]
) -> int:
    """Run ``work(communicator, arguments)`` on this rank and return the exit code, the same on all ranks.

    An error that all ranks share is printed by rank 0 and they end together. Any other exception on any rank ends all at once.
    """
    may_print = launcher.declared_rank(os.environ) == 0
    if {"-h", "--help"} & set(arguments):
        if may_print:
            print_help()
        return EXIT_OK
    limit_blas_threads()
    try:
        communicator = open_communicator()
    except InputError as error:
        if may_print:
            _print_error(name, str(error))
        else:
            time.sleep(SECONDS_FOR_ROOT_TO_PRINT)
        return EXIT_INPUT
    try:
        work(communicator, arguments)
    except (JointError, TrainingError) as error:
        if communicator.rank == 0:
            _print_error(name, str(error))
        communicator.barrier()  # a launcher may end all ranks when the first one leaves: not before this was printed
        return EXIT_TRAINING if isinstance(error, TrainingError) else EXIT_INPUT
    except KeyboardInterrupt:
        communicator.abort(130)
    except BaseException as error:
        if isinstance(error, InputError):
            _print_error(name, str(error))
            communicator.abort(EXIT_INPUT)
        sys.stderr.write(f"{name}: rank {communicator.rank} of {communicator.world_size} failed:\n{traceback.format_exc()}")
        communicator.abort(EXIT_DEFECT)
    return EXIT_OK


def _print_error(name: str, text: str) -> None:
    sys.stderr.write(f"{name}: error: {text}\n")
    sys.stderr.flush()

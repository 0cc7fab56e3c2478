"""What all ranks look at together. Imported only where NumPy is there."""

from __future__ import annotations

import os
import threading
from typing import Any, NoReturn

from distcnn.distributed import Communicator, open_communicator
from distcnn.doctor import allreduce_speed, clocks, image_set, mpi_world, output_folder, same_bits
from distcnn.doctor.check import Everyone, Facts, Section
from distcnn.doctor.finding import BAD, Finding, Places, exit_code
from distcnn.doctor.local_checks import NOT_LOOKED_AT, Verdict, apart, judge_alone, places_of
from distcnn.doctor.options import Options
from distcnn.doctor.report import Report
from distcnn.doctor.supervisor import Guardian
from distcnn.errors import InputError
from distcnn.fault_tolerance.failure import report_failure
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.fault_tolerance.watched_communicator import WatchedCommunicator
from distcnn.spans import MEASURE, Span
from distcnn.system import launcher

NAME = "distcnn.doctor"
STALL_SECONDS = 7.0
"""No look at anything takes as long (``section.bounded``): a rank that does keeps all others
waiting.
"""


class Examined(WatchedCommunicator):
    """Ends all ranks with the doctor's exit code, and not before the report so far was printed."""

    def __init__(self, inner: Communicator, guardian: Guardian) -> None:
        super().__init__(inner)
        self._guardian = guardian

    def abort(self, exit_code: int) -> NoReturn:
        self._guardian.speak("a rank was late or failed: standard error names it")
        super().abort(1)


def examine_together(mine: Facts, report: Report, options: Options, guardian: Guardian) -> Verdict:
    """Start MPI where a launcher started several processes; look, and judge on root.

    ``report`` is what is known before.
    """
    try:
        communicator = Examined(open_communicator(), guardian)
    # a world of one where several were started: the same on every rank, so rank 0 tells it
    except InputError as error:
        text = str(error).removesuffix(f": {launcher.REMEDY}")
        report.findings += [Finding("launcher", BAD, text, launcher.REMEDY), NOT_LOOKED_AT]
        return apart(launcher.declared_rank(os.environ) == 0, report)
    threading.excepthook = lambda arguments: _fail(
        communicator, arguments.exc_value or arguments.exc_type()
    )
    try:
        with Watchdog(NAME, communicator, STALL_SECONDS):
            found = _examine(communicator, mine, options, guardian)
            code = communicator.broadcast(exit_code(found.findings))
        return Verdict(code, found if communicator.rank == 0 else None, leave=communicator.barrier)
    except BaseException as error:
        _fail(communicator, error)
    finally:
        threading.excepthook = threading.__excepthook__


def _examine(
    communicator: Communicator, mine: Facts, options: Options, guardian: Guardian
) -> Report:
    """The whole report on root; an empty one elsewhere."""
    sections: dict[Section, tuple[Any, ...]] = {
        mpi_world.SECTION: (communicator,),
        clocks.SECTION: (communicator,),
        output_folder.SECTION: (communicator, options),
        image_set.SECTION: (communicator, options),
        allreduce_speed.SECTION: (communicator,),
        same_bits.SECTION: (communicator,),
    }
    report = Report()
    everyone = dict(enumerate(communicator.allgather(mine)))
    places = places_of(everyone, communicator.world_size)
    if communicator.rank == 0:
        report.findings += judge_alone(places, everyone)
    for section, arguments in sections.items():
        guardian.note(f"looking at {section.name}", report)
        with Span(MEASURE):
            facts = dict(enumerate(communicator.allgather(section.seen(*arguments))))
        if communicator.rank == 0:
            report.findings += section.judged(places, facts)
            report.numbers |= numbers_of(section, places, facts)
    report.numbers = {
        "world_size": communicator.world_size,
        "hosts": communicator.hosts,
    } | report.numbers
    return report


def numbers_of(section: Section, places: Places, everyone: Everyone) -> dict[str, Any]:
    """What was measured, for programs."""
    whole = {rank: facts for rank, facts in everyone.items() if "failed" not in facts}
    if section is clocks.SECTION:
        return {"clock_offset_seconds": clocks.offset_of_hosts(places, whole)}
    if section is image_set.SECTION:
        return {
            "read_bytes_per_second": [image_set.bytes_per_second(facts) for facts in whole.values()]
        }
    if section is allreduce_speed.SECTION:
        return {
            "allreduce": [
                {"bytes": nbytes, "seconds": seconds}
                for nbytes, seconds in allreduce_speed.allreduce_rows(whole)
            ]
        }
    if section is same_bits.SECTION:
        return {
            "gflop_per_second": [facts.get("gflop_per_second", 0.0) for facts in whole.values()]
        }
    return {}


def _fail(communicator: Communicator, error: BaseException) -> NoReturn:
    report_failure(NAME, communicator, error)
    communicator.abort(1)

"""What all ranks look at together. Imported only where NumPy is there."""

from __future__ import annotations

import os
import threading
from typing import Any, NoReturn

from distcnn import launcher
from distcnn.checkup import clock, data, exactness, network, output, world
from distcnn.checkup.alone import NOT_LOOKED_AT, Verdict, apart, judge_alone, places_of
from distcnn.checkup.finding import BAD, Finding, Places, exit_code
from distcnn.checkup.guardian import Guardian
from distcnn.checkup.options import Options
from distcnn.checkup.section import Everyone, Facts, Section
from distcnn.checkup.table import Report
from distcnn.errors import InputError
from distcnn.faults.failure import report_failure
from distcnn.faults.pulse import Activity, pulse
from distcnn.faults.watchdog import Watchdog
from distcnn.faults.watched import WatchedCommunicator
from distcnn.parallel import Communicator, open_communicator

NAME = "distcnn.doctor"
STALL_SECONDS = 7.0
"""No look at anything takes as long (``section.bounded``): a rank that does keeps all others waiting."""


class Examined(WatchedCommunicator):
    """Ends all ranks with the doctor's exit code, and not before the report so far was printed."""

    def __init__(self, inner: Communicator, guardian: Guardian) -> None:
        super().__init__(inner)
        self._guardian = guardian

    def abort(self, exit_code: int) -> NoReturn:
        self._guardian.speak("a rank was late or failed: standard error names it")
        super().abort(1)


def examine_together(mine: Facts, report: Report, options: Options, guardian: Guardian) -> Verdict:
    """Start MPI where a launcher started several processes; look, and judge on root. ``report`` is what is known before."""
    try:
        communicator = Examined(open_communicator(), guardian)
    except InputError as error:  # a world of one where several were started: the same on every rank, so rank 0 tells it
        text = str(error).removesuffix(f": {launcher.REMEDY}")
        report.findings += [Finding("launcher", BAD, text, launcher.REMEDY), NOT_LOOKED_AT]
        return apart(launcher.declared_rank(os.environ) == 0, report)
    threading.excepthook = lambda arguments: _fail(communicator, arguments.exc_value or arguments.exc_type())
    try:
        with Watchdog(NAME, communicator, STALL_SECONDS):
            found = _examine(communicator, mine, options, guardian)
            code = communicator.broadcast(exit_code(found.findings))
        return Verdict(code, found if communicator.rank == 0 else None, leave=communicator.barrier)
    except BaseException as error:
        _fail(communicator, error)
    finally:
        threading.excepthook = threading.__excepthook__


def _examine(communicator: Communicator, mine: Facts, options: Options, guardian: Guardian) -> Report:
    """The whole report on root; an empty one elsewhere."""
    sections: dict[Section, tuple[Any, ...]] = {
        world.SECTION: (communicator,),
        clock.SECTION: (communicator,),
        output.SECTION: (communicator, options),
        data.SECTION: (communicator, options),
        network.SECTION: (communicator,),
        exactness.SECTION: (communicator,),
    }
    report = Report()
    everyone = dict(enumerate(communicator.allgather(mine)))
    places = places_of(everyone, communicator.world_size)
    if communicator.rank == 0:
        report.findings += judge_alone(places, everyone)
    for section, arguments in sections.items():
        pulse.beat(Activity.MEASURING)
        guardian.note(f"looking at {section.name}", report)
        facts = dict(enumerate(communicator.allgather(section.seen(*arguments))))
        if communicator.rank == 0:
            report.findings += section.judged(places, facts)
            report.numbers |= numbers_of(section, places, facts)
    report.numbers = {"world_size": communicator.world_size, "hosts": communicator.hosts} | report.numbers
    return report


def numbers_of(section: Section, places: Places, everyone: Everyone) -> dict[str, Any]:
    """What was measured, for programs."""
    whole = {rank: facts for rank, facts in everyone.items() if "failed" not in facts}
    if section is clock.SECTION:
        return {"clock_offset_seconds": clock.offset_of_hosts(places, whole)}
    if section is data.SECTION:
        return {"read_bytes_per_second": [data.bytes_per_second(facts) for facts in whole.values()]}
    if section is network.SECTION:
        return {"allreduce": [{"bytes": nbytes, "seconds": seconds} for nbytes, seconds in network.allreduce_rows(whole)]}
    if section is exactness.SECTION:
        return {"gflop_per_second": [facts.get("gflop_per_second", 0.0) for facts in whole.values()]}
    return {}


def _fail(communicator: Communicator, error: BaseException) -> NoReturn:
    report_failure(NAME, communicator, error)
    communicator.abort(1)

"""The report as one HTML file: everything is in it, nothing is requested from anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from distcnn import __version__
from distcnn.errors import InputError
from distcnn.report import charts, compared, confusion, facts, proof, time_split
from distcnn.report.inspection import Inspection
from distcnn.report.records import RunRecords
from distcnn.system.wording import printable

TEMPLATES = Path(__file__).parent / "templates"


def view(number: int, run: RunRecords, found: Inspection) -> dict[str, Any]:
    """What the page says of one run, under the names that the template uses."""
    score, names = found.score, found.class_names
    tables = [confusion.confusions(score, names), confusion.by_class(score, names)] if score else []
    traced, trace_note = time_split.traced_step(run, number)
    circumstances, circumstances_note = facts.circumstances(run)
    commands, commands_note = proof.commands(run)
    return {
        "label": run.label,
        "headline": facts.headline(run),
        "results": facts.key_results(run),
        "problems": run.problems,
        "inspection": found,
        "test_note": confusion.note(run.result, found),
        "matrix": confusion.matrix(score, names) if score else None,
        "test_tables": [table for table in tables if table],
        "traced": traced,
        "trace_note": trace_note,
        "circumstances": circumstances,
        "circumstances_note": circumstances_note,
        "dataset": facts.dataset_facts(run),
        "ledger": proof.ledger(run),
        "hashes": proof.hashes(run, found),
        "is_portable": run.config is not None and run.config.is_portable,
        "commands": commands,
        "commands_note": commands_note,
    }


def render(runs: Sequence[RunRecords], inspections: Mapping[str, Inspection]) -> str:
    """The page on ``runs``, with what was found in each, by its label."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "script.js").read_text()
    sha256 = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    several = len(runs) > 1
    return environment.get_template("report.html").render(
        version=__version__,
        title=f"{len(runs)} runs compared" if several else facts.title_of(runs[0]),
        several=several,
        runs=[view(number, run, inspections[run.label]) for number, run in enumerate(runs, 1)],
        charts=charts.curve_charts(runs),
        keys=charts.legend(runs),
        whole_runs=time_split.whole_runs(runs),
        comparison=compared.comparison(runs) if several else [],
        agreement=compared.agreement(runs) if several else [],
        script=Markup(script),
        script_sha256=sha256,
    )


def require_jinja2() -> None:
    """Raise ``InputError`` if Jinja2 is not installed."""
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise InputError("a report needs Jinja2: pip install jinja2") from error


def _visible(value: Any) -> Any:
    """Names come from files of others: show characters that would hide or turn the text."""
    return (
        printable(value, "\n")
        if isinstance(value, str) and not isinstance(value, Markup)
        else value
    )

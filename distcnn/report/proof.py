"""What ledger and receipt prove, in sentences, and the commands that repeat or check a run."""

from __future__ import annotations

from distcnn.report.charts import Table
from distcnn.report.compared import recorded_weights
from distcnn.report.facts import count_of, ranks_of
from distcnn.report.inspection import Inspection
from distcnn.report.records import RunRecords
from distcnn.report.repetition import NotRepeatable, repetition
from distcnn.system.wording import counted, shell_command, shell_word
from distcnn.training.arguments import ARRAYS
from distcnn.training.receipt import Line
from distcnn.training.results import SHA256SUMS, damage_of
from distcnn.user_code import TRUST_FLAG

MOST_HASHES = 100


def ledger(run: RunRecords) -> list[str]:
    """What the ledger and the receipt prove, in sentences."""
    if run.receipt is None:
        return [f"There is no receipt to read: {'; '.join(run.problems)}."]
    total = run.recorded("dataset", "train_examples")
    epochs = _epochs(run)
    whole = [line for line in epochs if "order_sha256" in line and line.get("examples") == total]
    told = []
    if whole:
        each = "the one epoch" if len(whole) == 1 else f"each of {len(whole):,} epochs"
        told.append(
            f"Every one of the {count_of(total)} training examples was used exactly once in {each}:"
            " each rank counts what it uses, and the counts are checked at the end of an epoch."
        )
    told += [
        f"The epoch that ended early, at step {line['step']:,}, used"
        f" {count_of(line.get('examples')) or 'an unknown number of'} examples."
        for line in epochs
        if line not in whole
    ]
    end = "where the run ended" if run.receipt.ended else "before the end of the run"
    last = f"The receipt goes up to step {run.receipt.last_step:,}, {end}."
    problem = run.receipt.problem
    broken = [f"The receipt is not as it was written: {problem}."] if problem else []
    return [*told, _compared_ranks(run), *_repeated_shards(run), last, *broken]


def _epochs(run: RunRecords) -> list[Line]:
    """The last line of each epoch: one that a resume has ended was evaluated again."""
    lines = run.receipt.lines if run.receipt else []
    return list({line["step"]: line for line in lines if line["kind"] == "epoch"}.values())


def _compared_ranks(run: RunRecords) -> str:
    times = counted(len(recorded_weights(run)), "time")
    if ranks_of(run) == "1":
        return (
            f"The hash of the weights was recorded {times}. There was one rank, and so no other to"
            " compare it with."
        )
    return (
        f"The weights of all ranks ({ranks_of(run)}) were compared by hash {times}, and were the"
        " same on every rank each time."
    )


def _repeated_shards(run: RunRecords) -> list[str]:
    if run.result is None or run.result.spot_checks is None:
        return []
    shards = counted(run.result.spot_checks, "shard")
    return [f"Spot checks computed {shards} a second time, with the same results."]


def hashes(run: RunRecords, inspection: Inspection) -> Table:
    """The hashes that identify the run, and what was found when the page was made."""
    rows = [("All examples of the image set", str(run.recorded("dataset", "content_sha256")))]
    if run.receipt:
        found, recorded = run.receipt.sha256, run.result.receipt_sha256 if run.result else ""
        wrong = ": not the recorded one" if recorded not in ("", found) else ""
        rows.append(("The whole receipt, by its last line", f"{found}{wrong}"))
    if result := run.result:
        found, listed = inspection.weights_sha256, (run.path / SHA256SUMS).exists()
        same = "the same" if found == result.params_sha256 else f"{found}: not the recorded one"
        rows += [
            ("The last weights, as recorded", result.params_sha256),
            ("weights.h5, computed for this page", same if found else ""),
            (
                f"The files listed in {SHA256SUMS}",
                damage_of(run.path) or ("all match" if listed else "not checked: it is missing"),
            ),
        ]
    rows += [
        (f"Order of the examples, up to step {line['step']:,}", str(line["order_sha256"]))
        for line in _epochs(run)[-MOST_HASHES:]
        if "order_sha256" in line
    ]
    return Table("SHA-256", ("of what", "value"), [row for row in rows if row[1]])


def commands(run: RunRecords) -> tuple[list[tuple[str, str]], str]:
    """What one may do with the run, with the command for it, and a note on what has none."""
    path, own = str(run.path), [TRUST_FLAG] if run.config and run.config.own_code else []
    if run.config and run.config.data == ARRAYS:
        note = (
            "The run was trained on arrays, from Python: only a program that has them can repeat,"
            " check or continue it, with Trainer.fit."
        )
        return _of_files(run), note
    found, note = [], ""
    if run.config:
        try:
            found.append(("Train it again, on any number of ranks", repetition(run)))
        except NotRepeatable as reason:
            note = (
                f"No plain commands train this run again: {reason}. To replay exactly what it did,"
                f" use python -m distcnn.verify {shell_word(path)}."
            )
    if run.receipt:
        verify = ["python", "-m", "distcnn.verify", path, *own]
        found.append(("Replay it and compare every recorded number", shell_command(verify)))
    if run.result is None:
        resume = ["python", "-m", "distcnn.train", "--resume", path, *own]
        found.append(("Continue it, on any number of ranks", shell_command(resume)))
    return [*found, *_of_files(run)], note


def _of_files(run: RunRecords) -> list[tuple[str, str]]:
    """The command that checks the files of a finished run."""
    if not run.result or not (run.path / SHA256SUMS).exists():
        return []
    return [("Check its files", f"cd {shell_word(str(run.path))} && sha256sum -c {SHA256SUMS}")]

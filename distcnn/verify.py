"""Replay a run and compare it with its records: ``python -m distcnn.verify RUN_DIR``."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import distcnn.cli.start
import distcnn.system.rank0_imports  # noqa: F401
from distcnn.checkpoints.weights import BEST_WEIGHTS, WEIGHTS
from distcnn.cli.command import run_command
from distcnn.cli.parser import Parser
from distcnn.distributed import Communicator, on_root
from distcnn.distributed.communicator import JointError
from distcnn.errors import InputError
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.random_streams import MAX_SEED
from distcnn.spans import READ_RUN, Span
from distcnn.system.files import read_bytes
from distcnn.system.wording import counted
from distcnn.training.comparison import OF_MACHINES, Different, problem_of_files
from distcnn.training.parting import Parting, find_parting
from distcnn.training.progress import NoProgress, Progress
from distcnn.training.receipt import whole_lines
from distcnn.training.replay import Replayed, Source, replay
from distcnn.training.results import METRICS, RESULT, SHA256SUMS
from distcnn.training.run_comparison import (
    compare_records,
    differences_of_settings,
    different_networks,
    read_records,
)
from distcnn.training.run_files import Report
from distcnn.training.sampling import draw_sample, replay_stretches
from distcnn.user_code import TRUST_FLAG

NAME = "distcnn.verify"
IDENTICAL, DIFFERENT = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 identical, 1 different, 2 bad input."""
    return run_command(NAME, make_parser, verify_command, arguments)


def make_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = Parser(
        prog="python -m distcnn.verify",
        description=(
            "Replay a run, alone or under a launcher on any number of ranks, and compare every line"
            " of its receipt.jsonl and metrics.jsonl, its result.json and its weights. Prints"
            " 'identical' (exit code 0), or the first step and parameter that differ (exit code 1)."
            " With RUN_B, compare two runs, as far as both go: where they part, and what differs."
            " Nothing is written."
        ),
    )
    run = "run directory of distcnn.train, finished or not"
    other = "compare with this run: print the first step, shard and layer at which the two part"
    begin = "begin at the last checkpoint up to step A (default 0)"
    end = "end after step B (default: the receipt's last)"
    sample = (
        "replay only K stretches from one checkpoint to the next, drawn at random after the run"
        " (see --keep of distcnn.train)"
    )
    seed = "draw them from this seed, 0 to 2^64 - 1 (default: a new one, which is printed)"
    records = "with RUN_B: compare what the runs recorded, and replay nothing"
    moved = "the image set, if it has moved; its content must be the same"
    model = "the model to replay with, such as the run's own package.module:function"
    trust = "import the package.module:function that the receipt names, and run its code"
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help=run)
    parser.add_argument("other", type=Path, nargs="?", metavar="RUN_B", help=other)
    parser.add_argument("--from-step", type=int, metavar="A", help=begin)
    parser.add_argument("--to-step", type=int, metavar="B", help=end)
    parser.add_argument("--sample", type=int, metavar="K", help=sample)
    parser.add_argument("--sample-seed", type=int, metavar="S", help=seed)
    parser.add_argument("--records-only", action="store_true", help=records)
    parser.add_argument("--data", metavar="FILE", help=moved)
    parser.add_argument("--model", metavar="NAME", help=model)
    parser.add_argument(TRUST_FLAG, action="store_true", help=trust)
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags, if they go together."""
    args = make_parser().parse_args(arguments)
    of_one_run = args.sample, args.sample_seed, args.from_step, args.to_step
    if args.other and any(value is not None for value in of_one_run):
        raise InputError(
            "two runs are compared from their beginnings: leave out --sample, --from-step and"
            " --to-step"
        )
    if args.records_only and not args.other:
        raise InputError("--records-only needs a second run, RUN_B")
    if args.sample is None:
        if args.sample_seed is not None:
            raise InputError("--sample-seed needs --sample K, the number of stretches to draw")
        return args
    if args.sample < 1:
        raise InputError(f"--sample is {args.sample}: it must be at least 1")
    if args.sample_seed is not None and not 0 <= args.sample_seed <= MAX_SEED:
        raise InputError(f"--sample-seed is {args.sample_seed}: it must be 0 to 2^64 - 1")
    if args.from_step is not None or args.to_step is not None:
        raise InputError("--sample draws from the whole run: leave out --from-step and --to-step")
    if args.sample_seed is None:
        args.sample_seed = secrets.randbits(32)
    return args


def verify_command(communicator: Communicator, arguments: Sequence[str]) -> int:
    """Parse, replay, print the result."""
    say = (Progress() if communicator.rank == 0 else NoProgress()).say
    args = on_root(communicator, lambda: parse(arguments))
    source = Source(args.run, args.data, args.model, args.trust_model)
    with Watchdog(NAME, communicator):
        if args.other:
            other = replace(source, directory=args.other)
            return verify_pair(source, other, args.records_only, communicator, say)
        try:
            if args.sample is not None:
                lines = verify_sample(source, args.sample, args.sample_seed, communicator, say)
            else:
                lines = verify_steps(source, args.from_step or 0, args.to_step, communicator, say)
        except Different as difference:
            say(f"different: {difference}")
            return DIFFERENT
    for line in lines:
        say(line)
    return IDENTICAL


def verify_steps(
    source: Source, first: int, last: int | None, communicator: Communicator, say: Report
) -> list[str]:
    """Replay steps of a run; the result as text, or ``Different``."""
    replayed = replay(
        *(source.directory, source.data, first, last, communicator, say),
        *(source.model, source.trust_model),
    )
    check_files(source.directory, replayed, communicator)
    left = on_root(communicator, lambda: unchecked(source.directory, replayed))
    return [
        f"identical: steps {replayed.from_step} to {replayed.to_step}"
        f" (compared: {replayed.compared})",
        f"not checked: {'; '.join(left)}",
    ]


def verify_sample(
    source: Source, count: int, seed: int, communicator: Communicator, say: Report
) -> list[str]:
    """Replay ``count`` stretches of a run; the result as text, or ``Different``."""
    with Span(READ_RUN):
        sample = on_root(communicator, lambda: draw_sample(source.directory, count, seed, say))
    replayed = replay_stretches(source, sample, communicator, say)
    check_files(source.directory, replayed[-1], communicator)
    left = on_root(communicator, lambda: unchecked(source.directory, replayed[-1], whole=True))
    if others := len(sample.stretches) - len(replayed):
        left.insert(0, counted(others, "other stretch"))
    steps = f"{sample.steps_drawn:,} of {counted(sample.steps, 'step')}"
    percent = f"{100 * sample.steps_drawn / sample.steps:.0f} %"
    fewer = f"; there are no {count:,} to draw" if count > len(replayed) else ""
    return [
        f"identical: {sample.share}, {steps} ({percent}), drawn with --sample-seed {seed}{fewer}",
        f"not checked: {'; '.join(left)}",
    ]


def verify_pair(
    one: Source, other: Source, records_only: bool, communicator: Communicator, say: Report
) -> int:
    """Print where two runs part, and what differs between them; the exit code.

    ``JointError`` if nothing of them can be compared.
    """
    with Span(READ_RUN):
        records = on_root(
            communicator, lambda: (read_records(one.directory), read_records(other.directory))
        )
    for each in records:
        say(f"{each.name}: {each.extent}")
    none = "configuration, data, software and environment: no difference"
    for line in differences_of_settings(*records) or [none]:
        say(line)
    found, shorter = compare_records(*records), min(records, key=lambda each: each.last_step)
    broken = [f"{each.name}: {each.receipt.problem}" for each in records if each.receipt.problem]
    for line in broken:
        say(line)
    if networks := different_networks(*records):
        text = networks
    elif found.differing:
        for line in found.lines():
            say(line)
        text = found.text
        if not records_only:
            at = found.part_at
            text = find_parting((one, other), records, at, text, communicator, say).text
    elif broken:
        text = f"{broken[0]} ({found.compared})"
    elif found.agreeing:
        say(f"identical{found.extent(*records)} ({found.compared})")
        return IDENTICAL
    else:
        nothing = "no step has its weights or loss recorded in both"
        last, parting = shorter.last_step, Parting(nothing)
        if last and not records_only:
            parting = find_parting((one, other), records, last, nothing, communicator, say)
        if parting.are_same:
            say(f"identical up to step {last}, where {shorter.name} ends (replayed; {nothing})")
            return IDENTICAL
        if not parting.part:
            raise JointError(
                f"nothing to compare: {parting.text}: train both with the same --check-every, such"
                " as --check-every 10"
            )
        text = parting.text
    say(f"different: {text}")
    return DIFFERENT


def check_files(run: Path, replayed: Replayed, communicator: Communicator) -> None:
    """``Different`` if the files of a run whose end was replayed are not those of the replay."""
    if result := replayed.result:
        with Span(READ_RUN):
            problem = on_root(communicator, lambda: problem_of_files(run, replayed.receipt, result))
        if problem:
            raise Different(f"step {replayed.to_step}: {problem}")


def unchecked(run: Path, replayed: Replayed, whole: bool = False) -> list[str]:
    """What the replay, or with ``whole`` one of several, did not check, as text."""
    found = [f"steps 1 to {replayed.from_step}"] if replayed.from_step and not whole else []
    found += ["checkpoints (each is checked when it is read)", "traces and pictures"]
    if replayed.result is None:
        recorded = replayed.receipt.last_step
        steps = [line["step"] for line in whole_lines(read_bytes(run / METRICS).decode())]
        if steps and steps[-1] > recorded:  # of a run that was killed
            found.append(f"metrics after step {recorded}, where the receipt ends")
        return [*found, f"{RESULT} and {WEIGHTS}, which are written at the end of a run"]
    if not (run / BEST_WEIGHTS).exists():
        found.append(f"{BEST_WEIGHTS}, which is missing")
    missing = []
    if replayed.receipt.is_portable:
        missing = [name for name in OF_MACHINES if not (run / name).exists()]
    found += [f"{name}, which is missing" for name in missing]
    about_times = (
        f"they match {SHA256SUMS}" if (run / SHA256SUMS).exists() else f"{SHA256SUMS} is missing"
    )
    machine = ", and what is recorded of machines" if replayed.receipt.is_portable else ""
    return [*found, f"times and speeds{machine} ({about_times})"]


if __name__ == "__main__":
    sys.exit(main())

"""From a command line and a TOML file to a configuration."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcnn.cli.parser import Parser, meant
from distcnn.config import KINDS, LOGGING, RENAMED, STEPS_TRACED, Config, Group, as_flag
from distcnn.errors import InputError
from distcnn.registry import OWN
from distcnn.system.files import open_named
from distcnn.user_code import TRUST_FLAG, own_code, require_trust

TARGET_DEFAULTS: dict[str, Any] = {
    "epochs": 6,
    "cycle_epochs": 1,
    "microbatch_size": 8,
    "learning_rate": 0.05,
    "schedule": "linear",
}
"""Defaults with --target-accuracy: a whole schedule in each epoch (measured in docs/target.md)."""


RESUMING = Group("resuming", "continue a run, on any number of ranks")
DEBUGGING = Group("debugging", "need a single process")


@dataclass(frozen=True)
class Request:
    """What a command line asks for: the settings that were ``given``, and what to do with them."""

    given: dict[str, Any]
    resume: str = RESUMING.field(
        "", "continue the run in this directory, with its flags and to the same bits", "RUN_DIR"
    )
    trust_model: bool = RESUMING.field(
        False, "import the package.module:name that the run directory or --config file names"
    )
    accept_changed_model: bool = RESUMING.field(
        False, "resume although the source of your own code has changed; results will differ"
    )
    allow_other_owner: bool = RESUMING.field(
        False, "write into a run directory that belongs to another user"
    )
    quiet: bool = LOGGING.field(False, "print only warnings, notices and the result")
    verbose: bool = LOGGING.field(
        False, "print also layers, software, ranks, and how long each phase takes"
    )
    debug: bool = DEBUGGING.field(
        False, "check the gradients, then check every layer's values for NaN and infinity"
    )
    break_at_step: int | None = DEBUGGING.field(
        None,
        "open the debugger in step N (from 0) and write nothing; with --resume, start from the"
        " nearest checkpoint",
        "N",
    )
    shard: int | None = DEBUGGING.field(None, "shard of that step to stop at (default 0)", "K")

    @property
    def config(self) -> Config:
        """The given values over the defaults."""
        defaults = TARGET_DEFAULTS if self.given.get("target_accuracy") else {}
        return Config(**{**defaults, **self.given})


SETTINGS = {field.name: field.default for field in dataclasses.fields(Config)}
ACTION_FIELDS = dataclasses.fields(Request)[1:]
FLAG_FIELDS = (*dataclasses.fields(Config), *ACTION_FIELDS)
"""The fields that have a flag, in the order of ``--help``."""
GROUPS: list[Group] = list(dict.fromkeys(field.metadata["group"] for field in FLAG_FIELDS))
CONFIG_FLAGS = {
    **{as_flag(name): as_flag(RENAMED.get(name, name)) for name in [*SETTINGS, *RENAMED]},
    **{flag: flag for flag in ("--config", TRUST_FLAG)},
}
"""The flags that make up a configuration, and their present names. Other commands take them too."""


def parse_request(arguments: Sequence[str]) -> Request:
    """What the flags and the file of ``--config`` ask for; flags win.

    ``InputError`` names what is wrong.
    """
    flags = vars(make_parser().parse_args(arguments))
    file = flags.pop("config", None)
    names = {field.name for field in ACTION_FIELDS} & flags.keys()
    actions = {name: flags.pop(name) for name in names}
    request = Request({**(read_toml(file) if file else {}), **flags}, **actions)
    require_trust(own_code(request.given), f"--config: {file}", flags, request.trust_model)
    if request.shard is not None and request.break_at_step is None:
        raise InputError(f"--shard {request.shard} needs a step to stop in: add --break-at-step N")
    for flag, value in (("--break-at-step", request.break_at_step), ("--shard", request.shard)):
        if value is not None and value < 0:
            raise InputError(f"{flag} is {value}: it must be 0 or more")
    if request.quiet and request.verbose:
        raise InputError("--quiet and --verbose exclude each other: give one of them")
    return request


def make_parser() -> argparse.ArgumentParser:
    """The command's flags: ``--config``, then the fields of ``Config`` and ``Request``."""
    parser = Parser(
        prog="python -m distcnn.train",
        usage="python -m distcnn.train [flags]",
        description=(
            "Train a CNN, in this process or on the ranks that a launcher such as mpirun -n 4"
            " started. The result is the same, bit for bit."
        ),
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--config", metavar="FILE.toml", help="read flags from a TOML file; flags given here win"
    )
    for group in GROUPS:
        section = parser.add_argument_group(group.name, group.description)
        for field in FLAG_FIELDS:
            if field.metadata["group"] is group:
                _add_flag(section, field)
    for old, new in RENAMED.items():
        parser.add_argument(
            as_flag(old), dest=new, type=type(SETTINGS[new]), help=argparse.SUPPRESS
        )
    return parser


def _add_flag(section: argparse._ArgumentGroup, field: dataclasses.Field[Any]) -> None:
    name, default, values = field.name, field.default, field.metadata["values"]
    text = field.metadata["help"].replace("%", "%%")
    if default is False:
        switch = argparse.BooleanOptionalAction if name in SETTINGS else "store_true"
        section.add_argument(as_flag(name), action=switch, help=text)
        return
    if name in SETTINGS and default != "" and default is not False:
        text += f" (default {default})"
    if name in TARGET_DEFAULTS:
        text += f", {TARGET_DEFAULTS[name]} with --target-accuracy"
    if name == "freeze":
        section.add_argument(as_flag(name), action=Joined, metavar=values.placeholder, help=text)
        return
    choices = [*values.choices, *(["MODULE:NAME"] if name in OWN else [])]
    bare: dict[str, Any] = {"nargs": "?", "const": STEPS_TRACED} if name == "trace" else {}
    section.add_argument(
        as_flag(name),
        type=int if default is None else type(default),
        metavar=values.placeholder or "|".join(choices),
        help=text,
        **bare,
    )


class Joined(argparse.Action):
    """A flag that may be repeated: its values are joined by commas."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        before = getattr(namespace, self.dest, "")
        setattr(namespace, self.dest, f"{before},{values}" if before else values)


def read_toml(path: str | Path, errors: str = "strict") -> dict[str, Any]:
    """The flags in a TOML file, checked by name and type. A table such as [data] may group them.

    ``errors`` says how bytes that are not UTF-8 are decoded. ``InputError`` names the file and what
    is wrong.
    """
    import tomllib  # needed on root only

    try:
        with open_named(path) as file:
            # Editors on Windows write a byte order mark first.
            content = tomllib.loads(file.read().decode("utf-8-sig", errors))
    except (OSError, ValueError, RecursionError) as error:
        match error:
            case OSError():
                problem = f"{path} cannot be read ({error.strerror}): name a TOML file"
            case InputError():
                problem = str(error)
            case UnicodeDecodeError():
                where = f"byte {error.start}"
                problem = f"{path} is not UTF-8 text ({where}): save it in UTF-8, as TOML requires"
            case _:  # TOMLDecodeError, or Python's error for a number of thousands of digits
                problem = f"{path} is not TOML ({error}): write lines such as learning_rate = 0.1"
        raise InputError(f"--config: {problem}") from error
    read: dict[str, Any] = {}
    for name, value in content.items():
        is_table = isinstance(value, dict) and any(name == group.name for group in GROUPS)
        for written, setting in (value if is_table else {name: value}).items():
            key, checked = _checked(written, setting, path)
            if key in read:
                raise InputError(f"--config: {path}: {key} is given twice: keep one line")
            read[key] = checked
    return read


def _checked(written: str, value: Any, path: str | Path) -> tuple[str, Any]:
    key = written.replace("-", "_")
    key = RENAMED.get(key, key)
    if key not in SETTINGS:
        close = meant(
            written.lower().replace("_", "-"), [name.replace("_", "-") for name in SETTINGS]
        )
        guess = f"did you mean {close.replace('-', '_')!r}? " if close else ""
        raise InputError(
            f"--config: {path}: unknown key {written!r}: {guess}the keys are {', '.join(SETTINGS)}"
        )
    kind = type(SETTINGS[key])
    if kind is float and type(value) is int and abs(value) < 1 << 1000:
        value = float(value)
    if key == "threads_per_rank" and type(value) is int:
        value = str(value)
    if type(value) is not kind:
        raise InputError(f"--config: {path}: {written} is {value!r}: it must be {KINDS[kind]}")
    return key, value

"""From a command line and a TOML file to a configuration."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcnn.cli.parser import Parser, meant
from distcnn.config import GROUPS, KINDS, RENAMED, Config, as_flag
from distcnn.errors import InputError
from distcnn.system.files import open_named
from distcnn.user_code import ACCEPT_FLAG, TRUST_FLAG, own_code, require_trust

TARGET_DEFAULTS: dict[str, Any] = {
    "epochs": 6,
    "cycle_epochs": 1,
    "microbatch_size": 8,
    "learning_rate": 0.05,
    "schedule": "linear",
}
"""Defaults with --target-accuracy: a whole schedule in each epoch (measured in docs/target.md)."""


@dataclass(frozen=True)
class Request:
    """What a command line asks for: the settings that were ``given``, and what to do with them."""

    given: dict[str, Any]
    resume: str = ""
    trust_model: bool = False
    accept_changed_model: bool = False
    debug: bool = False
    break_at_step: int | None = None
    shard: int | None = None
    allow_other_owner: bool = False

    @property
    def config(self) -> Config:
        """The given values over the defaults."""
        defaults = TARGET_DEFAULTS if self.given.get("target_accuracy") else {}
        return Config(**{**defaults, **self.given})


def parse_request(arguments: Sequence[str]) -> Request:
    """What the flags and the file of ``--config`` ask for; flags win.

    Raises:
        InputError: names what is wrong.
    """
    flags = vars(make_parser().parse_args(arguments))
    file = flags.pop("config", None)
    actions = {
        each.name: flags.pop(each.name)
        for each in dataclasses.fields(Request)
        if each.name in flags
    }
    read = read_toml(file) if file else {}
    request = Request({**read, **flags}, **actions)
    require_trust(own_code(request.given), f"--config: {file}", flags, request.trust_model)
    if request.shard is not None and request.break_at_step is None:
        raise InputError(f"--shard {request.shard} needs a step to stop in: add --break-at-step N")
    for flag, value in (("--break-at-step", request.break_at_step), ("--shard", request.shard)):
        if value is not None and value < 0:
            raise InputError(f"{flag} is {value}: it must be 0 or more")
    if "resume" in actions and not request.resume:
        raise InputError("--resume is empty: name the run directory to continue")
    return request


def parse_config(arguments: Sequence[str]) -> Config:
    """The configuration from flags over ``--config FILE.toml`` over defaults.

    Raises:
        InputError: names what is wrong.
    """
    return parse_request(arguments).config


def make_parser() -> argparse.ArgumentParser:
    """The command's flags: one for each field of ``Config``, in its groups, and the actions."""
    parser = Parser(
        prog="python -m distcnn.train",
        usage="python -m distcnn.train [flags]",
        description=(
            "Train a CNN, in this process or on the ranks that a launcher such as mpirun -n 4"
            " started. The result is the same, bit for bit."
        ),
        argument_default=argparse.SUPPRESS,
    )
    groups = {name: parser.add_argument_group(name, subtitle) for name, subtitle in GROUPS.items()}
    for each in dataclasses.fields(Config):
        _add_flag(groups[each.metadata["group"]], each)
    for old, new in RENAMED.items():
        parser.add_argument(
            as_flag(old), dest=new, type=type(getattr(Config, new)), help=argparse.SUPPRESS
        )
    parser.add_argument(
        "--config", metavar="FILE.toml", help="read flags from a TOML file; flags given here win"
    )
    resuming = parser.add_argument_group("resuming", "continue a run, on any number of ranks")
    resuming.add_argument(
        "--resume",
        metavar="RUN_DIR",
        help="continue the run in this directory, with its flags and to the same bits",
    )
    resuming.add_argument(
        TRUST_FLAG,
        action="store_true",
        help="import the package.module:name that the run directory or --config file names",
    )
    resuming.add_argument(
        ACCEPT_FLAG,
        action="store_true",
        help="resume although the source of your own code has changed; results will differ",
    )
    resuming.add_argument(
        "--allow-other-owner",
        action="store_true",
        help="write into a run directory that belongs to another user",
    )
    debugging = parser.add_argument_group("debugging", "need a single process")
    debugging.add_argument(
        "--debug",
        action="store_true",
        help="check the gradients, then check every layer's values for NaN and infinity",
    )
    debugging.add_argument(
        "--break-at-step",
        type=int,
        metavar="N",
        help="open the debugger in step N (from 0) and write nothing; with --resume, start from"
        " the nearest checkpoint",
    )
    debugging.add_argument(
        "--shard", type=int, metavar="K", help="shard of that step to stop at (default 0)"
    )
    return parser


def _add_flag(group: Any, each: dataclasses.Field[Any]) -> None:
    choices, own = each.metadata["choices"], each.metadata["own"]
    unit, bare = each.metadata["unit"], each.metadata["bare"]
    names = [*choices, *(["MODULE:NAME"] if own else [])]
    default = f" (default {each.default})" if each.default != "" else ""
    if each.name in TARGET_DEFAULTS:
        default += f", {TARGET_DEFAULTS[each.name]} with --target-accuracy"
    group.add_argument(
        as_flag(each.name),
        type=type(each.default),
        metavar="|".join(names) or (unit if "|" in unit else unit.upper()),
        help=(each.metadata["help"] + default).replace("%", "%%"),
        **({} if bare is None else {"nargs": "?", "const": bare}),
    )


def read_toml(path: str | Path, errors: str = "strict") -> dict[str, Any]:
    """The flags in a TOML file, checked by name and type. A table such as [data] may group them.

    Args:
        path: the file.
        errors: how bytes that are not UTF-8 are decoded.

    Raises:
        InputError: names the file and what is wrong.
    """
    import tomllib  # needed on root only

    try:
        with open_named(path) as file:
            # Editors on Windows write a byte order mark first.
            content = tomllib.loads(file.read().decode("utf-8-sig", errors))
    except OSError as error:
        raise InputError(
            f"--config: {path} cannot be read ({error.strerror}): name a TOML file"
        ) from error
    except InputError as error:
        raise InputError(f"--config: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"--config: {path} is not UTF-8 text (byte {error.start}): save it in UTF-8, as TOML"
            " requires"
        ) from error
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError, or Python's error for a number of thousands of digits.
        raise InputError(
            f"--config: {path} is not TOML ({error}): write lines such as learning_rate = 0.1"
        ) from error
    read: dict[str, Any] = {}
    for name, value in content.items():
        table = value if name in GROUPS and isinstance(value, dict) else {name: value}
        for written in table:
            key, checked = _checked(written, table[written], path)
            if key in read:
                raise InputError(f"--config: {path}: {key} is given twice: keep one line")
            read[key] = checked
    return read


def _checked(written: str, value: Any, path: str | Path) -> tuple[str, Any]:
    key = written.replace("-", "_")
    key = RENAMED.get(key, key)
    types = {each.name: type(each.default) for each in dataclasses.fields(Config)}
    if key not in types:
        close = meant(written.lower().replace("_", "-"), [each.replace("_", "-") for each in types])
        guess = f"did you mean {close.replace('-', '_')!r}? " if close else ""
        raise InputError(
            f"--config: {path}: unknown key {written!r}: {guess}the keys are {', '.join(types)}"
        )
    if types[key] is float and type(value) is int and abs(value) < 1 << 1000:
        value = float(value)
    if key == "threads_per_rank" and type(value) is int:
        value = str(value)
    if type(value) is not types[key]:
        raise InputError(
            f"--config: {path}: {written} is {value!r}: it must be {KINDS[types[key]]}"
        )
    return key, value


CONFIG_FLAGS = {
    **{as_flag(each.name): as_flag(each.name) for each in dataclasses.fields(Config)},
    **{as_flag(old): as_flag(new) for old, new in RENAMED.items()},
    **{flag: flag for flag in ("--config", TRUST_FLAG)},
}
"""The flags that make up a configuration, and their present names. Other commands take them too."""

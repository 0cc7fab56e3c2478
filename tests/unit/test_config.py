"""The configuration: flags over TOML over defaults, and every wrong value by name."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from distcnn.config import STEPS_TRACED, Config, as_flag
from distcnn.config_parsing import make_parser, parse_request
from distcnn.errors import InputError
from tests.conftest import ROOT


def parse_config(arguments: list[str]) -> Config:
    return parse_request(arguments).config


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('learning_rate = 1\nmodel = "wide"\nnum-shards = 4\n')
    config = parse_config(["--config", str(tmp_path / "c.toml"), "--model", "mlp"])
    assert (config.learning_rate, config.model, config.num_shards, config.epochs) == (
        1.0,
        "mlp",
        4,
        3,
    )
    assert config.global_batch_size == 4 * 16


def test_a_configuration_survives_its_own_toml(tmp_path: Path) -> None:
    config = Config(seed=2**64 - 1, output="here", weight_decay=1e-4)
    (tmp_path / "c.toml").write_text(tomli_w.dumps(dataclasses.asdict(config)))
    assert parse_config(["--config", str(tmp_path / "c.toml")]) == config


def test_a_flag_may_stand_without_its_value() -> None:
    given = (
        parse_config(flags).trace
        for flags in ([], ["--trace"], ["--trace", "7"], ["--trace", "--epochs", "2"])
    )
    assert list(given) == [0, STEPS_TRACED, 7, STEPS_TRACED]


def test_every_field_is_a_flag_with_help_and_default() -> None:
    text = make_parser().format_help().replace(", --no-", " --no-")
    compact = " ".join(text.split())
    for each in dataclasses.fields(Config):
        assert f"--{each.name.replace('_', '-')} " in text
        if each.default != "" and each.default is not False:
            assert f"(default {each.default})" in compact


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"microbatch_size": 0}, "--microbatch-size is 0: it must be at least 1"),
        ({"num_shards": -1}, "--num-shards is -1: it must be at least 1"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"log_every": 0}, "--log-every is 0"),
        ({"max_steps": -1}, "--max-steps is -1: it must be 0 or more"),
        ({"warmup_steps": -5}, "--warmup-steps is -5"),
        ({"eval_every_epochs": -1}, "--eval-every-epochs is -1"),
        ({"trace": -1}, "--trace is -1: it must be 0 or more"),
        ({"trace_from": -1}, "--trace-from is -1: it must be 0 or more"),
        ({"seed": -1}, "--seed is -1"),
        ({"seed": 2**64}, "--seed is 18446744073709551616"),
        ({"learning_rate": 0.0}, "--learning-rate is 0.0"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan"),
        ({"learning_rate": float("inf")}, "--learning-rate is inf"),
        ({"momentum": 1.0}, "--momentum is 1.0"),
        ({"weight_decay": -0.1}, "--weight-decay is -0.1"),
        (
            {"microbatch_size": 2**21, "reduction": "fast"},
            "--microbatch-size is 2097152: it must be smaller: --reduction fast supports",
        ),
        ({"gradient_limit": 1000.0}, "--gradient-limit is 1000.0: it must be a power of two"),
        ({"gradient_limit": float("inf")}, "--gradient-limit is inf"),
        (
            {"optimizer": "sdg"},
            "unknown --optimizer 'sdg': choose one of nesterov, sgd, adam, adamw",
        ),
        ({"schedule": "cos"}, "unknown --schedule 'cos': choose one of"),
        (
            {"arithmetic": "portable", "reduction": "fast"},
            "--reduction is fast: it must be exact, as --arithmetic portable",
        ),
        ({"reduction": "fastest"}, "unknown --reduction 'fastest': choose one of exact, fast"),
        ({"loss": "mse"}, "unknown --loss 'mse'"),
    ],
)
def test_an_impossible_value_is_refused_by_flag_and_value(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        Config(**values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learnin_rate = 0.1", r"unknown key 'learnin_rate': did you mean 'learning_rate'\?"),
        ("[train]\nepochs = 3", "unknown key 'train'"),
        ('epochs = "3"', "epochs is '3': it must be an integer"),
        ("epochs = true", "epochs is True: it must be an integer"),
        ("epochs = 3.5", "epochs is 3.5: it must be an integer"),
        ("model = 5", "model is 5: it must be a text"),
        ("learning_rate = [1]", r"learning_rate is \[1\]: it must be a number"),
        ("epochs = ", "is not TOML"),
        ("momentum = 2", "--momentum is 2.0"),
        ("eval_every = 2\neval_every_epochs = 3", "eval_every_epochs is given twice"),
        ("epochs = 2\n[optimisation]\nepochs = 3", "epochs is given twice"),
    ],
)
def test_a_wrong_toml_is_refused_by_file_and_key(
    content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text(content)
    with pytest.raises(InputError, match=message):
        parse_config(["--config", str(tmp_path / "c.toml")])


def test_a_missing_or_binary_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no.toml cannot be read \(No such file"):
        parse_config(["--config", str(tmp_path / "no.toml")])
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not UTF-8"):
        parse_config(["--config", str(tmp_path / "b.toml")])


@pytest.mark.parametrize("kind", ["named pipe", "device", "folder"])
def test_a_configuration_that_is_not_a_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = {"named pipe": tmp_path / "pipe.toml", "device": Path("/dev/zero"), "folder": tmp_path}[
        kind
    ]
    if kind == "named pipe":
        os.mkfifo(path)
    with pytest.raises(InputError, match=f"--config: {path} is a {kind}"):
        parse_config(["--config", str(path)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epoch", "3"], "unknown flag --epoch: did you mean --epochs?"),
        (["--epochs", "three"], "argument --epochs: invalid int value: 'three'"),
        (["--epochs"], "argument --epochs: expected one argument"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_a_wrong_flag_is_an_input_error(flags: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_config(flags)
    assert message in str(caught.value)


def test_a_byte_order_mark_is_not_a_key(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbfepochs = 7\n")
    assert parse_config(["--config", str(tmp_path / "c.toml")]).epochs == 7


@pytest.mark.parametrize(
    "content",
    [
        'model = "café"\n'.encode("latin-1"),
        "epochs = 3\n".encode("utf-16"),
        b"epochs = 3\x00\n",
        b"seed = " + b"9" * 5000,
        b"learning_rate = " + b"9" * 400,
        b"epochs = " + b"[" * 5000,
        b'model = "a\\u0000b"\n',
    ],
)
def test_a_file_that_no_editor_would_write_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(content)
    with pytest.raises(InputError) as caught:
        parse_config(["--config", str(tmp_path / "c.toml")])
    assert str(caught.value).splitlines() == [str(caught.value)]


@pytest.mark.parametrize(
    ("key", "guess"),
    [
        ("lr", "learning_rate"),
        ("batch_size", "microbatch_size"),
        ("epoch", "epochs"),
        ("Seed", "seed"),
    ],
)
def test_an_unknown_key_comes_with_a_guess(key: str, guess: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f"{key} = 1\n")
    with pytest.raises(InputError, match=f"unknown key '{key}': did you mean '{guess}'"):
        parse_config(["--config", str(tmp_path / "c.toml")])


def test_the_page_on_resuming_names_every_flag_that_may_change() -> None:
    page = (ROOT / "docs" / "failures.md").read_text()
    (item,) = re.findall(r"These may\s+change: (.*?)\n- ", page, re.DOTALL)
    flags = {as_flag(name) for name in Config(arithmetic="portable").free}
    assert set(re.findall("--[a-z-]+", item)) == flags

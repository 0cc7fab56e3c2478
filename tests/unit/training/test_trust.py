"""Which models a resume may import without permission."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from distcnn.config_parsing import parse_request
from distcnn.errors import InputError
from distcnn.user_code import CODE_FIELDS, own_code, require_outside, require_trust


def test_what_confirms_a_model_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('model = "mine:network"\nepochs = 2\n')
    config = ["--config", str(tmp_path / "c.toml")]
    for more, model in (
        (["--trust-model"], "mine:network"),
        (["--model", "mine:network"], "mine:network"),
        (["--model", "mlp"], "mlp"),
    ):
        assert parse_request([*config, *more]).config.model == model
    with pytest.raises(InputError, match=r"c\.toml names the model 'mine:network'"):
        parse_request(config)


def test_the_refusal_names_only_flags_that_the_command_has() -> None:
    for field, flags, has_flag in (
        ("model", ["model"], True),
        ("loss", ["model"], False),
        ("loss", CODE_FIELDS, True),
    ):
        with pytest.raises(InputError) as refused:
            require_trust({field: "mine:x"}, "run", {}, trusted=False, flags=flags)
        assert (f"or name it yourself: --{field} 'mine:x'" in str(refused.value)) == has_flag
        assert "--trust-model" in str(refused.value)


@pytest.mark.parametrize("model", ["lenet", "no-such"])
def test_distcnns_own_names_need_no_trust(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    require_trust(own_code({"model": model}), tmp_path, {}, False)
    require_outside([model], tmp_path)


def test_a_module_beside_the_run_directory_may_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").mkdir()
    (tmp_path / "own_beside.py").write_text("raise AssertionError('imported')\n")
    (tmp_path / "run-2" / "own_inside.py").write_text("raise AssertionError('imported')\n")
    places: list[Any] = ["", tmp_path / "run"]
    for model in (
        "own_beside:f",
        "run-2.own_inside:f",
        "no_such_module:f",
        ":f",
        "numpy.linalg:norm",
    ):
        require_outside([model], *places)

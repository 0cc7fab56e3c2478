"""The command prints its advice once."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcnn.errors import InputError
from tests.conftest import SERIAL, MakeImageSet, as_flags
from tests.support.training_fixtures import prepare, train


def test_the_command_says_so_once_and_refuses_before_it_reads(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = as_flags(data=image_set(), model="tutorial", epochs=1, output=tmp_path / "run")
    done = train(SERIAL, 1, *flags, "--optimizer", "adamw")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("warning: --optimizer adamw") == 1
    assert done.stdout.count("warning: the whole run is 2 steps") == 1
    with pytest.raises(InputError, match="--num-shards"):
        prepare(image_set(), num_shards=204)

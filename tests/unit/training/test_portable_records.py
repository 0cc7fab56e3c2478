"""A portable run writes the same receipt, metrics and weights on all machines and ranks."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import distcnn as dc
from distcnn.config import OF_THE_MACHINE
from distcnn.distributed import Communicator
from distcnn.errors import InputError
from distcnn.report.facts import ranks_of
from distcnn.report.records import read_run
from distcnn.report.repetition import repetition
from distcnn.training import consistency, starts
from distcnn.training.comparison import Different
from distcnn.training.fingerprint import fingerprint
from distcnn.training.line_files import SPEED, recorded_metrics
from distcnn.training.receipt import read_receipt
from distcnn.training.replay import replay
from distcnn.training.results import RunResult, damage_of
from tests.conftest import MakeImageSet, write_image_set
from tests.support.training_fixtures import copy_as_killed, receipt, store_of

SAME = "receipt.jsonl", "metrics.jsonl", "metrics.csv", "weights.h5", "weights-best.h5"
OTHER_MACHINE = {
    **fingerprint(),
    **{"python": "3.99", "numpy": "9.9", "blas": "another", "blas_threads": "64"},
    **{"machine": "vax", "cpu_flags": "", "environment": "MKL_CBWR=x", "arithmetic": "0"},
}


def trainer(threads: int | str = 1, **settings: Any) -> dc.Trainer:
    return dc.Trainer(
        "tutorial",
        microbatch_size=8,
        arithmetic="portable",
        threads_per_rank=threads,  # type: ignore[arg-type]
        **settings,
    )


def fit(data: Path, output: Path, threads: int | str = 1, **settings: Any) -> RunResult:
    """A run of 8 steps."""
    kept = {"epochs": 2, "log_every": 1, "check_every": 2, "checkpoint_every": 3, "keep": 9}
    return trainer(threads).fit(data, output=output, **(kept | settings))


@pytest.fixture(scope="session")
def whole(image_set: MakeImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A portable run that was never stopped; checkpoints of the steps 3, 4, 6, 8. Do not change
    it.
    """
    path = tmp_path_factory.mktemp("portable") / "whole"
    result = fit(image_set(), path)
    last = (path / "receipt.jsonl").read_bytes().splitlines()[-1]
    assert result.receipt_sha256 == hashlib.sha256(last).hexdigest()
    assert store_of(path).steps() == [3, 4, 6, 8]
    return path


@pytest.fixture
def killed(whole: Path, tmp_path: Path) -> Path:
    """A copy of ``whole`` as a kill after step 6 leaves it."""
    return copy_as_killed(whole, tmp_path / "killed", lost=8)


def environment(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "environment.jsonl").read_text().splitlines()]


def assert_same_files(run: Path, other: Path) -> None:
    for name in SAME:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    results = [json.loads((each / "result.json").read_text()) for each in (run, other)]
    assert results[0]["receipt_sha256"] == results[1]["receipt_sha256"]
    assert damage_of(run) is None


def test_folder_threads_and_upkeep_are_not_in_the_records(
    whole: Path, image_set: MakeImageSet, tmp_path: Path
) -> None:
    data = shutil.copy(image_set(), tmp_path / "elsewhere.h5")
    settings: dict[str, Any] = {"keep": 1, "checkpoint_every": 0, "stall_timeout": 99.0}
    fit(Path(data), tmp_path / "run", 16, **settings)  # 2 of BLAS for each of 8 shards
    assert_same_files(tmp_path / "run", whole)
    recorded = receipt(whole)[0]
    assert recorded.keys() == {"kind", "step", "configuration", "dataset"}
    assert not recorded["configuration"].keys() & OF_THE_MACHINE
    assert recorded["dataset"].keys() == {"content_sha256", "train_examples", "test_examples"}
    [here] = environment(tmp_path / "run")
    assert (here["world_size"], here["configuration"]["keep"]) == (1, 1)
    assert here["configuration"]["data"] == str(data)
    assert here["software"].keys() == fingerprint().keys()
    assert here["software"]["blas_threads"] == "2"
    assert "started" in here["machine"]


def test_the_start_does_not_depend_on_ranks(whole: Path, image_set: MakeImageSet) -> None:
    [start] = environment(whole)
    other = {**start, "world_size": 7, "machine": {"ranks_by_host": {"b": 7}}, "software": {}}
    other["configuration"] = start["configuration"] | {"output": "x", "overlap": "on"}
    other["dataset"] = start["dataset"] | {"name": "b", "source": "c", "sha256": "d"}
    line = {"kind": "start", "step": 0, **starts.portable_part(other)}
    assert line == receipt(whole)[0]


def test_the_image_set_may_have_other_names(
    whole: Path, image_set: MakeImageSet, tmp_path: Path
) -> None:
    data = shutil.copy(image_set(), tmp_path / "renamed.h5")
    with h5py.File(data, "r+") as file:
        file.attrs["name"], file.attrs["source"] = "another name", "made elsewhere"
        for name in ("sha256", "blocks_sha256"):
            file.attrs.pop(name, None)
    fit(Path(data), tmp_path / "run")
    assert_same_files(tmp_path / "run", whole)
    replayed = replay(tmp_path / "run", str(image_set()), 0, None, Communicator(), print)
    assert replayed.result


def test_speeds_are_in_a_file_of_their_own(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    timings = [json.loads(line) for line in (whole / "timings.jsonl").read_text().splitlines()]
    assert all(SPEED not in line for line in lines)
    assert SPEED not in (whole / "metrics.csv").read_text()
    assert [(line["kind"], line["step"]) for line in timings] == [
        (line["kind"], line["step"]) for line in lines
    ]
    merged = recorded_metrics(whole)
    assert [line.pop(SPEED) > 0 for line in merged] == [True] * len(lines)
    assert merged == lines
    assert read_run(whole, "run").history[SPEED][-1] == (8, timings[-2][SPEED])


@pytest.mark.parametrize("cut", [1, 500, 1000, 2000, 100_000])
def test_a_run_that_was_killed_and_moved_ends_with_the_same_files(
    cut: int, killed: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine of another kind, with another number of threads, and whatever was written."""
    for name in ("receipt.jsonl", "metrics.jsonl", "timings.jsonl"):
        (killed / name).write_bytes((killed / name).read_bytes()[:cut])
    with (killed / "environment.jsonl").open("a") as file:
        file.write('{"kind": "resu')  # killed while it was resumed
    moved = killed.rename(tmp_path / "moved")
    monkeypatch.setattr(consistency, "fingerprint", lambda: OTHER_MACHINE)
    data = environment(whole)[0]["configuration"]["data"]
    trainer("auto").fit(data, epochs=2, log_every=1, check_every=2, resume=moved)
    assert_same_files(moved, whole)
    lines = environment(moved)
    assert [(line["kind"], line["step"]) for line in lines] == [("start", 0), ("resume", 6)]
    assert lines[1]["software"]["machine"] == "vax"
    assert lines[1]["configuration"]["threads_per_rank"] == "auto"
    steps = [json.loads(line) for line in (moved / "timings.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]


def test_a_run_that_starts_again_or_elsewhere_keeps_its_environment(
    killed: Path, whole: Path, tmp_path: Path
) -> None:
    data = environment(whole)[0]["configuration"]["data"]
    same: dict[str, Any] = {"epochs": 2, "log_every": 1, "check_every": 2, "resume": killed}
    trainer().fit(data, output=tmp_path / "elsewhere", **same)
    assert_same_files(tmp_path / "elsewhere", whole)
    assert [line["kind"] for line in environment(tmp_path / "elsewhere")] == ["start", "resume"]
    shutil.rmtree(killed / "checkpoints")
    trainer().fit(data, **same)
    assert_same_files(killed, whole)
    assert [line["kind"] for line in environment(killed)] == ["start", "start"]


def test_only_a_changed_configuration_is_in_the_receipt(
    killed: Path, image_set: MakeImageSet, caplog: pytest.LogCaptureFixture
) -> None:
    result = trainer().fit(image_set(), epochs=2, log_every=4, check_every=2, resume=killed)
    [line] = [line for line in receipt(killed) if line["kind"] == "resume"]
    assert (line["step"], line["configuration"]["log_every"]) == (6, 4)
    found = replay(killed, None, 0, None, Communicator(), print)
    assert found.result is not None
    assert found.result.params_sha256 == result.params_sha256


def test_other_machines_are_no_warning_but_another_distcnn_is(
    killed: Path, whole: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="distcnn")
    data, said = environment(whole)[0]["configuration"]["data"], list[str]()
    for software, warns in ((OTHER_MACHINE, False), ({**OTHER_MACHINE, "sources": "x"}, True)):
        run = Path(shutil.copytree(killed, killed.with_name(software["sources"])))
        monkeypatch.setattr(consistency, "fingerprint", lambda software=software: software)
        trainer(2).fit(data, epochs=2, log_every=1, check_every=2, resume=run)
        assert ("other software; its bits may differ" in caplog.text) == warns
        assert ("processor" in caplog.text, "BLAS thread" in caplog.text) == (False, False)
        caplog.clear()
        said.clear()
        replay(whole, None, 0, 4, Communicator(), said.append)
        assert any("other software" in line for line in said) == warns


class Several(Communicator):
    """Two ranks, of which the other has ``other``."""

    other: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.world_size, self.hosts = 2, ["a", "b"]

    def allgather(self, item: Any) -> list[Any]:
        return [item, {name: self.other[name] for name in item}]


@pytest.mark.parametrize("is_portable", [False, True])
def test_ranks_of_another_kind_are_a_warning_in_native_arithmetic_only(is_portable: bool) -> None:
    ranks, said = Several(), list[str]()
    for ranks.other in (OTHER_MACHINE, {**fingerprint(), "distcnn": "0.1"}):
        assert consistency.same_software(ranks, said.append, is_portable) == fingerprint()
    assert len(said) == (1 if is_portable else 2)
    assert "'0.1' on rank 1): " in said[-1]
    assert "install the same distcnn" in said[-1]
    if not is_portable:
        assert "--arithmetic portable" in said[0]


def test_threads_may_not_change_in_a_native_run(left_alone: Path, image_set: MakeImageSet) -> None:
    with pytest.raises(InputError, match="threads_per_rank"):
        dc.Trainer("tutorial", microbatch_size=8, threads_per_rank=2).fit(
            image_set(), epochs=2, resume=left_alone
        )


def test_a_replay_finds_the_images_or_is_given_them(
    whole: Path, image_set: MakeImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    assert replay(run, None, 0, None, Communicator(), print).result
    (run / "environment.jsonl").unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="which is not there"):
        replay(run, None, 0, None, Communicator(), print)
    said = list[str]()
    assert replay(run, str(image_set()), 0, None, Communicator(), said.append).result
    assert not any("warning" in line for line in said)
    other = write_image_set(tmp_path / "other.h5", test=78)
    with pytest.raises(Different, match="the image set's content_sha256"):
        replay(run, str(other), 0, None, Communicator(), print)


@pytest.mark.parametrize("content", ["[]\n", "{}\n", '{"kind": "weights", "step": 1}\n', "\xe9\n"])
def test_an_environment_that_is_none_is_refused(content: str, whole: Path, tmp_path: Path) -> None:
    for name in ("receipt.jsonl", "environment.jsonl"):
        shutil.copy(whole / name, tmp_path)
    with (tmp_path / "environment.jsonl").open("a", encoding="latin-1") as file:
        file.write(content)
    with pytest.raises(InputError, match=r"environment\.jsonl is damaged"):
        read_receipt(tmp_path)


def test_the_report_knows_of_all_machines(killed: Path, whole: Path) -> None:
    data = environment(whole)[0]["configuration"]["data"]
    trainer(16).fit(data, epochs=2, log_every=1, check_every=2, resume=killed)
    run = read_run(killed, "run")
    assert [start["kind"] for start in run.starts] == ["start", "resume"]
    assert ranks_of(run) == "1"
    assert run.recorded("software", "blas_threads") == "2"
    assert run.recorded("dataset", "name") == environment(whole)[0]["dataset"]["name"]
    assert run.config is not None
    assert run.config.threads_per_rank == "16"
    assert "--arithmetic portable" in repetition(run)
    assert repetition(run).count("\n") == 0, "an interruption does not add a command"


def weights_file(path: Path, change: Callable[[Any], Any] = lambda values: values) -> Path:
    rng = np.random.default_rng(0)
    np.savez(
        path,
        **{
            "conv1.weight": change(rng.standard_normal((8, 1, 3, 3)).astype(np.float32)),
            "conv1.bias": np.zeros(8, np.float32),
        },
    )
    return path


def test_initial_weights_are_known_by_their_values(image_set: MakeImageSet, tmp_path: Path) -> None:
    for name, change in (("a", np.asarray), ("b", np.asarray), ("c", np.negative)):
        file = weights_file(tmp_path / f"{name}.npz", change)
        start = trainer(initial_weights=file, map="conv1=conv1")
        start.fit(image_set(), epochs=2, max_steps=2, output=tmp_path / name)
    for name in (*SAME, "weights-initial.h5"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    starts_of = [receipt(tmp_path / name)[0]["initial_weights"] for name in "abc"]
    assert starts_of[0] == starts_of[1] != starts_of[2]
    assert environment(tmp_path / "a")[0]["initial_weights"]["file"].endswith("a.npz")
    assert replay(tmp_path / "a", None, 0, None, Communicator(), print).result
    for path in (tmp_path / "a.npz", tmp_path / "a" / "result.json", tmp_path / "a" / "SHA256SUMS"):
        path.unlink()
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    start = trainer(initial_weights=tmp_path / "a.npz", map="conv1=conv1")
    start.fit(image_set(), epochs=2, max_steps=2, resume=tmp_path / "a")
    for name in SAME:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

"""``python -m distcnn.verify``: a run that matches its receipt is identical on any ranks; every
change to it is found and named.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import h5py
import pytest

from distcnn.training.receipt import read_receipt
from tests.conftest import SERIAL, MakeImageSet, as_flags, launcher_of, slow, write_image_set
from tests.support.training_fixtures import (
    CHECKED,
    STOPPING_MODEL,
    content,
    receipt,
    with_path,
    write_receipt,
)

ALTERED = "0" * 64


def verify(
    run: Path, *flags: str, ranks: int = 1, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command, which must change nothing."""
    launcher = launcher_of(ranks)
    before = content(run)
    done = launcher.run(
        ranks, "-m", "distcnn.verify", str(run), "--trust-model", *flags, **environment
    )
    assert content(run) == before
    return done


def assert_identical(run: Path, *flags: str, steps: str = "0 to 12", **options: Any) -> None:
    done = verify(run, *flags, **options)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert f"identical: steps {steps} (" in done.stdout
    assert "\nnot checked: " in done.stdout
    assert "different" not in done.stdout


def assert_all_stretches_identical(run: Path, **options: Any) -> None:
    done = verify(run, "--sample", "999", **options)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "(100 %), drawn with" in done.stdout


def assert_different(run: Path, message: str, *flags: str, **options: Any) -> None:
    done = verify(run, *flags, **options)
    assert done.returncode == 1, f"{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    assert re.search(f"^different: {message}", done.stdout, re.MULTILINE), done.stdout
    assert "identical" not in done.stdout


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("made_on", "replayed_on"), [(1, (3,)), *slow((2, (1,)), (3, (2,)), (4, (1, 2)))]
)
def test_a_run_is_identical_on_any_ranks(
    made_on: int, replayed_on: tuple[int, ...], image_set: MakeImageSet, tmp_path: Path
) -> None:
    launcher = launcher_of(made_on)
    launcher.train(made_on, tmp_path / "run", "--data", str(image_set()), *CHECKED)
    for ranks in replayed_on:
        assert_identical(tmp_path / "run", ranks=ranks)


@pytest.mark.mpi
def test_a_sample_is_identical_on_any_ranks(checked: Path) -> None:
    flags = ["--sample", "3", "--sample-seed", "1"]
    alone, together = (verify(checked, *flags, ranks=ranks).stdout for ranks in (1, 3))
    assert alone.splitlines()[-5:] == together.splitlines()[-5:]
    assert "\nidentical: 3 of 6 stretches, " in alone


@pytest.mark.slow
@pytest.mark.mpi
def test_a_run_that_was_stopped_and_changed_is_identical(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    """Stopped mid-epoch on one rank; resumed on two with other flags into an epoch, then on one for
    more epochs.
    """
    (tmp_path / "stopping.py").write_text(STOPPING_MODEL)
    path, run = with_path(tmp_path), tmp_path / "run"
    data = ["--data", str(image_set()), *CHECKED, "--model", "stopping:network"]
    stop = {"STOP_SIGNAL": "SIGUSR1", "STOP_AT_CALL": str(5 * 8 + 10 + 4)}
    done = SERIAL.run(
        1, "-m", "distcnn.train", *data, "--output", str(run), PYTHONPATH=path, **stop
    )
    assert done.returncode == 85, done.stderr
    assert_identical(run, steps="0 to 6", PYTHONPATH=path)
    assert_all_stretches_identical(run, PYTHONPATH=path)
    resumes: list[tuple[int, list[str]]] = [
        (2, ["--max-steps", "10", "--check-every", "1", "--eval-every", "2"])
    ]
    resumes += [
        (1, ["--max-steps", "0", "--epochs", "4", "--check-every", "3", "--log-every", "1"])
    ]
    for (ranks, flags), last in zip(resumes, (10, 16), strict=True):
        launcher = launcher_of(ranks)
        done = launcher.run(
            ranks,
            "-m",
            "distcnn.train",
            *as_flags(resume=run, trust_model=True),
            *flags,
            PYTHONPATH=path,
        )
        assert done.returncode == 0, done.stderr
        assert_identical(run, steps=f"0 to {last}", PYTHONPATH=path)
        assert_identical(run, "--from-step", "5", steps=f"4 to {last}", PYTHONPATH=path)
    assert [line["step"] for line in receipt(run) if line["kind"] == "resume"] == [6, 10]
    assert_identical(run, ranks=3, steps="0 to 16", PYTHONPATH=path)
    assert_all_stretches_identical(run, ranks=3, PYTHONPATH=path)


@pytest.mark.slow
def test_a_run_that_was_stopped_before_an_epochs_test_is_identical(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    """Stopped in an epoch's last step, it tests (or not) after its resume, as the new flags say."""
    (tmp_path / "stopping.py").write_text(STOPPING_MODEL)
    path, run, checkpoint = (
        with_path(tmp_path),
        tmp_path / "run",
        tmp_path / "run" / "checkpoints" / "step-000000004.h5",
    )
    data, stop = (
        ["--data", str(image_set()), *CHECKED, "--model", "stopping:network"],
        {"STOP_SIGNAL": "SIGUSR1", "STOP_AT_CALL": "31"},
    )
    assert (
        SERIAL.run(
            1, "-m", "distcnn.train", *data, "--output", str(run), PYTHONPATH=path, **stop
        ).returncode
        == 85
    )
    before_test = checkpoint.read_bytes()
    flags = ["--resume", str(run), "--model", "stopping:network", "--eval-every", "2"]
    assert SERIAL.run(1, "-m", "distcnn.train", *flags, PYTHONPATH=path).returncode == 0
    assert "test_correct" not in next(line for line in receipt(run) if line["kind"] == "epoch")
    for content_of_checkpoint in (
        checkpoint.read_bytes(),
        before_test,
    ):  # the latter is there when it was killed too early
        checkpoint.write_bytes(content_of_checkpoint)
        assert_identical(run, "--from-step", "4", steps="4 to 12", PYTHONPATH=path)
        assert_all_stretches_identical(run, PYTHONPATH=path)
    assert_identical(run, PYTHONPATH=path)


@pytest.mark.slow
def test_an_unfinished_run_is_identical_as_far_as_it_went(checked_copy: Path) -> None:
    lines = (checked_copy / "receipt.jsonl").read_text().splitlines(keepends=True)
    (checked_copy / "result.json").unlink()
    for count, last in (
        (len(lines) - 1, 12),
        (5, 6),
        (4, 4),
        (3, 4),
        (1, 0),
    ):  # 3: between the weights and their epoch
        (checked_copy / "receipt.jsonl").write_text(
            "".join(lines[:count]) + lines[-1][: len(lines[-1]) // 2]
        )
        assert_identical(checked_copy, steps=f"0 to {last}")


def test_the_image_set_may_be_elsewhere(image_set: MakeImageSet, tmp_path: Path) -> None:
    data = shutil.copy(image_set(), tmp_path / "set.h5")
    SERIAL.train(1, tmp_path / "run", "--data", str(data), *CHECKED)
    Path(data).unlink()
    done = verify(tmp_path / "run")
    assert done.returncode == 2
    assert f"{data}, which is not there" in done.stderr
    assert "--data" in done.stderr
    assert_identical(tmp_path / "run", "--data", str(image_set()))
    other = write_image_set(tmp_path / "other.h5", test=78)
    assert_different(
        tmp_path / "run",
        r"step 0: the image set's sha256 is \w{64} in the receipt, but \w{64} in",
        "--data",
        str(other),
    )


# -- what was altered


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_hash_that_was_altered_is_named(ranks: int, checked_copy: Path) -> None:
    text, sha256 = (
        (checked_copy / "receipt.jsonl").read_text(),
        receipt(checked_copy)[5]["parameters"]["conv1.bias"],
    )
    assert receipt(checked_copy)[5]["step"] == 8
    (checked_copy / "receipt.jsonl").write_text(text.replace(sha256, ALTERED))
    link = r"step 8: receipt\.jsonl was changed: its line 7 does not have the SHA-256 of the line"
    assert_different(checked_copy, link, ranks=ranks)
    write_receipt(checked_copy, receipt(checked_copy))
    message = (
        rf"step 8 \(.*: step 6\): parameter conv1\.bias: SHA-256 {ALTERED} in the receipt,"
        rf" but {sha256} in the replay"
    )
    assert_different(checked_copy, message, ranks=ranks)
    assert_different(
        checked_copy,
        r"step 8, in its checkpoint: parameter conv1\.bias",
        "--from-step",
        "8",
        ranks=ranks,
    )
    assert_identical(
        checked_copy, "--from-step", "5", "--to-step", "7", steps="4 to 7", ranks=ranks
    )


def resumed(lines: list[dict[str, Any]], **dataset: Any) -> None:
    """Make the run look as if it had been resumed after step 6."""
    place = next(number for number, line in enumerate(lines) if line["step"] > 6)
    lines.insert(
        place,
        {**lines[0], "kind": "resume", "step": 6, "dataset": {**lines[0]["dataset"], **dataset}},
    )


def test_what_was_altered_is_an_exit_code_of_1(checked_copy: Path) -> None:
    text, lines = (checked_copy / "receipt.jsonl").read_text(), receipt(checked_copy)
    (checked_copy / "SHA256SUMS").unlink()
    resumed(lines)
    write_receipt(checked_copy, lines)
    found = r"step 12: receipt_sha256: \w{64} in result\.json, but \w{64} in the replay"
    assert_different(checked_copy, found)
    values = json.loads((checked_copy / "result.json").read_text())
    forged = {**values, "receipt_sha256": read_receipt(checked_copy).sha256}
    (checked_copy / "result.json").write_text(json.dumps(forged))
    assert_identical(checked_copy)
    lines = receipt(checked_copy)
    next(line for line in lines if line["kind"] == "resume")["dataset"]["content_sha256"] = ALTERED
    write_receipt(checked_copy, lines)
    assert_different(
        checked_copy,
        rf"step 6: the image set's content_sha256 is {ALTERED} in the receipt, but \w{{64}} in",
    )
    (checked_copy / "receipt.jsonl").write_text(text)
    lines = receipt(checked_copy)
    lines[0]["configuration"]["learning_rate"] = 1e20
    write_receipt(checked_copy, lines)
    assert_different(checked_copy, r"step \d: the replay cannot continue: step 1, shard 0: ")
    (checked_copy / "receipt.jsonl").write_text(text)
    values = json.loads((checked_copy / "result.json").read_text())
    (checked_copy / "result.json").write_text(json.dumps(values | {"test_correct": 78}))
    assert_different(
        checked_copy,
        rf"step 12: test_correct: 78 in result\.json, but {values['test_correct']} in the replay",
        "--from-step",
        "11",
    )


@pytest.mark.slow
def test_files_of_another_run_are_found(
    checked_copy: Path, checked: Path, image_set: MakeImageSet, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    SERIAL.train(1, other, "--data", str(image_set()), *CHECKED, "--seed", "1")
    shutil.copy(other / "weights.h5", checked_copy)
    assert_different(
        checked_copy,
        r"step 12: parameter conv1\.weight: SHA-256 \w{64} in weights\.h5,"
        r" but \w{64} in the replay",
    )
    shutil.copy(other / "result.json", checked_copy)
    assert_different(
        checked_copy, r"step 12: params_sha256: \w{64} in result\.json, but \w{64} in the replay"
    )
    assert_identical(checked_copy, "--to-step", "10", steps="0 to 10")
    shutil.copy(checked / "result.json", checked_copy)
    (checked_copy / "weights.h5").write_bytes((checked / "weights.h5").read_bytes()[:-1000])
    assert_different(checked_copy, r"step 12: weights\.h5 is damaged \(")
    shutil.copytree(other / "checkpoints", checked_copy / "checkpoints", dirs_exist_ok=True)
    done = verify(checked_copy, "--from-step", "4", "--to-step", "8")
    assert done.returncode == 2
    assert (
        "checkpoint of step 4: shard 0 had used" in done.stderr
    )  # the order of examples depends on the seed


def test_a_receipt_that_was_cut_off_is_not_identical(checked_copy: Path) -> None:
    write_receipt(checked_copy, receipt(checked_copy)[:-2])
    assert_different(
        checked_copy, r"receipt\.jsonl has no line after step 12, although the run has finished"
    )
    write_receipt(checked_copy, receipt(checked_copy)[:4])
    assert_different(
        checked_copy,
        r"receipt\.jsonl has no line after step \d, although the run has finished",
        "--to-step",
        "4",
    )
    (checked_copy / "result.json").unlink()  # now it is that of a run that was killed
    assert verify(checked_copy).stdout.splitlines()[-2].startswith("identical: ")


def test_the_damaged_file_is_the_one_that_is_named(checked_copy: Path) -> None:
    (checked_copy / "weights-best.h5").write_bytes(b"")
    assert_different(checked_copy, r"step 12: weights-best\.h5 is damaged \(")


def test_metrics_beyond_the_receipt_are_said_not_to_be_checked(killed: Path) -> None:
    kept = [line for line in receipt(killed) if line["step"] < 12]
    write_receipt(killed, kept)
    last = kept[-1]["step"]
    assert json.loads((killed / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 12
    assert f"metrics after step {last}, where the receipt ends" in verify(killed).stdout


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "metrics.csv",
            ",",
            ";",
            "step 12: metrics.csv does not have the numbers of metrics.jsonl",
        ),
        ("metrics.jsonl", '"step": 4,', '"step": 9, "step": 4,', "metrics.jsonl was changed"),
        ("metrics.jsonl", '"step": 4,', '"step":  4,', "metrics.jsonl was changed"),
        ("metrics.jsonl", '"epoch": 1,', '"epoch": true,', "step .* have other types"),
        ("metrics.jsonl", '"epoch": 1,', '"epoch": 1.0,', "step .* have other types"),
    ],
)
def test_forged_metrics_are_different(
    name: str, old: str, new: str, message: str, checked_copy: Path
) -> None:
    text = (checked_copy / name).read_text()
    assert old in text
    (checked_copy / name).write_text(text.replace(old, new, 1))
    (checked_copy / "SHA256SUMS").unlink()
    done = verify(checked_copy)
    assert done.returncode in (1, 2)
    assert re.search(message, done.stdout + done.stderr)
    assert "identical" not in done.stdout


def test_sums_that_are_damaged_or_missing_are_said(checked_copy: Path) -> None:
    text = (checked_copy / "SHA256SUMS").read_text()
    for damaged in (
        b"",
        text.encode()[:190],
        text[text.index("\n") + 1 :].encode(),
        text.replace("e", "\xe9").encode("latin-1"),
    ):
        (checked_copy / "SHA256SUMS").write_bytes(damaged)
        assert_different(checked_copy, r"step 12: .*SHA256SUMS")
    (checked_copy / "SHA256SUMS").unlink()
    assert "SHA256SUMS is missing" in verify(checked_copy).stdout.splitlines()[-1]


def test_one_bit_of_the_weights_is_found(checked_copy: Path) -> None:
    with h5py.File(checked_copy / "weights.h5", "r+") as file:
        values = file["dense1.bias"][...]
        values.view("u4")[3] ^= 1
        file["dense1.bias"][...] = values
    assert_different(
        checked_copy,
        r"step 12: parameter dense1\.bias: SHA-256 \w{64} in weights\.h5, but \w{64} in the replay",
    )


def test_bad_input_is_refused(checked_copy: Path, tmp_path: Path) -> None:
    for flags, message in (
        (["--from-step", "12"], "--from-step 12 --to-step 12: the receipt covers steps 0 to 12"),
        (["--to-step", "-1"], "--from-step 0 --to-step -1: the receipt covers steps 0 to 12"),
        (
            ["--from-step", "x"],
            "argument --from-step: invalid int value: 'x' (see python -m distcnn.verify --help)",
        ),
    ):
        done = verify(checked_copy, *flags)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert message in done.stderr
    (checked_copy / "receipt.jsonl").write_text("this is not JSON\n")
    assert "receipt.jsonl is damaged" in verify(checked_copy).stderr
    done = verify(tmp_path)
    assert done.returncode == 2
    assert "receipt.jsonl cannot be read" in done.stderr

"""The network of a run on image sets: its own, another, one that does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import distcnn as dc
from distcnn.distributed import Communicator
from distcnn.evaluate.__main__ import evaluate_command, parse
from distcnn.evaluate.evaluation import Evaluated, evaluate
from distcnn.evaluate.output import as_json, as_text, draw_mistakes, shortened, table
from distcnn.score import Score
from tests.conftest import MakeImageSet

KEPT = ("config.toml", "result.json", "weights.h5", "weights-best.h5")


def train(
    path: Path, output: Path, size: int = 8, validation: int = 0, **settings: object
) -> dc.RunResult:
    trainer = dc.Trainer("tutorial", num_shards=3, microbatch_size=size, **settings)  # type: ignore[arg-type]
    return trainer.fit(path, epochs=2, output=output, validation=validation)


@pytest.fixture(scope="module")
def run(image_set: MakeImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    train(image_set(), path, size=68)
    return path


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """What one gives away of a run."""
    path = tmp_path / "copy"
    path.mkdir()
    for name in KEPT:
        shutil.copy(run / name, path)
    return path


def found(run: Path, data: Path | None = None, **options: str) -> Evaluated:
    given = {"data": str(data)} if data else {}
    with threadpool_limits(1):
        return evaluate(Communicator(), str(run), **given, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 7, 16, 100])
def test_the_runs_own_test_is_repeated_bit_for_bit(
    size: int, image_set: MakeImageSet, tmp_path: Path
) -> None:
    result = train(image_set(), tmp_path / "run", size)
    own = found(tmp_path / "run")
    score = own.score
    assert (score.correct, score.loss) == (result.test_correct, result.test_loss)
    assert (score.examples, own.notices, own.is_runs_own) == (77, (), True)


def test_the_set_of_a_run_with_validation_is_its_own(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    train(image_set(), tmp_path / "run", validation=20)
    assert found(tmp_path / "run").is_runs_own
    assert not found(tmp_path / "run", image_set(train=204)).is_runs_own


@pytest.mark.parametrize("size", [7, 20])
def test_the_splits_of_a_run_with_validation(
    size: int, image_set: MakeImageSet, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    slow = dc.optim.SGD(learning_rate=1e-6)  # so that there are mistakes
    result = train(image_set(), run, size, validation=20, optimizer=slow)
    held_out = found(run, split="validation")
    assert held_out.score.examples == 20
    assert held_out.score.loss == result.validation_loss
    assert held_out.score.accuracy == result.validation_accuracy
    kept = found(run, split="train")
    assert kept.score.examples == 183
    assert "the other 20 were held out" in kept.notices[0]
    _, labels = dc.datasets.open(image_set()).read("train")
    mistakes = [*held_out.score.mistakes, *kept.score.mistakes]
    assert mistakes
    assert all(labels[mistake.index] == mistake.label for mistake in mistakes)
    assert len({mistake.index for mistake in mistakes}) == len(mistakes)
    draw_mistakes(held_out, str(tmp_path / "worst.png"))


def test_no_validation_split_without_validation(
    run: Path, copy: Path, image_set: MakeImageSet, tmp_path: Path
) -> None:
    with pytest.raises(dc.InputError, match=r"without --validation.*--split test or train"):
        found(run, split="validation")
    (copy / "config.toml").unlink()
    with pytest.raises(dc.InputError, match="does not say what was held out"):
        found(copy, image_set(), split="validation")
    train(image_set(), tmp_path / "run", validation=20)
    other = image_set(train=204)
    with pytest.raises(dc.InputError, match=r"not the image set of .*leave --data out"):
        found(tmp_path / "run", other, split="validation")
    assert found(tmp_path / "run", other, split="train").score.examples == 204


def test_best_weights_and_the_training_split(run: Path) -> None:
    assert found(run, split="train").score.examples == 203
    assert found(run, weights="best").score.examples == 77


def test_a_file_of_weights_stands_for_its_run(run: Path) -> None:
    assert found(run / "weights.h5").score.loss == found(run).score.loss


def test_other_data_are_noticed(copy: Path, image_set: MakeImageSet, tmp_path: Path) -> None:
    other = found(copy, image_set(train=203, test=78))
    assert not other.is_runs_own
    assert "not the image set of the run" in other.notices[0]
    moved = Path(shutil.copy(image_set(), tmp_path / "moved.h5"))
    assert found(copy, moved).is_runs_own
    with h5py.File(moved, "r+") as file:
        file["test/labels"][0] = (file["test/labels"][0] + 1) % 10
        for name in ("sha256", "blocks_sha256"):  # as someone who means it would
            file.attrs[name] = ""
        file.attrs["class_names"] = [f"class {index}" for index in range(10)]
    changed = found(copy, moved)
    assert not changed.is_runs_own
    assert "'0' is 'class 0'" in changed.notices[1]


def test_a_set_that_does_not_fit_is_refused(copy: Path, image_set: MakeImageSet) -> None:
    with pytest.raises(dc.InputError, match=r"1x30x28.*trained on images of 1x28x28"):
        found(copy, image_set(shape=(30, 28)))
    with pytest.raises(dc.InputError, match=r"9 classes.*10 classes"):
        found(copy, image_set(classes=9))


def test_without_records_the_image_set_must_be_named(copy: Path, image_set: MakeImageSet) -> None:
    (copy / "config.toml").unlink()
    with pytest.raises(dc.InputError, match="--data"):
        found(copy)
    named = found(copy, image_set())
    assert named.is_runs_own is None
    assert "not checked" in named.notices[0]


def test_an_image_set_that_has_moved_must_be_named(image_set: MakeImageSet, tmp_path: Path) -> None:
    data = Path(shutil.copy(image_set(), tmp_path / "set.h5"))
    train(data, tmp_path / "run")
    data.unlink()
    with pytest.raises(dc.InputError, match=r"trained on .*set\.h5.*--data"):
        found(tmp_path / "run")


def test_another_loss_is_noticed(image_set: MakeImageSet, tmp_path: Path) -> None:
    train(
        image_set(),
        tmp_path / "run",
        loss="squared-error",
        optimizer=dc.optim.SGD(learning_rate=1e-4),
    )
    (notice,) = found(tmp_path / "run").notices
    assert "squared-error" in notice


# -- output


def test_the_text_has_all_parts(run: Path) -> None:
    lines = as_text(found(run))
    assert lines[1].startswith("accuracy  0.")
    rows = lines[lines.index("") + 1 :]
    assert rows[0].split() == ["class", "images", "precision", "recall", "F1"]
    assert len(rows[1].split()) == 5


def test_many_classes_show_confusions_instead_of_a_matrix(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    train(image_set(classes=15, train=150), tmp_path / "run")
    few = found(tmp_path / "run")
    assert any(line.startswith("confusion matrix") for line in as_text(few))
    named = Evaluated(**{**vars(few), "class_names": tuple(map(str, range(21)))})
    confusion = np.zeros((21, 21), np.int64)
    confusion[3, 20], confusion[7, 7], confusion[1, 0] = 5, 9, 2
    score = Score(confusion, 0.5, ())
    assert score.confusions(9) == [(3, 20, 5), (1, 0, 2)]
    lines = as_text(Evaluated(**{**vars(named), "score": score}))
    assert [line.split() for line in lines[-2:]] == [["3", "20", "5"], ["1", "0", "2"]]


def test_long_and_wide_names_fit_a_table(run: Path) -> None:
    assert shortened("maple leaf, the autumn one") == "maple leaf,…e autumn one"
    assert table([["数字", "1"], ["abcd", "22"]]) == ["数字   1", "abcd  22"]
    own = found(run)
    named = Evaluated(**{**vars(own), "class_names": tuple(f"long name {n}" for n in range(10))})
    lines = as_text(named)
    head = next(at for at, line in enumerate(lines) if line.startswith("confusion matrix")) + 1
    assert lines[head].split() == list(map(str, range(10)))
    assert lines[head + 1].startswith("0 long name 0  ")


def test_the_json_document_has_all_numbers(run: Path) -> None:
    own = found(run)
    document = json.loads(as_json(own))
    assert document["confusion"] == own.score.confusion.tolist()
    assert document["interval"] == list(own.score.interval)
    assert len(document["classes"]) == 10
    assert {"index", "label", "predicted", "probability", "loss"} == {
        key for mistake in document["mistakes"] for key in mistake
    }
    assert len(document["mistakes"]) == min(100, 77 - own.score.correct) > 0


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3), (28, 28, 2)])
def test_the_picture_shows_the_worst(
    shape: tuple[int, ...], image_set: MakeImageSet, tmp_path: Path
) -> None:
    pillow = pytest.importorskip("PIL.Image")
    train(image_set(shape=shape), tmp_path / "run", size=68)
    draw_mistakes(found(tmp_path / "run"), str(tmp_path / "worst.png"))
    with pillow.open(tmp_path / "worst.png") as picture:
        assert picture.width > 1000
    with pytest.raises(dc.InputError, match="--picture"):
        draw_mistakes(found(tmp_path / "run"), str(tmp_path / "no" / "worst.png"))


def test_without_mistakes_there_is_no_picture(
    run: Path, image_set: MakeImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, worst = tmp_path / "right.h5", tmp_path / "worst.png"
    shutil.copy(image_set(), data)
    images, _ = dc.datasets.open(data).read("test")
    with h5py.File(data, "r+") as file:
        file["test/labels"][...] = dc.load(run).predict(images).argmax(axis=1)
        del file.attrs["sha256"], file.attrs["blocks_sha256"]
    with threadpool_limits(1):
        evaluate_command(Communicator(), [str(run), "--data", str(data), "--picture", str(worst)])
    shown = capsys.readouterr()
    assert "no mistakes" in shown.out
    assert str(worst) in shown.err
    assert not worst.exists()


def test_flags_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(dc.InputError, match="no such folder"):
        parse(["run", "--picture", str(tmp_path / "no" / "x.png")])
    with pytest.raises(dc.InputError, match=r"x\.txt must end in \.png"):
        parse(["run", "--picture", str(tmp_path / "x.txt")])
    with pytest.raises(dc.InputError, match="--weights"):
        parse(["run", "--weights", "first"])


def test_why_the_image_set_is_not_known_is_said(copy: Path) -> None:
    (copy / "config.toml").unlink()
    with pytest.raises(dc.InputError, match=r"config\.toml.*--data"):
        found(copy)


def test_a_run_of_arrays_asks_for_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    part = rng.integers(0, 256, (60, 8, 8), np.uint8), np.arange(60) % 3
    trainer = dc.Trainer("mlp", num_shards=2, microbatch_size=4)
    trainer.fit((part, part), max_steps=1, output=tmp_path / "run")
    with pytest.raises(dc.InputError, match="arrays in memory: name a file"):
        found(tmp_path / "run")


def test_a_file_of_weights_is_called_what_it_is(run: Path) -> None:
    assert found(run / "weights-best.h5").weights == "best"
    assert found(run / "weights.h5").weights == "last"
    with pytest.raises(dc.InputError, match="last step, not the best"):
        found(run / "weights.h5", weights="best")
    assert found(run, weights="best").weights == "best"

"""Wrong flags: one line that suggests the right one, from every command."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from distcnn import convert, export, verify
from distcnn.benchmark import __main__ as of_benchmark
from distcnn.cli.parser import Parser, advice
from distcnn.config_parsing import CONFIG_FLAGS, make_parser, parse_request
from distcnn.datasets.commands import idx_command, images_command, mnist_command
from distcnn.doctor.__main__ import make_parser as doctor_parser
from distcnn.errors import InputError
from distcnn.evaluate import __main__ as of_evaluate
from distcnn.predict import __main__ as of_predict
from distcnn.report import __main__ as report_command
from distcnn.scaling import interconnect_test
from distcnn.scaling import options as of_scaling

GUESSES = {
    "--lr": "--learning-rate",
    "--batch-size": "--microbatch-size",
    "--epoch": "--epochs",
    "--n-epochs": "--epochs",
    "--learning_rate": "--learning-rate",
    "--Learning-Rate": "--learning-rate",
    "--learn": "--learning-rate",
    "--momentun": "--momentum",
    "--wd": "--weight-decay",
    "--optim": "--optimizer",
    "--dataset": "--data",
    "--out": "--output",
    "--warmup": "--warmup-steps",
    "--lr-scheduler": "--schedule",
    "-o": "--output",
    "--eval-eve": "--eval-every-epochs",
}


@pytest.mark.parametrize("flag", GUESSES)
@pytest.mark.parametrize("words", [["0.1"], []])
def test_a_wrong_flag_comes_with_a_guess(flag: str, words: list[str]) -> None:
    with pytest.raises(InputError, match=rf"^unknown flag {flag}: did you mean {GUESSES[flag]}\?"):
        parse_request(["--seed", "1", flag, *words])
    with pytest.raises(InputError, match=rf"^unknown flag {flag}: did you mean {GUESSES[flag]}\?"):
        parse_request([f"{flag}=0.1"])


def test_ranks_and_devices_are_not_flags() -> None:
    for flag in ("--workers", "--nproc", "-np", "--gpus"):
        assert "mpirun -n" in advice(flag, CONFIG_FLAGS)
    assert "CPUs only" in advice("--device", CONFIG_FLAGS)
    assert advice("--qwertyuiop", CONFIG_FLAGS) == ""


def test_every_guess_and_alias_names_a_flag_that_there_is() -> None:
    for flag, guess in GUESSES.items():
        assert guess in CONFIG_FLAGS.values(), flag


def test_every_flag_of_training_is_its_own_first_guess() -> None:
    known = [action.option_strings[-1] for action in make_parser()._actions]
    for flag in known:
        assert f"did you mean {flag}?" in advice(
            flag.replace("-", "_").replace("__", "--", 1), known
        )


@pytest.mark.parametrize(
    ("parser", "wrong", "guess"),
    [
        (verify.make_parser(), "--from", "--from-step"),
        (interconnect_test.make_parser(), "--second", "--seconds"),
        (doctor_parser(), "--thread-per-rank", "--threads-per-rank"),
        (report_command.make_parser(), "--out", "--output"),
        (of_benchmark.make_parser(), "--turn", "--turns"),
        (of_scaling.make_parser(), "--rank", "--ranks"),
    ],
)
def test_other_commands_guess_too(parser: Parser, wrong: str, guess: str) -> None:
    with pytest.raises(
        InputError,
        match=rf"unknown flag {wrong}: did you mean {guess}\? \(see {parser.prog} --help\)",
    ):
        parser.parse_args([wrong, "1"])


@pytest.mark.parametrize(
    ("command", "flag", "told"),
    [
        (of_predict, "--run", "the run directory first"),
        (of_evaluate, "--model", "the run directory first"),
        (export, "--output", "the file second"),
    ],
)
def test_what_is_named_without_a_flag(command: ModuleType, flag: str, told: str) -> None:
    with pytest.raises(InputError, match=f"{flag}: name {told}"):
        command.make_parser().parse_args(["a", "b", flag, "c"])


@pytest.mark.parametrize(
    ("parse", "words", "named"),
    [
        *(
            (parse_request, words, words[0].rstrip("="))
            for words in (["--freeze", ""], ["--freeze="], ["--map", ""], ["--data", ""])
        ),
        (parse_request, ["--seed", "1", "--resume", ""], "--resume"),
        (of_predict.make_parser().parse_args, ["runs/a", ""], "a name"),
        (of_evaluate.make_parser().parse_args, ["runs/a", "--data", ""], "--data"),
        (convert.make_parser().parse_args, ["", "--output", "a.h5"], "a name"),
        (convert.make_parser().parse_args, ["a.npz", "--output", ""], "--output"),
        (of_scaling.parse, ["--data", ""], "--data"),
    ],
)
def test_an_empty_name_is_refused(
    parse: Callable[[list[str]], object], words: list[str], named: str
) -> None:
    with pytest.raises(InputError, match=f"^{named} is empty"):
        parse(words)


def test_benchmark_and_scaling_guess_at_flags_of_training() -> None:
    for parse in (of_benchmark.parse, of_scaling.parse):
        with pytest.raises(InputError, match=r"unknown flag --lr: did you mean --learning-rate\?"):
            parse(["--lr", "1"])
        with pytest.raises(InputError, match=r"did you mean --eval-every-epochs\?"):
            parse(["--eval-eve", "1"])
    with pytest.raises(InputError, match="unknown flag --resume: to continue a sweep"):
        of_scaling.parse(["--resume", "x"])


def test_the_importers_say_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (mnist_command, idx_command, images_command):
        assert command(["folder", "--output", "x.h5", "--forse"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "unknown flag --forse" in error

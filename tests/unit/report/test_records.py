"""The report reads records, of runs that have not finished too, and refuses damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distcnn import plotting
from distcnn.report.__main__ import main
from distcnn.report.records import labels, read_history

LINES = [
    {"kind": "step", "step": 1, "loss": 2.0, "images_per_second": 100.0},
    {"kind": "step", "step": 2, "loss": 1.0, "images_per_second": 110.0},
    {"kind": "epoch", "step": 2, "test_accuracy": 0.5},
]


def make_run(folder: Path) -> str:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in LINES))
    return str(folder)


def test_it_draws_runs_even_of_the_same_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path / name) for name in ("a/run", "b/run", "$c")]
    assert main(runs) == 0
    assert "not finished" in (tmp_path / "a/run/report.html").read_text()
    assert "not finished" in capsys.readouterr().out
    picture = tmp_path / "curves.png"
    assert main([*runs, "--output", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert labels([Path(run) for run in runs]) == ["a/run", "b/run", "$c"]


def test_a_legend_has_runs_of_any_name() -> None:
    [axes] = plotting.panels(plotting.new_figure(2, 2), 1)
    for name in ("_run", "_$x", "a_b"):
        axes.plot([1], [1], label=plotting.literal(name))
    assert [text.get_text() for text in axes.legend().get_texts()] == [
        "$\\_$run",
        "$\\_$\\$x",
        "a_b",
    ]


@pytest.mark.parametrize("validated", [False, True])
def test_a_picture_has_the_curve_of_validation(validated: bool, tmp_path: Path) -> None:
    run, picture = make_run(tmp_path / "run"), tmp_path / "curves.svg"
    if validated:
        with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
            for step in (3, 4):
                line = {"kind": "epoch", "step": step, "validation_accuracy": 0.5}
                print(json.dumps(line), file=file)
    assert main([run, "--output", str(picture)]) == 0
    assert ("stroke-dasharray" in picture.read_text()) == validated


def test_a_history_is_what_the_metrics_say(tmp_path: Path) -> None:
    history = read_history(Path(make_run(tmp_path / "run")))
    assert history["loss"] == [(1, 2.0), (2, 1.0)]
    assert history["test_accuracy"] == [(2, 0.5)]
    assert history["images_per_second"] == [(1, 100.0), (2, 110.0)]


def test_a_folder_that_is_not_a_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "metrics.jsonl" in capsys.readouterr().err


def test_a_picture_does_not_follow_a_link(tmp_path: Path) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    run.mkdir()
    (run / "metrics.jsonl").write_text(
        '{"kind": "step", "step": 1, "loss": 1.0, "images_per_second": 2.0}\n'
    )
    victim.write_text("precious")
    (run / "report.html").symlink_to(victim)
    assert (main([str(run)]), victim.read_text()) == (2, "precious")
    assert main([str(run), "--output", str(tmp_path / "report.html")]) == 0


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "7",
        "{}",
        '{"kind": "step", "step": 1}',
        '{"kind": "step", "step": 1, "loss": "x"}',
        "[" * 99_999,
    ],
)
def test_damaged_metrics_are_one_line(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n")
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_result_that_is_damaged_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    for content in ("{", "[]", "{}", "null"):
        (tmp_path / "result.json").write_text(content)
        assert main([str(tmp_path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "result.json").unlink()
    (tmp_path / "metrics.jsonl").write_text("3\n")
    assert main([str(tmp_path)]) == 2

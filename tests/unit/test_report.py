"""The report draws a picture and says how runs ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcnn.report import main


def test_a_folder_that_is_no_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "holds no metrics.jsonl" in capsys.readouterr().err


def test_a_picture_does_not_follow_a_link(tmp_path: Path) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    run.mkdir()
    (run / "metrics.jsonl").write_text(
        '{"kind": "step", "step": 1, "loss": 1.0, "images_per_second": 2.0}\n'
    )
    victim.write_text("precious")
    (run / "report.png").symlink_to(victim)
    assert (main([str(run)]), victim.read_text()) == (2, "precious")
    assert main([str(run), "--output", str(tmp_path / "report.png")]) == 0


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

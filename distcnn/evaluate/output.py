"""What an evaluation found, as text, as JSON and as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np

from distcnn import plotting
from distcnn.datasets import HDF5Dataset
from distcnn.evaluate.evaluation import Evaluated
from distcnn.score import Score
from distcnn.system.wording import counted, printable, table, width_of

MOST_COLUMNS, WIDEST_COLUMN = 20, 8
"""Classes of a confusion matrix that is printed whole, and columns of a name above it."""
MOST_ROWS = 100
"""Classes of which precision and recall are printed."""
MISTAKES = 10
"""Mistakes and confusions that are printed."""
MOST_PICTURES, COLUMNS = 24, 6
LONGEST_NAME, LONGEST_BELOW = 24, 16
"""Columns of a class name in a table, and below a picture."""


def as_text(found: Evaluated) -> list[str]:
    """The lines to print."""
    score, names = found.score, [shortened(name) for name in found.class_names]
    low, high = score.interval
    lines = [
        f"{found.run} ({found.weights} weights) on {found.data}, {found.split} split",
        f"accuracy  {score.accuracy:.4f} ({score.correct:,} of {score.examples:,}), 95 % confidence"
        f" interval {low:.4f} to {high:.4f}",
        f"loss      {score.loss:.4f} (mean cross-entropy)",
    ]
    lines += ["", *table(class_rows(score, names))]
    if len(names) > MOST_ROWS:
        lines.append(f"the {MOST_ROWS} classes with the lowest F1; --json has all")
    if len(names) <= MOST_COLUMNS:
        lines += [
            "",
            "confusion matrix: a row for each true class, a column for each predicted one",
        ]
        heads = sides = names
        if max(map(width_of, names)) > WIDEST_COLUMN or len(set(names)) < len(names):
            sides = [f"{label} {name}" for label, name in enumerate(names)]
            heads = [str(label) for label in range(len(names))]
        lines += table([["", *heads], *matrix_rows(score, sides)])
    elif pairs := score.confusions(MISTAKES):
        lines += ["", "most frequent confusions"]
        rows = [[names[true], names[put], f"{count:,}"] for true, put, count in pairs]
        lines += table([["true", "predicted", "images"], *rows], left=2)
    if score.mistakes:
        lines += ["", f"worst mistakes (index in the {found.split_of_file} split of the file)"]
        rows = [["image", "true", "predicted", "probability", "loss"]]
        for mistake in score.mistakes[:MISTAKES]:
            shown = [f"{mistake.index}", names[mistake.label], names[mistake.predicted]]
            rows.append([*shown, f"{mistake.probability:.4f}", f"{mistake.loss:.4f}"])
        lines += table(rows, left=3)
    elif score.correct == score.examples:
        lines += ["", "no mistakes: every image is classified correctly"]
    return lines


def as_json(found: Evaluated) -> str:
    """One JSON document; null where a fraction is undefined."""
    score = found.score
    fractions = {"precision": score.precision, "recall": score.recall, "f1": score.f1}
    images = score.confusion.sum(axis=1).tolist()
    classes = [
        {"name": name, "images": images[label]}
        | {key: None if np.isnan(of[label]) else float(of[label]) for key, of in fractions.items()}
        for label, name in enumerate(found.class_names)
    ]
    document = {
        "run": found.run,
        "weights": found.weights,
        "data": found.data,
        "split": found.split,
        "is_runs_own": found.is_runs_own,
        "examples": score.examples,
        "correct": score.correct,
        "accuracy": score.accuracy,
        "interval": score.interval,
        "loss": score.loss,
        "classes": classes,
        "confusion": score.confusion.tolist(),
        "mistakes": [vars(mistake) for mistake in score.mistakes],
    }
    return json.dumps(document)


def draw_mistakes(found: Evaluated, output: str) -> None:
    """Draw the worst mistakes, each with its true class, and the predicted one's probability.

    There must be one at least.
    """
    mistakes = found.score.mistakes[:MOST_PICTURES]
    rows = -(-len(mistakes) // COLUMNS)
    title = (
        f"{found.run}: worst of {counted(found.score.examples - found.score.correct, 'mistake')}"
        f" on {counted(found.score.examples, 'image')} of the {found.split} split"
    )
    figure = plotting.new_figure(1.9 * COLUMNS, 2.5 * rows + 0.5, printable(title))
    panels = plotting.panels(figure, rows * COLUMNS, COLUMNS)
    dataset = HDF5Dataset(found.data)
    info = dataset.read_info()
    with closing(dataset.open(info)) as reader:
        for axes, mistake in zip(panels, mistakes, strict=False):
            images, _ = reader.load(found.split_of_file, range(mistake.index, mistake.index + 1))
            plotting.image(axes, images[0])
            true, put = (
                shortened(found.class_names[label], LONGEST_BELOW)
                for label in (mistake.label, mistake.predicted)
            )
            text = f"true {true}\npredicted {put}\n{mistake.probability:.1%}"
            axes.set_title(plotting.literal(text), fontsize=plotting.SMALL)
    for axes in panels:
        axes.set_axis_off()
    plotting.save(figure, output, "--picture")


def class_rows(score: Score, names: Sequence[str]) -> Iterator[list[str]]:
    """Rows on precision and recall: all classes in their order, or those with the lowest F1."""
    yield ["class", "images", "precision", "recall", "F1"]
    images = score.confusion.sum(axis=1)
    chosen: Iterable[int] = range(len(names))
    if len(names) > MOST_ROWS:
        chosen = np.argsort(score.f1, kind="stable")[:MOST_ROWS].tolist()
    for index in chosen:
        values = score.precision[index], score.recall[index], score.f1[index]
        shown = ["-" if math.isnan(value) else f"{value:.4f}" for value in values]
        yield [names[index], f"{images[index]:,}", *shown]


def matrix_rows(score: Score, names: Sequence[str]) -> Iterator[list[str]]:
    """Rows of the confusion matrix; a dot for zero."""
    for name, counts in zip(names, score.confusion.tolist(), strict=True):
        yield [name, *(f"{count}" if count else "." for count in counts)]


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """A class name for a table, without its middle if it is long."""
    text = printable(name)
    if width_of(text) <= longest:
        return text
    kept = longest // (4 if width_of(text) > len(text) else 2)
    return f"{text[: kept - 1]}…{text[-kept:]}"

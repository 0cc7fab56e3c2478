"""Pictures through a network, shared by all ranks, printed part by part in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from distcnn.datasets.fitting import Fitting
from distcnn.datasets.inputs import Inputs, Unreadable, find_inputs
from distcnn.distributed import Communicator, on_root, together
from distcnn.network import Network
from distcnn.predict.output import Format, Top
from distcnn.predictions import Predictions
from distcnn.system.console import say_all, tell
from distcnn.system.wording import counted, printable

MOST_MICROBATCHES = 16
"""Of a rank between two times that results are printed."""


@dataclass(frozen=True)
class Done:
    """Some images in order: what was predicted, what could not be read, what was done to them."""

    rows: list[tuple[str, Top]]
    unreadable: list[Unreadable]
    remarks: Counter[str]


def predict(
    communicator: Communicator,
    network: Network,
    fitting: Fitting,
    files: Sequence[str],
    split: str,
    top: int,
    form: Format,
) -> bool:
    """Predict the images in ``files``, and print their ``top`` classes. Collective.

    Each image is always at the same place of a microbatch, so the number of ranks changes no bit.

    Returns:
        Whether all could be read.
    """
    inputs = on_root(communicator, lambda: find_inputs(files, split, fitting))
    printer = Printer(form, inputs)
    on_root(communicator, printer.begin)
    for spans in shares(len(inputs), network.microbatch_size, communicator.world_size):
        work = partial(compute, network, fitting, inputs, top, spans[communicator.rank])
        parts = communicator.gather(together(communicator, work)) or []
        if not on_root(communicator, partial(printer.add, parts)):
            break  # nobody reads any more
    return on_root(communicator, lambda: printer.end(fitting))


def shares(images: int, microbatch_size: int, world_size: int) -> Iterator[list[range]]:
    """What each rank predicts, as evenly as can be, in rounds of a few microbatches."""
    rounds = -(-images // (MOST_MICROBATCHES * microbatch_size * world_size))
    parts = rounds * world_size
    bounds = [images * part // parts for part in range(parts)] + [images]
    for first in range(0, parts, world_size):
        yield [range(*bounds[part : part + 2]) for part in range(first, first + world_size)]


def compute(network: Network, fitting: Fitting, inputs: Inputs, top: int, span: range) -> Done:
    """Predict the images ``span``, in the microbatches of all images: this part may begin in the
    middle of one.
    """
    part = inputs.load(span, fitting)
    before = span.start % network.microbatch_size
    blank = np.zeros((before, *part.images.shape[1:]), np.uint8)
    probabilities = network.predict(np.concatenate([blank, part.images]))[before:]
    found = Predictions(tuple(part.names), probabilities, network.class_names)
    rows = enumerate(zip(part.names, found.top(top), strict=True))
    return Done(
        [row for place, row in rows if place not in part.unreadable],
        [Unreadable(part.names[place], reason) for place, reason in part.unreadable.items()],
        part.remarks,
    )


class Printer:
    """Prints, on root, what is done: results to standard output, all else to standard error."""

    def __init__(self, form: Format, inputs: Inputs) -> None:
        self._form, self._inputs = form, inputs
        self._unreadable: list[Unreadable] = []
        self._told: set[str] = set()
        self._remarks: Counter[str] = Counter()
        self._predicted, self._is_read = 0, True

    def begin(self) -> None:
        """What is known before the first image."""
        self._note(self._inputs.unreadable)
        self._say(self._form.head(self._inputs.longest_name()))

    def add(self, parts: Sequence[Done]) -> bool:
        """Print results; False when nobody reads them any more."""
        for done in parts:
            self._note(done.unreadable)
            self._remarks += done.remarks
            self._predicted += len(done.rows)
        return self._say([self._form.row(name, top) for done in parts for name, top in done.rows])

    def end(self, fitting: Fitting) -> bool:
        """Print notices and the rest; returns whether all could be read."""
        self._say(self._form.foot(self._unreadable))
        for notice in (*self._inputs.notices, *fitting.sentences(self._remarks)):
            tell(f"notice: {notice}")
        if (count := len(self._unreadable)) and self._predicted:
            total = count + self._predicted
            tell(f"distcnn.predict: error: {count:,} of {counted(total, 'picture')} not read")
        return not self._unreadable

    def _say(self, lines: Sequence[str]) -> bool:
        if lines and self._is_read:
            self._is_read = say_all(lines, raw=self._form.is_raw)
        return self._is_read

    def _note(self, unreadable: Sequence[Unreadable]) -> None:
        """Name what cannot be read; a reason that many images share only once."""
        self._unreadable += unreadable
        for each in unreadable:
            if each.reason not in self._told:
                self._told.add(each.reason)
                tell(f"distcnn.predict: error: {printable(each.reason)}")

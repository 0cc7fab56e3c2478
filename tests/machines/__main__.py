"""Train MNIST in portable arithmetic here, and compare the weights with the reference.

python -m tests.machines            whether this machine gives the hashes of all others
python -m tests.machines --table    the same in many environments, for docs/machines.md
python -m tests.machines --write    replace the reference: after a change of portable bits
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from distcnn.datasets.prepare_mnist import download_sample, write_sample
from distcnn.doctor.layers import layers_sha256
from distcnn.doctor.reference import FILE, Reference, Trained
from distcnn.system.host import processor
from tests.machines.measure import (
    DATA,
    FEW,
    MODELS,
    ROOT,
    STEPS,
    Measured,
    images_sha256,
    measure,
    synthetic_sha256,
    trained_here,
)

HEAD = ("environment", "machine", "NumPy", "BLAS", "steps", *MODELS, "native")
DIGITS = 8
NOT_MNIST = "data/mnist.h5 is not MNIST: python data/mnist.py makes it"
PAGES = ROOT / "README.md", ROOT / "docs" / "machines.md"


def write() -> int:
    """Make this machine's hashes the reference, also on the pages that have them."""
    old = Reference.read()
    if images_sha256() != old.mnist.images:
        print(NOT_MNIST, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.h5"
        write_sample(sample, download_sample())
        reference = Reference(trained(DATA), trained(sample), synthetic_sha256(), layers_sha256())
    FILE.write_text(json.dumps(dataclasses.asdict(reference), indent=2) + "\n")
    for page in PAGES:
        text = page.read_text()
        for model, hashes in old.mnist.weights.items():
            for steps, before in hashes.items():
                now = reference.mnist.weights[model][steps]
                text = text.replace(before, now).replace(before[:DIGITS], now[:DIGITS])
        page.write_text(text)
    return 0


def trained(data: Path) -> Trained:
    """What training on ``data`` gives."""
    found = {str(steps): measure(MODELS, steps, data=data).weights for steps in (FEW, STEPS)}
    weights = {model: {steps: found[steps][model] for steps in found} for model in MODELS}
    return Trained(images_sha256(data), weights)


def table() -> int:
    """Print a row for each environment; the exit code says whether all gave the reference."""
    from tests.machines.environments import TABLE, Unavailable  # needs pytest

    print(_row(HEAD), _row("---" for _ in HEAD), sep="\n")
    same = True
    for environment in TABLE:
        try:
            found = environment.measure()
        except Unavailable as reason:
            print(f"{environment}: {reason}", file=sys.stderr)
            continue
        print(_row(cells(environment.name, environment.steps, found)), flush=True)
        same &= not environment.problem(found) and not differences(found, environment.steps)
    return int(not same)


def here() -> int:
    """Compare this machine, as it is."""
    if not trained_here():
        print(NOT_MNIST, file=sys.stderr)
        return 2
    found = measure(MODELS, STEPS)
    print(_row(HEAD), _row("---" for _ in HEAD), sep="\n")
    print(_row(cells(processor(), STEPS, found)))
    wrong = differences(found, STEPS)
    print("\n".join(wrong) or f"the reference hashes of {', '.join(MODELS)}, {STEPS} steps")
    return int(bool(wrong))


def differences(found: Measured, steps: int) -> list[str]:
    """A line for each network whose weights are not those of the reference."""
    reference = trained_here()
    assert reference is not None, NOT_MNIST
    expected = reference.weights
    return [
        f"{model}: weights {sha256}, not {expected[model][str(steps)]}"
        for model, sha256 in found.weights.items()
        if sha256 != expected[model][str(steps)]
    ]


def cells(name: str, steps: int, found: Measured) -> Iterator[str]:
    """A row of the table."""
    facts = found.facts
    machine = f"{facts.machine}, {facts.bits} bits, {facts.byte_order}-endian"
    yield from (name, machine, facts.numpy, facts.blas, str(steps))
    for model in MODELS:
        yield found.weights[model][:DIGITS] if model in found.weights else ""
    yield found.native[:DIGITS]


def _row(values: Iterator[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(values)} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.machines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--table", action="store_true")
    action.add_argument("--write", action="store_true")
    given = parser.parse_args()
    return write() if given.write else table() if given.table else here()


if __name__ == "__main__":
    sys.exit(main())

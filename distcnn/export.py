"""Write a trained network for other programs: ``python -m distcnn.export RUN model.onnx``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn.cli.parser import RUN_FIRST, Parser
from distcnn.errors import InputError
from distcnn.interop.exporting import FORMATS, PIXEL_TYPES, Exported, export
from distcnn.interop.facts import normalisation_in
from distcnn.interop.pytorch import module_lines
from distcnn.system.console import guarded, say, tell
from distcnn.system.wording import counted, first_few, printable

MOST_CLASSES = 10


@guarded()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    try:
        args = make_parser().parse_args(arguments)
        given = {"weights": args.weights, "trust_model": args.trust_model}
        exported = export(args.run, args.file, pixel_type=args.pixel_type, **given)
        say(*map(printable, summary(exported, args.pixel_type)))
    except InputError as error:
        tell(f"distcnn.export: error: {printable(str(error))}")
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = Parser(
        prog="python -m distcnn.export",
        instead=RUN_FIRST | dict.fromkeys(("output", "o"), "name the file second, without a flag"),
        description=(
            "Write the network of a run for other programs. The suffix of FILE is the format:"
            f" {', '.join(f'{suffix} ({name})' for suffix, name in FORMATS.items())}. An ONNX model"
            " takes raw pixels and gives the probabilities of the classes; the others hold the"
            " weights, by name and in PyTorch's shapes."
        ),
    )
    pixels = "type of an ONNX model's input; either holds 0 to 255 (default: uint8)"
    parser.add_network()
    parser.add_argument("file", type=Path, metavar="FILE", help="the file to write")
    parser.add_argument("--pixel-type", choices=PIXEL_TYPES, default="uint8", help=pixels)
    return parser


def summary(exported: Exported, pixel_type: str) -> Iterator[str]:
    """What was written, in lines."""
    facts, model = exported.facts, exported.model
    names, shape = facts["class_names"], "x".join(map(str, facts["image_shape"]))
    yield f"wrote    {exported.path} ({exported.format}, {exported.size_bytes:,} bytes)"
    accuracy = f", test accuracy {facts['test_accuracy']:.4f}" if "test_accuracy" in facts else ""
    yield (
        f"network  {counted(len(model.layers), 'layer')},"
        f" {counted(exported.parameters, 'parameter')}, of step {facts.get('step')}{accuracy}"
    )
    by_pixel = f"(pixel / 255 - mean) / std, mean/std {normalisation_in(facts)}"
    if exported.format == FORMATS[".onnx"]:
        yield f"input    pixels {pixel_type} (N, {shape.replace('x', ', ')}), 0 to 255, any N"
        yield f"         (the graph computes {by_pixel})"
        yield f"output   probabilities, logits: float32 (N, {len(names)})"
    else:
        arrays = [f"{name} {values.shape}" for name, values in exported.weights.items()]
        yield f"arrays   {first_few(arrays, 20)}"
        yield f"input    float32 (N, {shape.replace('x', ', ')}), normalised: {by_pixel}"
        yield f"output   logits (N, {len(names)})"
    yield f"classes  {first_few(names, MOST_CLASSES)}"
    if exported.format == FORMATS[".pt"]:
        yield "to use it in PyTorch:"
        yield "import collections, torch"
        yield from module_lines(model, facts["image_shape"])
        yield f"model.load_state_dict(torch.load({str(exported.path)!r}, weights_only=True))"


if __name__ == "__main__":
    sys.exit(main())

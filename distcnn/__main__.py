"""The console command: ``distcnn train ...`` is ``python -m distcnn.train ...``."""

from __future__ import annotations

import runpy
import sys

COMMANDS = {
    "train": "train a network, alone or under mpirun",
    "convert": "make an image set from IDX, CSV, .npz, .mat, Parquet ..., or folders of images",
    "evaluate": "test a trained network: accuracy, confusion matrix, mistakes",
    "predict": "say what pictures show, with a trained network",
    "export": "write a trained network for ONNX, PyTorch or NumPy",
    "verify": "replay a run and compare every recorded number; compare two runs",
    "report": "write a web page on one or more runs",
    "doctor": "check the installation, the machine and MPI",
    "benchmark": "measure where the time of a step goes",
    "scaling": "measure speed on 1, 2, 4 ... ranks, and predict more",
}


USAGE = """usage: distcnn COMMAND [flags]

Data-parallel training of CNNs, the same bits on any number of ranks.

{}

distcnn COMMAND --help shows the flags of a command. From Python: import distcnn.
On several ranks: mpirun -n 4 distcnn train, or mpirun -n 4 python -m distcnn.train."""


def main() -> int:
    """Run a command; the exit code is 2 if it does not exist."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        lines = [f"  {name:<10} {summary}" for name, summary in COMMANDS.items()]
        print(USAGE.format("\n".join(lines)))
        return 0
    if name == "--version":
        from distcnn import __version__

        print(f"distcnn {__version__}")
        return 0
    if name not in COMMANDS:
        text = f"distcnn: error: unknown command {name!r}: choose one of {', '.join(COMMANDS)}"
        print(text, file=sys.stderr)
        return 2
    sys.argv[1:] = arguments
    runpy.run_module(f"distcnn.{name}", run_name="__main__", alter_sys=True)
    return 0  # not reached: a command ends with sys.exit


if __name__ == "__main__":
    sys.exit(main())

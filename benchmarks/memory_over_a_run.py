"""Memory over a run: ``python benchmarks/memory_over_a_run.py --ranks 4 --epochs 20 [flags of
distcnn.train]`` (Linux).

Starts the run under mpirun, looks at its ranks now and then, and prints after each epoch the most
that the largest of them has had in memory (VmHWM) and what it has now (VmRSS). What a peak consists
of: ``mpirun -n 4 python -m distcnn.benchmark``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MIB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Memory of the largest rank after each epoch of a run."
    )
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument(
        "--launcher", default="mpirun -n", help="is followed by the number of ranks"
    )
    args, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        train = [
            sys.executable,
            "-m",
            "distcnn.train",
            "--epochs",
            str(args.epochs),
            "--output",
            str(run),
            *flags,
        ]
        process = subprocess.Popen(
            [*args.launcher.split(), str(args.ranks), *train], stdout=subprocess.DEVNULL
        )
        try:
            return watch(process, run / "metrics.jsonl")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def watch(process: subprocess.Popen[bytes], metrics: Path) -> int:
    """Print a line for each epoch; the exit code of the run."""
    seen, ranks = 0, list[dict[str, int]]()
    while process.poll() is None:
        time.sleep(0.1)
        ranks = [memory for pid in descendants(process.pid) if (memory := memory_of(pid))] or ranks
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        epochs = sum(json.loads(line)["kind"] == "epoch" for line in lines)
        if epochs > seen and ranks:
            seen = epochs
            peak, now = (max(each[key] for each in ranks) / MIB for key in ("VmHWM", "VmRSS"))
            print(
                f"epoch {seen}: largest of {len(ranks)} ranks: peak {peak:.1f} MiB, now"
                f" {now:.1f} MiB",
                flush=True,
            )
    return process.returncode


def descendants(pid: int) -> list[int]:
    """The processes that ``pid`` started, and theirs."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found += [child, *descendants(child)]
    return found


def memory_of(pid: int) -> dict[str, int]:
    """Bytes of a rank of ours, by their names in /proc; empty for another process, or for one that
    has ended.
    """
    try:
        if (
            b"distcnn.train" not in Path(f"/proc/{pid}/cmdline").read_bytes()
            or b"mpi" in Path(f"/proc/{pid}/comm").read_bytes()
        ):
            return {}
        rows = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    except OSError:
        return {}
    return {
        row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if row[0] in ("VmHWM:", "VmRSS:")
    }


if __name__ == "__main__":
    sys.exit(main())

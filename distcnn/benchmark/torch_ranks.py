"""Starts the processes of the PyTorch peer: ``python -m distcnn.benchmark.torch_ranks '{"data":
..., "processes": 2, ...}'``.

PyTorch's own launcher listens on all networks. These processes find each other through a file, and
gloo stays on loopback.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAP_SECONDS = 0.02


def main(asked: str) -> int:
    """Start every process and wait for all; the exit code of the first that fails, which ends the
    others.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = (Path(folder) / "store").as_uri()
        command = [sys.executable, "-m", "distcnn.benchmark.torch_peer", asked, store]
        ranks = [
            subprocess.Popen([*command, str(rank)])
            for rank in range(json.loads(asked)["processes"])
        ]
        try:
            while None in (codes := [each.poll() for each in ranks]) and not any(codes):
                time.sleep(NAP_SECONDS)
        finally:
            for each in ranks:
                each.kill()
                each.wait()
        return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""Continue a run, load its network, and replay it to prove what it computed.

Killed and started again, the script continues where it was; --max-steps may grow.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import distcnn as dc

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", default="data/mnist.h5", help="image set in HDF5")
parser.add_argument("--output", default="runs/resumed", help="run directory")
parser.add_argument("--max-steps", type=int, default=40)
args = parser.parse_args()

trainer = dc.Trainer("tutorial", seed=1)
settings = {"output": args.output, "resume": True, "checkpoint_every": 20}
if not Path(args.output, "result.json").exists():
    half = trainer.fit(args.data, max_steps=args.max_steps // 2, **settings)
    if trainer.is_root:
        print(f"stopped after {half.steps} steps")
whole = trainer.fit(args.data, max_steps=args.max_steps, **settings)
at_once = trainer.fit(args.data, max_steps=args.max_steps)
assert whole.params_sha256 == at_once.params_sha256, "a resumed run has the same weights"

if trainer.is_root:
    network = dc.load(args.output)
    images, labels = dc.datasets.open(args.data).read("test")
    print(f"test accuracy {network.evaluate(images, labels).accuracy} after {whole.steps} steps")
    if trainer.world_size == 1:
        sys.exit(subprocess.call([sys.executable, "-m", "distcnn.verify", args.output]))

"""Compare learning rates, and draw the curves of the runs in one picture.

python -m distcnn.report RUN ... draws them too; this shows how to read the records.
"""

import argparse
import json
from pathlib import Path

import distcnn as dc

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", default="data/mnist.h5", help="image set in HDF5")
parser.add_argument("--output", default="runs/rates", help="folder of the runs")
parser.add_argument("--max-steps", type=int, default=300)
args = parser.parse_args()

curves = {}
for rate in (0.003, 0.03):
    folder = Path(args.output) / f"{rate}"
    trainer = dc.Trainer("tutorial", optimizer=dc.optim.SGD(learning_rate=rate, momentum=0.9))
    trainer.fit(args.data, max_steps=args.max_steps, output=folder, resume=True, log_every=10)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    curves[rate] = [(line["step"], line["loss"]) for line in lines if line["kind"] == "step"]

if trainer.is_root:
    import matplotlib.pyplot as plt

    for rate, points in curves.items():
        plt.plot(*zip(*points, strict=True), label=f"learning rate {rate}")
    plt.xlabel("step")
    plt.ylabel("training loss")
    plt.legend()
    plt.savefig(Path(args.output) / "curves.png", dpi=120)
    print(f"drew {Path(args.output) / 'curves.png'}")

"""Fine-tune: learn the digits 5 to 9 from a few images, starting from a network that knows 0 to 4.

Compared with random first weights. The convolutions keep what they have learned (freeze).
"""

import argparse
from pathlib import Path

import numpy as np

import distcnn as dc

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", default="data/mnist.h5", help="image set in HDF5")
parser.add_argument("--output", default="runs/fine-tuning", help="folder of the runs")
parser.add_argument("--examples", type=int, default=100, help="training images of 5 to 9")
parser.add_argument("--max-steps", type=int, default=300)
args = parser.parse_args()

dataset = dc.datasets.open(args.data)
train, test = dataset.read("train"), dataset.read("test")


def digits(first, most=None):
    """The digits ``first`` to ``first + 4``, with at most ``most`` training images."""
    arrays = []
    for (images, labels), count in ((train, most), (test, None)):
        chosen = np.flatnonzero(labels // 5 == first // 5)[:count]
        arrays += [images[chosen], labels[chosen] - first]
    names = [str(digit) for digit in range(first, first + 5)]
    return dc.datasets.ArrayDataset(*arrays, class_names=names)


optimizer = dc.optim.SGD(learning_rate=0.01, momentum=0.9)
steps = {"max_steps": args.max_steps, "epochs": 1000, "eval_every_epochs": 0}
known = Path(args.output) / "0-4"
dc.Trainer("lenet", optimizer=optimizer).fit(digits(0), output=known, **steps)

few = digits(5, args.examples)
starts = {"random weights": {}, "the network for 0 to 4": {"initial_weights": known}}
starts["the same, convolutions frozen"] = {"initial_weights": known, "freeze": "conv*"}
for name, start in starts.items():
    trainer = dc.Trainer("lenet", optimizer=optimizer, microbatch_size=4, **start)
    run = trainer.fit(few, **steps)
    if trainer.is_root:
        print(f"test accuracy {run.test_accuracy:.4f} from {name}, weights {run.params_sha256}")

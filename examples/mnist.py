"""Train on MNIST and predict, from Python.

python examples/mnist.py, or on four ranks: mpirun -n 4 python examples/mnist.py
"""

import argparse

import distcnn as dc

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", default="data/mnist.h5", help="image set in HDF5")
parser.add_argument("--max-steps", type=int, default=0, help="stop early; 0: no limit")
parser.add_argument("--output", help="run directory, new or empty")
args = parser.parse_args()

trainer = dc.Trainer("lenet", optimizer=dc.optim.SGD(learning_rate=0.03, momentum=0.9))
run = trainer.fit(args.data, epochs=1, max_steps=args.max_steps, output=args.output)
if trainer.is_root:
    print(f"test accuracy {run.test_accuracy:.4f}, weights {run.params_sha256}")
    images, labels = dc.datasets.open(args.data).read("test")
    probabilities = run.network.predict(images[:5])
    print("predicted", probabilities.argmax(axis=1).tolist(), "true", labels[:5].tolist())

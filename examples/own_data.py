"""Train on NumPy arrays: colour images of two classes, made up here."""

import argparse

import numpy as np

import distcnn as dc
from distcnn import nn


def make_images(count, seed):
    """Noise of 16x16 RGB; a brighter left half is class 0, a brighter right half class 1."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    images = rng.integers(0, 150, (count, 16, 16, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 8 * label : 8 * label + 8] += 60
    return images, labels


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=8)
args = parser.parse_args()

train, test = make_images(2000, seed=0), make_images(500, seed=1)
images = dc.datasets.ArrayDataset(*train, *test, class_names=["left", "right"])
model = nn.Sequential([nn.Conv2d(8, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Dense(2)])
trainer = dc.Trainer(model, optimizer=dc.optim.Adam(learning_rate=0.002))
run = trainer.fit(images, epochs=args.epochs)
if trainer.is_root:
    names = run.network.class_names
    print(images)
    print([names[label] for label in run.network.predict(test[0][:4]).argmax(axis=1)])
    print(f"test accuracy {run.test_accuracy:.4f}, weights {run.params_sha256}")

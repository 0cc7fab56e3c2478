"""A layer, an optimizer and a callback of your own: dropout, sign descent and a list of losses.

Random numbers come from ``call.random``, which is keyed by seed, epoch, step, shard and layer: the
weights are the same bits on any number of ranks.
"""

import argparse
from dataclasses import dataclass

import numpy as np

import distcnn as dc
from distcnn import nn


class Dropout(nn.Layer):
    """Sets each input to zero with probability ``rate`` in training (Srivastava et al. 2014)."""

    def __init__(self, rate):
        self.rate = rate

    def output_shape(self, input_shape):
        return input_shape

    def forward(self, x, call):
        call.saved = None
        if not call.training:
            return x
        kept = call.random.random(x.shape) >= self.rate
        call.saved = kept.astype(x.dtype) / x.dtype.type(1 - self.rate)
        return x * call.saved

    def backward(self, grad_output, call):
        return grad_output if call.saved is None else grad_output * call.saved


@dataclass(frozen=True)
class SignDescent(dc.optim.Optimizer):
    """Steps of one size, in the direction of each gradient's sign (Riedmiller and Braun 1993)."""

    def update(self, values, grads, state, learning_rate, step, scratch):
        values -= np.multiply(np.sign(grads), learning_rate, out=scratch)


class Losses(dc.Callback):
    """Keeps the loss of every step."""

    def __init__(self):
        self.losses = []

    def on_step(self, step, loss):
        self.losses.append(loss)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="data/mnist.h5", help="image set in HDF5")
    parser.add_argument("--max-steps", type=int, default=200)
    args = parser.parse_args()

    model = nn.Sequential([nn.Flatten(), nn.Dense(100), nn.ReLU(), Dropout(0.2), nn.Dense(10)])
    trainer = dc.Trainer(model, optimizer=SignDescent(learning_rate=0.001))
    losses = Losses()
    run = trainer.fit(args.data, max_steps=args.max_steps, callbacks=[losses])
    if trainer.is_root:
        print(model)
        print(f"loss {losses.losses[0]:.3f} at first, {losses.losses[-1]:.3f} at last")
        print(f"test accuracy {run.test_accuracy:.4f}, weights {run.params_sha256}")


if __name__ == "__main__":
    main()

"""Prepare MNIST: python data/mnist.py [--source DIR] [--output data/mnist.h5]"""

import sys

from distcnn.datasets.commands import mnist_command

if __name__ == "__main__":
    sys.exit(mnist_command(sys.argv[1:]))

"""The maths: layers, losses, initialisers, networks. NumPy only; no ranks, files or flags.

A layer (``layer.py``; one file for each family) is a description. ``Sequential`` is a list of them,
``Parameters`` holds their values, and a ``Plan`` runs them for one shape of microbatch, with the
kernels (``kernels/``) that it chooses. ``reference.py`` is a textbook that only the tests use.
"""

from distcnn.nn import portable
from distcnn.nn.activations import Activation, Identity, ReLU, Sigmoid, Tanh
from distcnn.nn.convolution import Conv2d
from distcnn.nn.dense import Dense, Flatten
from distcnn.nn.gradient_check import gradient_error, loss_gradient_error
from distcnn.nn.layer import Call, Layer, Parameter, RandomSource
from distcnn.nn.losses import LOSSES, softmax_cross_entropy, squared_error
from distcnn.nn.numpy_settings import numpy_settings
from distcnn.nn.parameters import Parameters, glorot_uniform, he_normal, uniform, zeros
from distcnn.nn.plan import ARITHMETICS, NATIVE, PORTABLE, Plan
from distcnn.nn.pooling import AvgPool2d, MaxPool2d
from distcnn.nn.sequential import Sequential

__all__ = [
    "ARITHMETICS",
    "LOSSES",
    "NATIVE",
    "PORTABLE",
    "Activation",
    "AvgPool2d",
    "Call",
    "Conv2d",
    "Dense",
    "Flatten",
    "Identity",
    "Layer",
    "MaxPool2d",
    "Parameter",
    "Parameters",
    "Plan",
    "RandomSource",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "glorot_uniform",
    "gradient_error",
    "he_normal",
    "loss_gradient_error",
    "numpy_settings",
    "portable",
    "softmax_cross_entropy",
    "squared_error",
    "uniform",
    "zeros",
]

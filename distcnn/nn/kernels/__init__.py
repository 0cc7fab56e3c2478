"""The engine: how layers are computed fast; ``distcnn.nn.reference`` says what they compute.

``distcnn.nn.plan`` decides which kernel runs which layer, and calls them. A kernel is made for one
shape, with all its buffers. What a call returns is one of them, or a view of one, and holds until
its next call. It changes neither its input nor the gradient it is given, unless the plan allows it,
and nobody else changes its input before its ``backward`` returns.

The convolution is in several files. Read ``algorithms.py`` (im2col and Winograd, with the letters
that all of them use), ``blocking.py`` (in which pieces), ``steps.py`` (what is done to a piece) and
``convolution.py`` (which does it), in that order; ``im2col.py``, ``winograd.py`` and ``fusion.py``
implement the steps.
"""

"""The engine: how convolution, pooling and memory are made fast.

``distcnn.nn.reference`` says what they compute.
"""

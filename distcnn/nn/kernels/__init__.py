"""The engine: how layers are computed fast; ``distcnn.nn.reference`` says what they compute.

``distcnn.nn.planner`` decides which kernel runs which layer. Begin reading with ``convolution.py``.
"""

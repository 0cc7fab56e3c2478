"""Readers for image sets in the formats of other programs (``python -m distcnn.convert``)."""

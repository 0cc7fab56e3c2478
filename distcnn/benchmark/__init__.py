"""``python -m distcnn.benchmark``: where the time of a training step goes (docs/speed.md)."""

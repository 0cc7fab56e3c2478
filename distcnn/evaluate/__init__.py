"""The command ``python -m distcnn.evaluate``: how well a trained network does on an image set."""

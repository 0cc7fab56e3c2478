"""The command ``python -m distcnn.predict``: what a trained network says about pictures."""

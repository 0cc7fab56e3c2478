"""From a sweep on few ranks to step times on many: ``python -m distcnn.scaling --predict``.

``docs/prediction.md`` has the model. Nothing here starts a rank.
"""

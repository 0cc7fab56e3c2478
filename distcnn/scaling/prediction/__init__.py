"""From a sweep on few ranks to times on many: what ``python -m distcnn.scaling --predict`` does.
``docs/prediction.md`` has the model.

Pure functions, but for reading a network's file. Nothing here starts a rank.
"""

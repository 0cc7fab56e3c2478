"""``python -m distcnn.scaling``: start points through a launcher, record, summarise, draw.

The sweep is one process without MPI. Only ``worker.py`` runs on the ranks of a point.
"""

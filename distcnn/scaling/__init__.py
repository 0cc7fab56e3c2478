"""What ``python -m distcnn.scaling`` does: points in order, each started by a launcher; records,
summary, table, picture.

The sweep is one process without MPI. ``ranks.py`` alone runs on the ranks of a point; it is started
by the sweep, not by hand.
"""

"""What ends a run before its time, and how it is told: signals, failures, stalls.

``early`` is used before NumPy is there: nothing is imported here.
"""

"""Training: what composes maths, ranks and data.

A ``session`` makes a run from a configuration (``setup``, ``data``) and takes it through the
``loop``: ``step`` by step, then ``evaluation``, records (``run_directory``) and ``checkpointing``.
``trainer`` is its face in Python; ``resume`` and ``replay`` begin with what a run has recorded.
"""
